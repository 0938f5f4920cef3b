"""The graph under construction: where in the file every tensor of the network is, in what layout and on what grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.errors import UserError
from qkd_deploy.export.litert.flatbuffer import FlatGraph
from qkd_deploy.export.litert.grid import Grid
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams

_LAST = {4: (0, 2, 3, 1), 3: (0, 2, 1)}
_FIRST = {4: (0, 3, 1, 2), 3: (0, 2, 1)}


@dataclass(frozen=True)
class Value:
    """A tensor of the network in the file.

    Attributes:
        index: the tensor of the file.
        grid: of its codes; None for floats.
        last: True where its channels come last, as images are stored; else its dimensions are the network's.
    """

    index: int
    grid: Grid | None
    last: bool = False


@dataclass
class LiteContext:
    """Everything that emitters read and add to.

    Attributes:
        frozen: the integer model.
        input_type: "float32", or "uint8" for inputs that are the codes themselves.
        file: where tensors and operators go.
        values: by tensor of the network, where it is.
        constants: by tensor that does not depend on the input, its value: a ``QuantizedTensor`` or floats.
        inputs: tensors that the file takes.
    """

    frozen: FrozenModel
    input_type: str = "float32"
    file: FlatGraph = field(default_factory=FlatGraph)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    _layouts: dict[tuple[int, bool], int] = field(default_factory=dict)

    def sizes(self, node: Node) -> tuple[int, ...]:
        """The shape of a tensor for one sample."""
        batch = self.frozen.graph.batch_size
        return tuple(size // batch if dim in node.batch_dims else size for dim, size in enumerate(node.sizes))

    # -- grids ---------------------------------------------------------------------------------------------------------

    def params(self, node: Node) -> QuantParams:
        """The parameters of a node's own quantizer."""
        assert node.quantizer is not None
        return self.frozen.grid(node.quantizer)

    def known_grid(self, name: str, reader: Node) -> Grid:
        """The grid of an operand.

        Raises:
            UserError: it is in float, where ``reader`` has to read codes.
        """
        grid = self.values[name].grid
        if grid is None:
            raise unsupported(reader, "its operand is in float")
        return grid

    def codes(self, name: str, shape: Sequence[int], grid: Grid) -> int:
        """A new tensor of the file for codes."""
        return self.file.tensor(name, shape, np.int8, scale=grid.label, zero_point=grid.zero)

    # -- layouts -------------------------------------------------------------------------------------------------------

    def image(self, name: str) -> int:
        """A tensor with its channels last, as ``[N, H, W, C]``; one of three dimensions has a height of 1."""
        value = self.values[name]
        index = self.laid_out(name, last=True)
        shape = self.file.shapes[index]
        return self.reshaped(index, (shape[0], 1, *shape[1:]), value.grid) if len(shape) == 3 else index

    def natural(self, name: str) -> int:
        """A tensor with its dimensions in the network's order."""
        return self.laid_out(name, last=False)

    def laid_out(self, name: str, *, last: bool) -> int:
        """A tensor with its channels last, or with its dimensions in the network's order."""
        value = self.values[name]
        if value.last == last:
            return value.index
        key = (value.index, last)
        if key not in self._layouts:
            order = (_LAST if last else _FIRST)[len(self.file.shapes[value.index])]
            self._layouts[key] = self.transposed(value.index, order, value.grid)
        return self._layouts[key]

    def aligned(self, names: Sequence[str]) -> tuple[list[int], bool]:
        """Operands that broadcast, in one layout, and whether their channels come last in it."""
        ranks = {len(self.file.shapes[self.values[name].index]) for name in names}
        last = len(ranks) == 1 and any(self.values[name].last for name in names)
        return [self.laid_out(name, last=last) for name in names], last

    def transposed(self, index: int, order: Sequence[int], grid: Grid | None) -> int:
        """Put dimensions in another order; by a Reshape where that moves nothing."""
        shape = self.file.shapes[index]
        turned = tuple(shape[dim] for dim in order)
        moving = [dim for dim in order if shape[dim] != 1]
        if moving == sorted(moving):
            return self.reshaped(index, turned, grid)
        made = self.like(index, turned, grid, "transposed")
        axes = self.file.constant("order", np.array(order, np.int32))
        self.file.operator("TRANSPOSE", [index, axes], [made], schema.TransposeOptionsT())
        return made

    def reshaped(self, index: int, shape: Sequence[int], grid: Grid | None) -> int:
        """The same elements in another shape."""
        if tuple(shape) == self.file.shapes[index]:
            return index
        made, options = self.like(index, shape, grid, "reshaped"), schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        self.file.operator("RESHAPE", [index, self.file.constant("shape", options.newShape)], [made], options)
        return made

    def like(self, index: int, shape: Sequence[int], grid: Grid | None, suffix: str) -> int:
        """A new tensor of the same kind as another one."""
        name = f"{self.file.tensors[index].name}.{suffix}"
        return self.file.tensor(name, shape) if grid is None else self.codes(name, shape, grid)


def unsupported(node: Node, reason: str) -> UserError:
    """What to raise for an operation that has no exact form."""
    return UserError(
        f"{node.label or node.name} cannot be written for LiteRT ({reason}); replace the operation, or choose another "
        "target"
    )
