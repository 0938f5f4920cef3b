"""Which codes the integer products of an ONNX graph can meet, by interval arithmetic over the graph alone.

Codes are bounded by their type, by integer clips, and from below by the zero point where a value is never negative.
Operators that move values pass their bounds on; of every other one at most the sign of its result is known, which is
always right, if wider than need be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qkd_deploy.verification.overflow.bounds import CodeRange
from qkd_deploy.verification.reference.single_node import MOVES
from qkd_deploy.verification.reference.values import attributes_of

_PASSES_CODES = MOVES | {"MaxPool", "ReduceMax", "ReduceMin"}
_KEEPS_SIGN = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Max"}) | _PASSES_CODES
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})


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
    left: CodeRange
    products: int
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    right: CodeRange | None = None


def integer_products(model: onnx.ModelProto) -> Iterator[IntegerProduct]:
    """The products of a graph that sum integers, in graph order."""
    return _Ranges(model).products()


class _Ranges:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.op_type)
        self._bounds: dict[str, tuple[int, int]] = {}  # of integer tensors
        self._codes: dict[str, CodeRange] = {}  # of what a dequantizer made, and of what was only moved since
        self._steps: dict[str, np.ndarray] = {}  # of the values in ``codes``
        self._nonnegative: set[str] = set()
        self._shares: set[str] = set()  # values between 0 and 1

    def products(self) -> Iterator[IntegerProduct]:
        for value in self._model.graph.input:
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
                self._bounds[value.name] = (0, 255)
        for node in self._model.graph.node:
            self._follow(node)
            if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] in self._codes:
                yield from self._product(node)
            elif node.op_type == "MatMulInteger" and not self._adds_up(node.input[1]):
                yield self._product_of_codes(node)

    # -- what is known about values ----------------------------------------------------------------------------------

    def _follow(self, node: onnx.NodeProto) -> None:
        first, output = node.input[0] if node.input else "", node.output[0]
        if node.op_type == "QuantizeLinear":
            zero = self._zero_point(node)
            limits = np.iinfo(zero.dtype)
            positive = first in self._nonnegative and zero.ndim == 0
            most = int(limits.max)
            if first in self._shares and (scale := self._array(node.input[1])) is not None and zero.ndim == 0:
                most = min(most, int(zero) + int(np.rint(np.float32(1) / scale)))
            self._bounds[output] = int(zero) if positive else int(limits.min), most
            again = self._codes.get(first)  # codes that were dequantized to be moved
            same = again is not None and self._steps.get(first) == self._array(node.input[1])
            if again is not None and same and again.zero_point == zero:
                self._bounds[output] = again.lo, again.hi
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node)
        elif node.op_type == "Clip" and (bounds := self._bounds_of(first)) is not None:
            low, high = (self._array(name) for name in (*node.input[1:], "", "")[:2])
            lowest, highest = (bounds[0] if low is None else int(low)), (bounds[1] if high is None else int(high))
            self._bounds[output] = max(bounds[0], lowest), min(bounds[1], highest)
        elif node.op_type == "Exp" and self._below_largest(first):
            self._nonnegative.add(output)
            self._shares.add(output)
        elif node.op_type in ("Cast", "Sub") and (bounds := self._bounds_of(first)) is not None:
            self._convert(node, bounds)
        elif node.op_type in _NEVER_NEGATIVE or (
            node.op_type in _KEEPS_SIGN and all(name in self._nonnegative for name in self._operands(node))
        ):
            self._nonnegative.update(node.output)
        if node.op_type in _PASSES_CODES:
            self._pass_on(node)

    def _below_largest(self, name: str) -> bool:
        """Whether a value is codes less the largest of their row."""
        node = self._producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        largest = self._producers.get(node.input[2]) if len(node.input) > 2 else None
        return largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == node.input[0]

    def _convert(self, node: onnx.NodeProto, bounds: tuple[int, int]) -> None:
        """Codes on their way to signed bytes: other types that hold them, less a constant."""
        less = self._array(node.input[1]) if node.op_type == "Sub" else np.zeros((), np.int64)
        kind = np.int32 if node.op_type == "Sub" else helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"])
        if less is None or less.size != 1 or np.dtype(kind).kind not in "iu":
            return
        low, high = (bound - int(less) for bound in bounds)
        fits = np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
        self._bounds[node.output[0]] = (low, high) if fits else (np.iinfo(kind).min, np.iinfo(kind).max)

    def _operands(self, node: onnx.NodeProto) -> list[str]:
        return list(node.input[:1]) if node.op_type in _PASSES_CODES and node.op_type != "Concat" else list(node.input)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        bounds, zero = self._bounds_of(node.input[0]), self._zero_point(node)
        computed = len(node.input) > 2 and node.input[2] and self._array(node.input[2]) is None
        if bounds is None or zero.ndim or computed:
            return
        step = self._array(node.input[1])
        if step is None or step.ndim:
            return
        self._codes[node.output[0]], self._steps[node.output[0]] = CodeRange(*bounds, int(zero)), step
        if bounds[0] >= int(zero):
            self._nonnegative.add(node.output[0])

    def _pass_on(self, node: onnx.NodeProto) -> None:
        operands = self._operands(node)
        bounds = [self._bounds_of(name) for name in operands]
        if node.op_type == "Pad":  # the third input is what is put around
            value = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.int64)
            bounds.append(None if value is None else (int(value.min()), int(value.max())))
        known = [pair for pair in bounds if pair is not None]
        codes = {self._codes.get(name) for name in operands}
        for output in node.output:
            if known and len(known) == len(bounds):
                self._bounds[output] = min(low for low, _ in known), max(high for _, high in known)
            if len(codes) == 1 and (only := next(iter(codes))) is not None and node.op_type != "Pad":
                self._codes[output] = only
                if len(steps := {float(self._steps.get(name, np.float32(np.nan))) for name in operands}) == 1:
                    self._steps[output] = np.float32(steps.pop())  # type: ignore[assignment]

    def _bounds_of(self, name: str) -> tuple[int, int] | None:
        if name not in self._bounds and name in self._constants:
            array = self._array(name)
            if array is not None and array.size and array.dtype.kind in "iu":
                self._bounds[name] = int(array.min()), int(array.max())
        return self._bounds.get(name)

    def _zero_point(self, node: onnx.NodeProto) -> np.ndarray:
        given = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return np.zeros((), np.uint8) if given is None else given

    # -- products ----------------------------------------------------------------------------------------------------

    def _product(self, node: onnx.NodeProto) -> Iterator[IntegerProduct]:
        """The node as a product of codes; a convolution is one only where a quantizer alone reads it."""
        if node.op_type == "Conv" and self._readers.get(node.output[0]) != ["QuantizeLinear"]:
            return
        name, left = node.name.rpartition("/")[0] or node.name, self._codes[node.input[0]]
        weight = self._dequantized(node.input[1])
        if weight is not None:
            rows = _rows(node, weight)
            bias = self._dequantized(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            yield IntegerProduct(name, left, rows.shape[1], rows, bias)
        elif node.input[1] in self._codes:
            yield IntegerProduct(name, left, self._depth(node), right=self._codes[node.input[1]])

    def _adds_up(self, name: str) -> bool:
        """Whether a right operand is ones: such sums are no larger than those beside which they stand."""
        ones = self._array(name)
        return ones is not None and bool((ones == 1).all())

    def _product_of_codes(self, node: onnx.NodeProto) -> IntegerProduct:
        zeros = [self._array(name) for name in (*node.input[2:], "", "")[:2]]
        left, right = (
            CodeRange(*(self._bounds_of(name) or (-128, 255)), 0 if zero is None else int(zero))
            for name, zero in zip(node.input[:2], zeros, strict=True)
        )
        name = node.name.rpartition("/")[0] or node.name
        return IntegerProduct(name, left, self._depth(node), right=right)

    def _dequantized(self, name: str) -> np.ndarray | None:
        """Centered constant codes behind a value; None where it holds no constants."""
        node = self._producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        codes = self._array(node.input[0])
        if codes is None:
            return None
        zero = self._zero_point(node).astype(codes.dtype)
        return codes if not zero.any() else _centered(codes, zero, attributes_of(node).get("axis", 1))

    def _array(self, name: str) -> np.ndarray | None:
        """A constant, also where packed codes are cast and multiplied first; None where it depends on the input."""
        if name in self._constants:
            return np.asarray(numpy_helper.to_array(self._constants[name]))
        node = self._producers.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        operands = [self._array(operand) for operand in node.input]
        if any(operand is None for operand in operands):
            return None
        if node.op_type == "Mul":
            return np.asarray(operands[0] * operands[1])  # type: ignore[operator]
        kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"])
        return operands[0].astype(kind)  # type: ignore[union-attr]

    def _depth(self, node: onnx.NodeProto) -> int:
        """The inner dimension of a product of two activations."""
        inferred = onnx.shape_inference.infer_shapes(self._model, data_prop=True).graph
        shapes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.input)}
        for name, axis in ((node.input[0], -1), (node.input[1], -2)):
            if name in shapes and shapes[name][axis].HasField("dim_value"):
                return int(shapes[name][axis].dim_value)
        return 2**31  # unknown: nothing is proven


def _rows(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """Weights as [output channels, products of one sum]."""
    if node.op_type == "Conv" or attributes_of(node).get("transB", 0):
        return weight.reshape(len(weight), -1)
    return np.moveaxis(weight, -2, -1).reshape(-1, weight.shape[-2])


def _centered(codes: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    shape = [1] * codes.ndim
    if zero.ndim:
        shape[axis] = -1
    return np.asarray(codes.astype(np.int64) - zero.astype(np.int64).reshape(shape))
