"""What running a graph takes, before it runs: bytes of its values, and multiplications, for two samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from qkd_deploy.gate.sizes import bytes_of, value_types

_EASY_BYTES = 2**30
_EASY_WORK = 2 * 10**10
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "Gemm", "MatMul", "MatMulInteger"})
"""Operators that multiply each output by many weights."""
_UNKNOWN_WORK = frozenset(
    {"Attention", "Col2Im", "DeformConv", "Det", "DFT", "Einsum", "GRU", "LSTM", "MaxRoiPool", "NonMaxSuppression"}
    | {"RNN", "RoiAlign", "STFT", "TopK", "Unique"}
)
"""Operators whose work the sizes of their values do not tell."""


@dataclass(frozen=True)
class Cost:
    """For two samples.

    Attributes:
        bytes: of all values together, constants left out: no runtime needs more.
        largest: bytes of the largest of them.
        work: multiplications, and elements that are read and written.
        known: whether all sizes are known, and what each operator does with them.
    """

    bytes: int
    largest: int
    work: int
    known: bool

    @property
    def easy(self) -> bool:
        """Whether any machine can run the graph in a moment."""
        return self.known and self.bytes <= _EASY_BYTES and self.work <= _EASY_WORK


def cost_of(model: onnx.ModelProto) -> Cost:
    """What running a model that the gate has let through takes.

    Raises:
        NotAsExportedError: operands do not fit their operators.
    """
    graph = model.graph
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    values = {value.name: value for value in value_types(model) if value.name not in constants}
    sizes = {name: bytes_of(value) for name, value in values.items()}
    made = {name for node in graph.node for name in node.output if name}
    known = [size for size in sizes.values() if size is not None]
    shapes = constants | {name: _shape(value) for name, value in values.items() if sizes[name] is not None}
    complete = len(known) == len(sizes) and made <= sizes.keys()
    certain = complete and not any(node.op_type in _UNKNOWN_WORK for node in graph.node)
    work = sum(_work(node, shapes) for node in graph.node)
    return Cost(sum(known), max(known, default=0), work, certain)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _work(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Multiplications of a node, as far as its sizes are known."""
    read = [shapes[name] for name in node.input if name in shapes]
    written = [shapes[name] for name in node.output if name in shapes]
    elements = sum(map(math.prod, (*read, *written)))
    if node.op_type in _PRODUCTS and len(read) > 1 and written:
        return elements + math.prod(written[0]) * _factors(node, read[1])
    window = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [])
    windows: int = math.prod(window) * sum(map(math.prod, written))
    return elements + windows


def _factors(node: onnx.NodeProto, weights: list[int]) -> int:
    """An upper bound of the weights that one output is the sum of products with."""
    if node.op_type in ("MatMul", "MatMulInteger"):
        return weights[-2] if len(weights) > 1 else math.prod(weights)
    if node.op_type == "Gemm":
        return max(weights, default=1)
    rest: int = math.prod(weights[1:])
    return rest
