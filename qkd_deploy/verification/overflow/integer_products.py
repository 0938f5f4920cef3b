"""The products of an ONNX graph that sum integers, with their weights and the ranges of their codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of, optional_input
from qkd_deploy.verification.overflow.code_ranges import CodeRanges, StoredCodes

_UNKNOWN_DEPTH = 2**31  # so many products prove nothing
_LAYERS = ("Conv", "Gemm", "MatMul")
_ANY_BYTE = (-128, 255)


@dataclass(frozen=True)
class IntegerProduct:
    """A Conv, Gemm or MatMul that runs on codes.

    Attributes:
        name: the layer or pooling.
        left: codes of its first operand.
        products: how many products make one sum.
        weight: constant weight codes [output channels, products]; None where ``right`` is an activation.
        bias: int32 per output channel, or None.
        right: codes of the second operand where it is an activation.
    """

    name: str
    left: StoredCodes
    products: int
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    right: StoredCodes | None = None


def integer_products(model: onnx.ModelProto) -> Iterator[IntegerProduct]:
    """The products of a graph that sum integers, in graph order."""
    return _Products(model).found()


class _Products:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._ranges = model, CodeRanges(model)
        self._graph = self._ranges.graph

    def found(self) -> Iterator[IntegerProduct]:
        for node in self._graph.nodes:
            self._ranges.follow(node)
            product = self._product(node)
            if product is not None:
                yield product

    def _product(self, node: onnx.NodeProto) -> IntegerProduct | None:
        if node.op_type == "MatMulInteger":
            return None if self._adds_up(node.input[1]) else self._of_integers(node)
        if not self._runs_on_codes(node):
            return None
        weight = self._dequantized(node.input[1])
        return self._of_codes(node) if weight is None else self._of_weights(node, weight)

    def _runs_on_codes(self, node: onnx.NodeProto) -> bool:
        """True where the runtime makes an integer kernel of a node; a convolution needs a quantizer behind it."""
        if node.op_type not in _LAYERS or node.input[0] not in self._ranges.codes:
            return False
        # without a quantizer that alone reads its sums, a convolution stays in float
        return node.op_type != "Conv" or self._graph.is_quantized_only(node.output[0])

    def _adds_up(self, name: str) -> bool:
        """True where a right operand is ones: such sums are no larger than those beside which they stand."""
        ones = self._ranges.array(name)
        return ones is not None and bool((ones == 1).all())

    def _of_weights(self, node: onnx.NodeProto, weight: np.ndarray) -> IntegerProduct:
        rows = _rows(node, weight)
        bias = self._dequantized(optional_input(node, 2))
        return IntegerProduct(_name(node), self._ranges.codes[node.input[0]], rows.shape[1], rows, bias)

    def _of_codes(self, node: onnx.NodeProto) -> IntegerProduct | None:
        left, right = (self._ranges.codes.get(name) for name in node.input[:2])
        if left is None or right is None:
            return None
        return IntegerProduct(_name(node), left, self._depth(node), right=right)

    def _of_integers(self, node: onnx.NodeProto) -> IntegerProduct:
        left, right = (self._integers(node, index) for index in (0, 1))
        return IntegerProduct(_name(node), left, self._depth(node), right=right)

    def _integers(self, node: onnx.NodeProto, index: int) -> StoredCodes:
        """An operand of MatMulInteger, whose zero points are its last two inputs."""
        zero = self._ranges.array(optional_input(node, index + 2))
        bounds = self._ranges.bounds_of(node.input[index]) or _ANY_BYTE
        return StoredCodes(*bounds, 0 if zero is None else int(zero))

    def _dequantized(self, name: str) -> np.ndarray | None:
        """Centered constant codes behind a value; None where it holds no constants."""
        node = self._graph.producers.get(name)
        codes = None
        if node is not None and node.op_type == "DequantizeLinear":
            codes = self._ranges.array(node.input[0])
        if node is None or codes is None:
            return None
        return _centered(codes, self._ranges.zero_point(node), attributes_of(node).get("axis", 1))

    def _depth(self, node: onnx.NodeProto) -> int:
        """The inner dimension of a product of two activations."""
        inferred = onnx.shape_inference.infer_shapes(self._model, data_prop=True).graph
        shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.input)}
        for name, axis in ((node.input[0], -1), (node.input[1], -2)):
            if name in shapes and shapes[name][axis].HasField("dim_value"):
                return int(shapes[name][axis].dim_value)
        return _UNKNOWN_DEPTH


def _name(node: onnx.NodeProto) -> str:
    """The tensor that a node belongs to."""
    return node.name.rpartition("/")[0] or node.name


def _rows(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """Weights as [output channels, products of one sum]."""
    if node.op_type == "Conv" or attributes_of(node).get("transB", 0):
        return weight.reshape(len(weight), -1)
    return np.moveaxis(weight, -2, -1).reshape(-1, weight.shape[-2])


def _centered(codes: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    """Codes less their zero points, which are one number, or as many as there are indices of ``axis``."""
    if not zero.any():
        return codes
    shape = [1] * codes.ndim
    if zero.ndim:
        shape[axis] = -1
    return np.asarray(codes.astype(np.int64) - zero.astype(codes.dtype).astype(np.int64).reshape(shape))
