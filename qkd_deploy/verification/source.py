"""Where the inputs of a verification come from: a data set or arrays, in batches that fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Golden, Metadata
from qkd_deploy.pixels.arrays import normalized, pixels_of
from qkd_deploy.verification.onnx_graph import names_of
from qkd_deploy.verification.samples import ArraySamples, Samples, SplitSamples

if TYPE_CHECKING:
    from qkd_deploy.data.dataset import AnySplit, ImageDataset


_EACH = "give one array for each, by its name: inputs={name: array}, or --inputs x.npz on the command line"
_IMAGES = 4
"""Dimensions of a batch of images."""

_MORE = ((1, 2), (3, 0))
"""By how much height and width of further sizes are larger than those of the golden images, in their units."""


@dataclass(frozen=True)
class Batch:
    """Inputs of the ONNX model by name, the same as normalised floats in order (for torch), and labels if known."""

    feeds: dict[str, np.ndarray]
    floats: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return len(self.floats[0])


class Source:
    """Streams batches of samples.

    Images (uint8) are normalised for a model with float inputs, and normalised floats become pixels for one with uint8
    inputs, so the same data serve both.

    Args:
        model: what the samples are for.
        metadata: says how images are normalised.
        samples: the samples, for all inputs of the graph in order.
        data: what the samples are of, which says how outputs are judged by labels; None for arrays.

    Raises:
        UserError: number, types or shapes of the samples do not fit the model's inputs.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        metadata: Metadata,
        samples: Samples,
        data: ImageDataset | None = None,
    ) -> None:
        self._inputs = list(model.graph.input)
        self._own_types = [_own_type(value, metadata) for value in self._inputs]
        self._normalization = metadata.pixels
        self._samples = samples
        self.data = data
        self._check()

    @property
    def images(self) -> int:
        """Number of samples."""
        return len(self._samples)

    @property
    def labelled(self) -> bool:
        """True where labels are known."""
        return self._samples.labelled

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the first input."""
        return self._samples.kinds[0][1][1:]

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of at most ``size`` samples, in order, of the first ``limit`` samples."""
        end = self.images if limit is None else min(limit, self.images)
        for arrays, labels in self._samples.read(size, end):
            floats = tuple(map(self._as_the_network_takes, arrays, self._own_types))
            yield Batch(self._feeds(floats), floats, labels)

    def _feeds(self, floats: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        """Normalised floats as the model takes them: for uint8 inputs, as pixels."""
        inputs = zip(self._inputs, self._own_types, floats, strict=True)
        known = self._normalization
        return {
            value.name: pixels_of(array, known) if own is None and _is_uint8(value) else array
            for value, own, array in inputs
        }

    def _as_the_network_takes(self, array: np.ndarray, own: np.dtype[Any] | None) -> np.ndarray:
        """Normalised floats; whole numbers where they are what the network takes."""
        if own is not None:
            return np.ascontiguousarray(array)
        if array.dtype == np.uint8:
            return normalized(array, self._normalization)
        return np.ascontiguousarray(array, np.float32)

    def _check(self) -> None:
        kinds = self._samples.kinds
        if len(kinds) != len(self._inputs):
            names = ", ".join(names_of(self._inputs))
            raise UserError(f"the model has the inputs {names}, not {len(kinds)}; {_EACH}")
        for value, own, (dtype, shape) in zip(self._inputs, self._own_types, kinds, strict=True):
            _require_shape(value, shape)
            _require_type(value, dtype, own)
        known = zip(kinds, self._own_types, strict=True)
        pixels = (shape for (dtype, shape), own in known if dtype == np.uint8 and len(shape) == _IMAGES and own is None)
        for shape in pixels:
            self._normalization.for_channels(shape[1])
        if not self.images or any(shape[0] != self.images for _, shape in kinds):
            raise UserError("the arrays must hold the same number of samples, at least one")


def _require_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Refuse data of another shape than an input has; the batch, and sizes that it leaves open, may be any."""
    sizes = _sizes(value)
    if len(shape) == len(sizes) and all(map(_fits, sizes[1:], shape[1:])):
        return
    expected = "x".join("N" if size is None else str(size) for size in sizes)
    found = "x".join(map(str, shape)) or "a single number"
    raise UserError(f"the model's input {value.name} is {expected}, but the data are {found}")


def _fits(size: int | None, given: int) -> bool:
    return size in (None, given)


def _own_type(value: onnx.ValueInfoProto, metadata: Metadata) -> np.dtype[Any] | None:
    """The type of an input that the network takes as whole numbers or booleans; None for floats, and their codes."""
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return None if kind.kind == "f" or metadata.input == "uint8" else kind


def _require_type(value: onnx.ValueInfoProto, dtype: np.dtype[Any], own: np.dtype[Any] | None) -> None:
    if own is not None:
        if dtype != own:
            raise UserError(f"the data for input {value.name} are {dtype}, but the network takes {own}; convert them")
        return
    if dtype != np.uint8 and dtype.kind != "f":
        raise UserError(f"the data for input {value.name} are {dtype}; give uint8 pixels or float32 values")


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    """The shape of an input, None for sizes that it leaves open."""
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def from_dataset(
    model: onnx.ModelProto, metadata: Metadata, data: ImageDataset, split: str, limit: int | None
) -> Source:
    """The first ``limit`` images of a split (all by default).

    Raises:
        UserError: unknown split, or images or classes that do not fit the model.
    """
    part = _part_of(data, split, limit)
    if data.metric is None and part.labelled:
        _require_classes(_classes_of(model, metadata), data)
    return Source(model, metadata, SplitSamples(part), data)


def _part_of(data: ImageDataset, split: str, limit: int | None) -> AnySplit:
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}; choose train or test")
    if limit is not None and limit < 1:
        raise UserError(f"cannot verify on {limit} images; give a limit of at least 1")
    part = data.train if split == "train" else data.test
    return part if limit is None else part.head(limit)


def _require_classes(outputs: int | None, data: ImageDataset) -> None:
    if outputs not in (None, len(data.classes)):
        raise UserError(f"the model has {outputs} outputs, but data set {data.name} has {len(data.classes)} classes")


def from_arrays(
    model: onnx.ModelProto, metadata: Metadata, inputs: np.ndarray | Mapping[str, np.ndarray], limit: int | None
) -> Source:
    """One array for a model with one input, or arrays by input name.

    Raises:
        UserError: names, types or shapes that do not fit the model's inputs.
    """
    arrays = _in_order(model, inputs) if isinstance(inputs, Mapping) else [np.asarray(inputs)]
    source = Source(model, metadata, ArraySamples(tuple(array[:limit] if array.ndim else array for array in arrays)))
    for value, array in zip(model.graph.input, arrays, strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array[:limit]).all():
            raise UserError(f"the data for input {value.name} hold NaN or infinite values; remove them")
    return source


def _in_order(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Arrays by name, in the order of the model's inputs."""
    names = names_of(model.graph.input)
    if set(inputs) != set(names):
        raise UserError(f"the model has the inputs {', '.join(names)}, but the data name {', '.join(inputs)}; {_EACH}")
    return [np.asarray(inputs[name]) for name in names]


def from_golden(model: onnx.ModelProto, metadata: Metadata) -> Source:
    """The golden inputs of the file itself.

    Raises:
        UserError: it carries none, or others than the model takes.
    """
    if metadata.golden is None:
        raise UserError(
            "the file carries no golden inputs; give data or inputs (--dataset or --inputs on the command line)"
        )
    return golden_source(model, metadata, metadata.golden)


def golden_source(model: onnx.ModelProto, metadata: Metadata, golden: Golden) -> Source:
    """Golden inputs as data.

    Raises:
        UserError: the model takes others.
    """
    try:
        return Source(model, metadata, ArraySamples(golden.inputs))
    except UserError as error:
        raise UserError("the golden inputs do not fit the model's inputs; export it again") from error


def of_other_sizes(model: onnx.ModelProto, metadata: Metadata) -> tuple[Source, ...]:
    """Images made by the golden recipe in sizes that the file leaves open; () where it leaves none open."""
    golden, multiple = metadata.golden, metadata.size_multiple
    if golden is None or multiple is None or [len(recipe.shape) for recipe in golden.recipes] != [_IMAGES]:
        return ()
    (recipe,), found = golden.recipes, []
    *front, height, width = recipe.shape
    for more in _MORE:
        shape = (*front, height + more[0] * multiple, width + more[1] * multiple)
        found.append(Source(model, metadata, ArraySamples((replace(recipe, shape=shape).array(),))))
    return tuple(found)


def _classes_of(model: onnx.ModelProto, metadata: Metadata) -> int | None:
    """Number of classes that the file states, in its output shape or its metadata."""
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    if len(dimensions) == 2 and dimensions[1].HasField("dim_value"):
        return int(dimensions[1].dim_value)
    return len(metadata.classes) if metadata.classes is not None else None


def _is_uint8(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8)
