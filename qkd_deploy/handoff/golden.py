"""Golden inputs as files: noise that every machine can make, images of a data set, and what must come out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.export.targets.record import End
from qkd_deploy.handoff.product import Product
from qkd_deploy.verification.source import from_dataset

Runs = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""From a batch of inputs to the outputs."""


@dataclass(frozen=True)
class GoldenSet:
    """Some inputs, in the network's order, and the outputs that belong to them."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


def golden_sets(product: Product, run: Runs, data: ImageDataset | None, images: int) -> dict[str, GoldenSet]:
    """The golden sets of a bundle by name.

    Args:
        product: what is handed over.
        run: computes its outputs.
        data: the first images of its held-out part become a set, too.
        images: how many.

    Raises:
        UserError: as ``from_dataset``.
    """
    sets = {}
    golden = product.metadata.golden
    if golden is not None:
        sets["noise"] = GoldenSet(golden.inputs, _outputs(run, golden.inputs))
    if data is not None:
        source = from_dataset(product.stub, product.metadata, data, "test", images)
        batches = [[batch.feeds[end.name] for end in product.inputs] for batch in source.batches(images)]
        inputs = tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        sets["images"] = GoldenSet(inputs, _outputs(run, inputs))
    return sets


def golden_files(sets: Mapping[str, GoldenSet], outputs: Sequence[End]) -> Iterator[tuple[str, bytes]]:
    """Files of golden sets by their names in a bundle."""
    for name, golden in sets.items():
        for place, array in enumerate(golden.inputs):
            yield f"golden/{name}/input_{place}.npy", _npy(array)
        for place, (array, end) in enumerate(zip(golden.outputs, outputs, strict=True)):
            yield f"golden/{name}/output_{place}.npy", _npy(array)
            yield f"golden/{name}/codes_{place}.npy", _npy(codes_of(array, end.scale))


def codes_of(values: np.ndarray, scale: float | None) -> np.ndarray:
    """Values of an output in steps of its grid, int32, from where zero is; as they are where they are on no grid."""
    if scale is None:
        return values
    return np.asarray(np.rint(values.astype(np.float64) / scale).astype(np.int32))


def _outputs(run: Runs, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(map(np.asarray, run(inputs)))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
