"""Where the inputs of a verification come from: a data set or arrays, in batches that fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata

if TYPE_CHECKING:
    from qkd_deploy.data.dataset import ImageDataset


@dataclass(frozen=True)
class Batch:
    """Inputs of the ONNX model by name, the same as normalised floats in order (for torch), and labels if known."""

    feeds: dict[str, np.ndarray]
    floats: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None


class Source:
    """Streams batches; ``arrays`` holds one array per graph input, in order, with equal first dimensions.

    Images (uint8) are normalised for a model with float inputs, and normalised floats become pixels for one with uint8
    inputs, so the same data serve both.

    Raises:
        UserError: number, types or shapes of the arrays do not fit the model's inputs.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        metadata: Metadata,
        arrays: tuple[np.ndarray, ...],
        labels: np.ndarray | None = None,
    ) -> None:
        self._inputs = list(model.graph.input)
        normalization = metadata.normalization or {}
        self._mean, self._std = float(normalization.get("mean", 128)), float(normalization.get("std", 64))
        self._arrays, self._labels = arrays, labels
        self._check()

    @property
    def images(self) -> int:
        """Number of samples."""
        return len(self._arrays[0])

    @property
    def labelled(self) -> bool:
        """Whether labels are known."""
        return self._labels is not None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the first input."""
        return self._arrays[0].shape[1:]

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of at most ``size`` samples, in order, of the first ``limit`` samples."""
        end = self.images if limit is None else min(limit, self.images)
        for start in range(0, end, size):
            part = slice(start, min(start + size, end))
            floats = tuple(self._normalised(array[part]) for array in self._arrays)
            feeds = {
                value.name: self._pixels(number) if _is_uint8(value) else number
                for value, number in zip(self._inputs, floats, strict=True)
            }
            yield Batch(feeds, floats, None if self._labels is None else self._labels[part])

    def _normalised(self, array: np.ndarray) -> np.ndarray:
        if array.dtype == np.uint8:
            return (array.astype(np.float32) - np.float32(self._mean)) / np.float32(self._std)
        return np.ascontiguousarray(array, np.float32)

    def _pixels(self, floats: np.ndarray) -> np.ndarray:
        pixels = np.rint(floats * np.float32(self._std) + np.float32(self._mean))
        return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _check(self) -> None:
        if len(self._arrays) != len(self._inputs):
            names = ", ".join(value.name for value in self._inputs)
            raise UserError(f"the model has the inputs {names}; give one array for each, not {len(self._arrays)}")
        for value, array in zip(self._inputs, self._arrays, strict=True):
            wanted = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
            found = list(array.shape)
            fits = len(found) == len(wanted) and all(w in (None, f) for w, f in zip(wanted[1:], found[1:], strict=True))
            if not fits:
                expected = "x".join("N" if size is None else str(size) for size in wanted)
                shape = "x".join(map(str, found)) or "a single number"
                raise UserError(f"the model's input {value.name} is {expected}, but the data are {shape}")
            if array.dtype != np.uint8 and array.dtype.kind != "f":
                raise UserError(
                    f"the data for input {value.name} are {array.dtype}; give uint8 pixels or float32 values"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UserError(f"the data for input {value.name} hold NaN or infinite values; remove them")
        if len({len(array) for array in self._arrays}) != 1 or not self.images:
            raise UserError("the arrays must hold the same number of samples, at least one")


def from_dataset(
    model: onnx.ModelProto, metadata: Metadata, data: ImageDataset, split: str, limit: int | None
) -> Source:
    """The first ``limit`` images of a split (all by default).

    Raises:
        UserError: unknown split, or images or classes that do not fit the model.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}; choose train or test")
    if limit is not None and limit < 1:
        raise UserError(f"cannot verify on {limit} images; give a limit of at least 1")
    part = data.train if split == "train" else data.test
    outputs = _classes_of(model, metadata)
    if outputs is not None and outputs != len(data.classes):
        raise UserError(f"the model has {outputs} outputs, but data set {data.name} has {len(data.classes)} classes")
    images, labels = part.images[:limit].cpu().numpy(), part.labels[:limit].cpu().numpy()
    return Source(model, metadata, (images,), labels)


def from_arrays(
    model: onnx.ModelProto, metadata: Metadata, inputs: np.ndarray | Mapping[str, np.ndarray], limit: int | None
) -> Source:
    """One array for a model with one input, or arrays by input name.

    Raises:
        UserError: names, types or shapes that do not fit the model's inputs.
    """
    if isinstance(inputs, Mapping):
        names = [value.name for value in model.graph.input]
        unknown = sorted(set(inputs) ^ set(names))
        if unknown:
            raise UserError(
                f"the model has the inputs {', '.join(names)}; the data disagree about {', '.join(unknown)}"
            )
        return Source(model, metadata, tuple(np.asarray(inputs[name])[:limit] for name in names))
    return Source(model, metadata, (np.asarray(inputs)[:limit],))


def _classes_of(model: onnx.ModelProto, metadata: Metadata) -> int | None:
    """Number of classes that the file states, in its output shape or its metadata."""
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    if len(dimensions) == 2 and dimensions[1].HasField("dim_value"):
        return int(dimensions[1].dim_value)
    return len(metadata.classes) if metadata.classes is not None else None


def _is_uint8(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8)
