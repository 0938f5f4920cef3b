"""Which codes the values of an ONNX graph can take, by interval arithmetic over the graph alone.

Codes are bounded by their type, by integer clips, and from below by the zero point where a value is never negative.
Operators that move values pass their bounds on; of every other one at most the sign of its result is known, which is
always right, if wider than need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qkd_deploy.verification.onnx_graph import OnnxGraph, attributes_of, optional_input
from qkd_deploy.verification.reference.movement import MOVES

_PASSES_CODES = MOVES | {"MaxPool", "ReduceMax", "ReduceMin"}
_KEEPS_SIGN = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Max"}) | _PASSES_CODES
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})

_T = TypeVar("_T")
Bounds = tuple[int, int]
"""Least and largest element of a tensor of integers."""


@dataclass(frozen=True)
class StoredCodes:
    """Stored codes of a tensor: ``lo`` and ``hi``, and the code that stands for 0."""

    lo: int
    hi: int
    zero_point: int

    @property
    def top(self) -> int:
        """The largest code that a kernel meets: padding is the zero point."""
        return max(self.hi, self.zero_point)


class CodeRanges:
    """Facts about the values of a graph; :meth:`follow` has to be told its nodes in order.

    Attributes:
        graph: the graph.
        codes: by value name, of what a dequantizer made, and of what was only moved since.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Begin with the inputs of the graph."""
        self.graph = OnnxGraph(model)
        self.codes: dict[str, StoredCodes] = {}
        self._steps: dict[str, float] = {}  # of the values in ``codes``
        self._nonnegative: set[str] = set()
        self._shares: set[str] = set()  # values between 0 and 1
        self._bounds: dict[str, Bounds] = {  # of integer tensors
            value.name: (0, 255)
            for value in model.graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }
        self._rules: dict[str, Callable[[onnx.NodeProto], None]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Clip": self._clip,
            "Exp": self._exponential,
            "Cast": self._cast,
            "Sub": self._subtract,
        }

    def follow(self, node: onnx.NodeProto) -> None:
        """Learn about the outputs of the next node."""
        self._rules.get(node.op_type, self._keep_sign)(node)
        if node.op_type in _PASSES_CODES:
            self._pass_bounds_on(node)
            self._pass_codes_on(node)

    # -- rules -------------------------------------------------------------------------------------------------------

    def _quantize(self, node: onnx.NodeProto) -> None:
        source, zero = node.input[0], self.zero_point(node)
        step = self.array(node.input[1])
        again = self.codes.get(source)  # codes that were dequantized to be moved
        if again is not None and self._steps.get(source) == step and again.zero_point == zero:
            self._bounds[node.output[0]] = again.lo, again.hi
        else:
            self._bounds[node.output[0]] = self._quantized_bounds(source, step, zero)

    def _quantized_bounds(self, source: str, step: np.ndarray | None, zero: np.ndarray) -> Bounds:
        """The range of the type, cut at 0 for values that are not negative, and at 1 for shares of 1."""
        limits = np.iinfo(zero.dtype)
        least, most = int(limits.min), int(limits.max)
        if zero.ndim:
            return least, most
        if source in self._nonnegative:
            least = int(zero)
        if source in self._shares and step is not None:
            most = min(most, int(zero) + int(np.rint(np.float32(1) / step)))
        return least, most

    def _dequantize(self, node: onnx.NodeProto) -> None:
        bounds, zero, step = self.bounds_of(node.input[0]), self.zero_point(node), self.array(node.input[1])
        if bounds is None or step is None or zero.ndim or step.ndim or self._has_computed_zero_point(node):
            return
        self.codes[node.output[0]], self._steps[node.output[0]] = StoredCodes(*bounds, int(zero)), float(step)
        if bounds[0] >= int(zero):
            self._nonnegative.add(node.output[0])

    def _has_computed_zero_point(self, node: onnx.NodeProto) -> bool:
        name = optional_input(node, 2)
        return bool(name) and self.array(name) is None

    def _clip(self, node: onnx.NodeProto) -> None:
        bounds = self.bounds_of(node.input[0])
        if bounds is None:
            return
        low, high = (self.array(optional_input(node, index)) for index in (1, 2))
        least = bounds[0] if low is None else max(bounds[0], int(low))
        most = bounds[1] if high is None else min(bounds[1], int(high))
        self._bounds[node.output[0]] = least, most

    def _exponential(self, node: onnx.NodeProto) -> None:
        if self._is_below_largest(node.input[0]):
            self._nonnegative.add(node.output[0])
            self._shares.add(node.output[0])

    def _is_below_largest(self, name: str) -> bool:
        """True where a value is codes less the largest of their row."""
        node = self.graph.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        less = self.graph.producers.get(node.input[0])
        if less is not None and less.op_type == "Sub":
            return self._is_largest(less.input[1], less.input[0]) and not self.zero_point(node).any()
        return self._is_largest(optional_input(node, 2), node.input[0])

    def _is_largest(self, name: str, rows: str) -> bool:
        largest = self.graph.producers.get(name)
        return largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == rows

    def _cast(self, node: onnx.NodeProto) -> None:
        """Codes in another type, on their way to signed bytes."""
        self._shift(node, 0, helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"]))

    def _subtract(self, node: onnx.NodeProto) -> None:
        """Codes less a constant, on their way to signed bytes."""
        less = self.array(node.input[1])
        if less is not None and less.size == 1 and less.dtype.kind in "iu":
            self._shift(node, int(less), np.dtype(np.int32))

    def _shift(self, node: onnx.NodeProto, less: int, kind: np.dtype[Any]) -> None:
        bounds = self.bounds_of(node.input[0])
        if bounds is None or kind.kind not in "iu":
            return
        low, high, limits = bounds[0] - less, bounds[1] - less, np.iinfo(kind)
        fits = limits.min <= low and high <= limits.max
        self._bounds[node.output[0]] = (low, high) if fits else (int(limits.min), int(limits.max))

    def _keep_sign(self, node: onnx.NodeProto) -> None:
        kept = node.op_type in _KEEPS_SIGN and self._nonnegative.issuperset(_operands(node))
        if kept or node.op_type in _NEVER_NEGATIVE:
            self._nonnegative.update(node.output)

    def _pass_bounds_on(self, node: onnx.NodeProto) -> None:
        bounds = [self.bounds_of(name) for name in _operands(node)]
        if node.op_type == "Pad":
            bounds.append(self._bounds_around(node))
        known = [pair for pair in bounds if pair is not None]
        if known and len(known) == len(bounds):
            lows, highs = zip(*known, strict=True)
            self._bounds.update(dict.fromkeys(node.output, (min(lows), max(highs))))

    def _bounds_around(self, node: onnx.NodeProto) -> Bounds | None:
        """Bounds of what a Pad puts around its input."""
        name = optional_input(node, 2)
        value = self.array(name) if name else np.zeros(1, np.int64)
        return None if value is None else (int(value.min()), int(value.max()))

    def _pass_codes_on(self, node: onnx.NodeProto) -> None:
        """Find what all operands agree on: their codes, and the step that these stand for."""
        if node.op_type == "Pad":
            return
        codes = _only(map(self.codes.get, _operands(node)))
        if codes is not None:
            self.codes.update(dict.fromkeys(node.output, codes))
            self._pass_steps_on(node)

    def _pass_steps_on(self, node: onnx.NodeProto) -> None:
        step = _only(map(self._steps.get, _operands(node)))
        if step is not None:
            self._steps.update(dict.fromkeys(node.output, step))

    # -- facts -------------------------------------------------------------------------------------------------------

    def bounds_of(self, name: str) -> Bounds | None:
        """Bounds of an integer tensor; None where nothing is known."""
        if name not in self._bounds and name in self.graph.constants:
            array = self.array(name)
            if array is not None and array.size and array.dtype.kind in "iu":
                self._bounds[name] = int(array.min()), int(array.max())
        return self._bounds.get(name)

    def zero_point(self, node: onnx.NodeProto) -> np.ndarray:
        """The zero points of a quantizer or dequantizer; 0 of uint8 where they are left out or computed."""
        given = self.array(optional_input(node, 2))
        return np.zeros((), np.uint8) if given is None else given

    def array(self, name: str) -> np.ndarray | None:
        """A constant, also where packed codes are cast and multiplied first; None where it depends on the input."""
        if name in self.graph.constants:
            return np.asarray(numpy_helper.to_array(self.graph.constants[name]))
        node = self.graph.producers.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        return self._cast_constant(node) if node.op_type == "Cast" else self._product_of_constants(node)

    def _cast_constant(self, node: onnx.NodeProto) -> np.ndarray | None:
        codes = self.array(node.input[0])
        kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"])
        return None if codes is None else codes.astype(kind)

    def _product_of_constants(self, node: onnx.NodeProto) -> np.ndarray | None:
        left, right = map(self.array, node.input)
        return None if left is None or right is None else np.asarray(left * right)


def _operands(node: onnx.NodeProto) -> list[str]:
    """The inputs that a node makes its output of: of an operator that moves one value, the first alone."""
    moves_one = node.op_type in _PASSES_CODES and node.op_type != "Concat"
    return list(node.input[:1] if moves_one else node.input)


def _only(values: Iterable[_T]) -> _T | None:
    """The one value that all are equal to; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
