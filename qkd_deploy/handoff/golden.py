"""Golden inputs as files: noise that every machine can make, images of a data set, and what must come out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.export.targets.record import End
from qkd_deploy.export.targets.steps import whole_steps
from qkd_deploy.handoff.product import Product
from qkd_deploy.verification.source import from_dataset

Runs = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""From a batch of inputs to the outputs."""
Decodes = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""From the outputs of the model to what the file that decodes makes of them."""


@dataclass(frozen=True)
class GoldenSet:
    """Some inputs, in the network's order, the outputs that belong to them, and what these are decoded to."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    decoded: tuple[np.ndarray, ...] = ()


def golden_sets(
    product: Product, run: Runs, data: ImageDataset | None, images: int, decode: Decodes | None = None
) -> dict[str, GoldenSet]:
    """The golden sets of a bundle by name.

    Args:
        product: what is handed over.
        run: computes its outputs.
        data: the first images of its held-out part become a set, too.
        images: how many.
        decode: decodes the outputs, where another file does.

    Raises:
        UserError: as ``from_dataset``.
    """
    sets = {}
    golden = product.metadata.golden
    if golden is not None:
        sets["noise"] = _golden_set(golden.inputs, run, decode)
    if data is not None:
        source = from_dataset(product.stub, product.metadata, data, "test", images)
        batches = [[batch.feeds[end.name] for end in product.inputs] for batch in source.batches(images)]
        inputs = tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        sets["images"] = _golden_set(inputs, run, decode)
    return sets


def golden_files(sets: Mapping[str, GoldenSet], outputs: Sequence[End]) -> Iterator[tuple[str, bytes]]:
    """Files of golden sets by their names in a bundle."""
    for name, golden in sets.items():
        for place, array in enumerate(golden.inputs):
            yield f"golden/{name}/input_{place}.npy", _npy(array)
        for place, (array, end) in enumerate(zip(golden.outputs, outputs, strict=True)):
            yield f"golden/{name}/output_{place}.npy", _npy(array)
            yield f"golden/{name}/codes_{place}.npy", _npy(codes_of(array, end.scale))
        for place, array in enumerate(golden.decoded):
            yield f"golden/{name}/decoded_{place}.npy", _npy(array)


def codes_of(values: np.ndarray, scale: float | None) -> np.ndarray:
    """Values of an output in steps of its grid, int32, from where zero is; as they are where they are on no grid."""
    return values if scale is None else whole_steps(values, scale).astype(np.int32)


def _golden_set(inputs: Sequence[np.ndarray], run: Runs, decode: Decodes | None) -> GoldenSet:
    outputs = tuple(map(np.asarray, run(inputs)))
    return GoldenSet(tuple(inputs), outputs, () if decode is None else tuple(map(np.asarray, decode(outputs))))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
