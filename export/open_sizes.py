"""One file for images of all heights and widths: files for several sizes, compared number by number.

A file for one size holds what depends on it as int64 constants: shapes, bounds of slices, factors. The network is
therefore written for several sizes. What differs between these files has to be such a constant, and each of its numbers
a polynomial ``a + b h + c w + d h w`` of the image's size in units of ``multiple``; nodes in front of the graph then
compute it from the shape of the input. Anything else that differs is refused by name. A Reshape at the input refuses
images whose sizes are no multiples (decision 28).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.settings import SIZE_MULTIPLES
from qkd_deploy.export.size_nodes import AXES, Polynomial, opened
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of

_FARTHEST = 64
"""By how many pixels, at least, one of the compared images is larger than the examples."""

Size = tuple[int, int]
"""Height and width of images."""


def with_open_sizes(
    frozen: FrozenModel, write: Callable[[FrozenModel], onnx.ModelProto]
) -> tuple[onnx.ModelProto, int]:
    """Write one file for all sizes.

    Args:
        frozen: the integer model.
        write: the file of a model for the sizes of its examples.

    Returns:
        the file, and the number that heights and widths have to be multiples of.

    Raises:
        UserError: the network has other inputs than one image, or depends on its size in another way; names where.
    """
    files = _Files(frozen, write)
    own, reason = files.own, ""
    for multiple in SIZE_MULTIPLES:
        if any(size % multiple for size in own):
            break
        try:
            return opened(files.at(own), _polynomials(files, multiple), multiple), multiple
        except UserError as error:
            reason = str(error)
    raise UserError(f"height and width cannot stay open: {reason}; export without --dynamic-size (dynamic_size=False)")


class _Files:
    """The files of a model for several sizes, each written once; ``own`` is that of the examples."""

    def __init__(self, frozen: FrozenModel, write: Callable[[FrozenModel], onnx.ModelProto]) -> None:
        self._frozen, self._write = frozen, write
        self._written: dict[Size, onnx.ModelProto] = {}
        inputs = [frozen.graph.node(name) for name in frozen.graph.inputs]
        if len(inputs) != 1 or len(inputs[0].sizes) != 1 + 1 + len(AXES):
            raise UserError(
                "height and width stay open only in networks whose one input is images; "
                "export without --dynamic-size (dynamic_size=False)"
            )
        _, self._channels, *own = inputs[0].sizes
        self.own: Size = (own[0], own[1])

    def at(self, size: Size) -> onnx.ModelProto:
        """The file for a size.

        Raises:
            UserError: the network does not take it, or computes otherwise there.
        """
        if size not in self._written:
            generator = torch.Generator().manual_seed(0)
            model = self._frozen.at((torch.randn(1, self._channels, *size, generator=generator),))
            _require_fixed_sums(self._frozen, model)
            self._written[size] = self._write(model)
        return self._written[size]


def _require_fixed_sums(one: FrozenModel, two: FrozenModel) -> None:
    """Refuse sums over places of products of two activations: a larger image could make them overflow int32."""
    for node in one.graph.nodes:
        if operator_of(node).sums_products and _terms(one, node) != _terms(two, two.graph.node(node.name)):
            raise UserError(f"{node.name} sums as many products as an image has places, without any bound")


def _terms(model: FrozenModel, node: Node) -> int:
    return model.graph.node(node.inputs[0]).sizes[-1]


# -- what depends on the size ------------------------------------------------------------------------------------------


def _polynomials(files: _Files, multiple: int) -> dict[str, Polynomial]:
    """The constants that depend on the size, as polynomials that all compared files agree with."""
    height, width = files.own
    corners = [(height + i * multiple, width + j * multiple) for i in (0, 1) for j in (0, 1)]
    origin = height // multiple, width // multiple
    fitted = _fitted([_constants(files, size) for size in corners], origin)
    for size in _others(files.own, multiple):
        for name, array in _constants(files, size).items():
            at = [side // multiple for side in size]
            if not np.array_equal(_value(fitted[name], at[0], at[1]), array):
                raise UserError(f"{_tensor(name)} has other sizes for images of {size[0]} x {size[1]} than expected")
    return {name: found for name, found in fitted.items() if found[1:].any()}


def _others(own: Size, multiple: int) -> Iterator[Size]:
    """More sizes, smaller and larger ones, at which polynomials have to hold."""
    far = max(3, -(-_FARTHEST // multiple))
    height, width = own
    yield height + 2 * multiple, width + 3 * multiple
    yield height + far * multiple, width + (far + 1) * multiple
    yield height + (far + 2) * multiple, width


def _fitted(corners: list[dict[str, np.ndarray]], origin: Size) -> dict[str, Polynomial]:
    """The polynomials through four neighbouring sizes, of which the first is ``origin`` in units."""
    (h, w), found = origin, {}
    for name in corners[0]:
        here, right, below, across = (constants[name] for constants in corners)
        both = across - right - below + here
        by_height, by_width = below - here - both * w, right - here - both * h
        rest = here - by_height * h - by_width * w - both * h * w
        found[name] = np.stack([rest, by_height, by_width, both])
    return found


def _value(polynomial: Polynomial, height: int, width: int) -> np.ndarray:
    rest, by_height, by_width, both = polynomial
    return np.asarray(rest + by_height * height + by_width * width + both * height * width)


def _constants(files: _Files, size: Size) -> dict[str, np.ndarray]:
    """The int64 constants of the file for a size.

    Raises:
        UserError: something else differs from the file for the examples' size.
    """
    base, other = files.at(files.own), files.at(size)
    words = f"for images of {size[0]} x {size[1]} than for {files.own[0]} x {files.own[1]}"
    for one, two in zip_longest(base.graph.node, other.graph.node):
        if one != two:
            raise UserError(f"{_tensor((one or two).name)} is computed by other operators {words}")
    found, expected = ({t.name: t for t in model.graph.initializer} for model in (other, base))
    for name in dict.fromkeys((*expected, *found)):
        one, two = expected.get(name), found.get(name)
        if one != two and (one is None or two is None or not _are_sizes(one, two)):
            raise UserError(f"{_reader(base, name)} reads other constants {words}")
    return {name: numpy_helper.to_array(t) for name, t in found.items() if t.data_type == TensorProto.INT64}


def _are_sizes(one: TensorProto, two: TensorProto) -> bool:
    return one.data_type == two.data_type == TensorProto.INT64 and list(one.dims) == list(two.dims)


def _reader(model: onnx.ModelProto, constant: str) -> str:
    """The tensor that is computed with a constant."""
    node = next((node for node in model.graph.node if constant in node.input), None)
    return _tensor(constant if node is None else node.name)


def _tensor(name: str) -> str:
    """The tensor of the network that a node, or a constant, belongs to."""
    return name.rpartition("/")[0] or name.rpartition(".")[0] or name
