"""Exact interpreter of exported graphs: the second opinion on every code that ONNX Runtime computes.

It reads the ONNX file alone and shares no code with the torch side. Quantized operators follow the integer formulas of
ONNX Runtime's kernels (see :mod:`arithmetic`); a DequantizeLinear stays lazy until it is known whether its reader works
on codes. Operators outside the contract run in float, and everything behind them is marked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qkd_deploy.errors import UserError
from qkd_deploy.verification.reference import accumulate, arithmetic, operators, pooling
from qkd_deploy.verification.reference.arithmetic import Parameters
from qkd_deploy.verification.reference.single_node import MOVES, SingleNodes
from qkd_deploy.verification.reference.values import Pending, Quantized, Value, attributes_of


@dataclass
class ReferenceResult:
    """Results of one batch.

    Attributes:
        outputs: graph outputs by name.
        codes: by ONNX value name, uint8 inputs, and what quantizers wrote and dequantizers of activations read.
        after_float: names of all values that a float operator had a part in.
    """

    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    after_float: set[str] = field(default_factory=set)


class ReferenceModel:
    """Interprets one model; constants (packed weights too) are evaluated once.

    Raises:
        UserError: the graph reads a value that nothing produces, or holds an operator that cannot be evaluated.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._single = SingleNodes(model)
        self._outputs = [value.name for value in model.graph.output]
        self._inputs = [value.name for value in model.graph.input]
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants: dict[str, Value] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        with np.errstate(all="ignore"):
            for node in model.graph.node:
                if all(name in self._constants for name in node.input if name):
                    self._evaluate(node, self._constants, ReferenceResult(), {})
                else:
                    self._nodes.append(node)

    def constant(self, name: str) -> Quantized | None:
        """A dequantized constant, with its codes (unpacked); None for anything else."""
        value = self._constants.get(name)
        return value if isinstance(value, Quantized) else None

    def run(
        self, feeds: Mapping[str, np.ndarray], continue_with: Mapping[str, np.ndarray] | None = None
    ) -> ReferenceResult:
        """Outputs and codes of one batch.

        Args:
            feeds: an array for each graph input.
            continue_with: codes by ONNX value name, from the runtime. Behind a float operator, where own codes may
                differ by a rounding, the interpreter notes its own and goes on with these: differences stay local.
        """
        values: dict[str, Value] = {name: np.asarray(feeds[name]) for name in self._inputs if name in feeds}
        result = ReferenceResult()
        result.codes = {name: feeds[name] for name in values if feeds[name].dtype == np.uint8}
        values |= self._constants
        unread = Counter(name for node in self._nodes for name in set(node.input))
        with np.errstate(all="ignore"):
            for node in self._nodes:
                self._evaluate(node, values, result, continue_with or {})
                for name in set(node.input):
                    unread[name] -= 1
                    if not unread[name] and name not in self._outputs:
                        values.pop(name, None)
            result.outputs = {name: _as_array(values, name, "the graph") for name in self._outputs}
        return result

    def _evaluate(
        self,
        node: onnx.NodeProto,
        values: dict[str, Value],
        result: ReferenceResult,
        given: Mapping[str, np.ndarray],
    ) -> None:
        operands = [_value(values, name, node.name) if name else None for name in node.input]
        if any(name in result.after_float for name in node.input):
            result.after_float.update(node.output)
        if node.op_type == "DequantizeLinear" and node.input[0] not in self._constants:
            name = node.input[0]
            result.codes.setdefault(name, _array(operands[0]))
            if name in result.after_float and name in given:
                operands[0] = given[name]
        try:
            outputs = self._outputs_of(node, operands, result)
        except (ValueError, IndexError, TypeError, KeyError, AssertionError) as error:
            raise UserError(f"the reference cannot evaluate {node.op_type} {node.name!r}: {error}") from error
        if node.op_type == "QuantizeLinear" or (isinstance(outputs[0], np.ndarray) and outputs[0].dtype == np.uint8):
            result.codes[node.output[0]] = _array(outputs[0])
        values.update(zip((name for name in node.output if name), outputs, strict=False))

    def _outputs_of(
        self, node: onnx.NodeProto, operands: list[Value | None], result: ReferenceResult
    ) -> Sequence[Value]:
        first = operands[0] if operands else None
        if node.op_type == "QuantizeLinear":
            return [_quantize(operands)]
        if node.op_type == "DequantizeLinear":
            return [_dequantize(node, operands)]
        if operators.fuses(node, tuple(operands)):
            fused = tuple(operand if isinstance(operand, Quantized) else None for operand in operands)
            if self._quantized_only(node.output[0]):
                return [Pending(node, fused)]
            exact = operators.exact_float(node, fused)
            if exact is not None:
                return [exact]
        codes = first.codes if isinstance(first, Quantized) and first.scalar else first
        moved = self._moved(node, codes, operands)
        if moved is not None:
            return [first.with_codes(part) for part in moved] if isinstance(first, Quantized) else moved
        return self._in_float(node, operands, result)

    def _quantized_only(self, name: str) -> bool:
        readers = self._readers.get(name, [])
        return len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and name not in self._outputs

    def _moved(
        self, node: onnx.NodeProto, codes: Value | None, operands: list[Value | None]
    ) -> list[np.ndarray] | None:
        """Outputs of operators that move, bound or convert values without rounding; None for all others."""
        if not isinstance(codes, np.ndarray):
            return None
        lazy = isinstance(operands[0], Quantized)
        integer = codes.dtype.kind != "f"
        if node.op_type == "MaxPool" and integer and len(node.output) == 1:
            return [pooling.max_pool(codes, attributes_of(node))]
        if _moves(node) and not (lazy and node.op_type == "Pad"):
            return self._single.run(node, [codes, *(None if x is None else _array(x) for x in operands[1:])])
        if integer and not lazy and node.op_type in _ON_CODES:
            return [_ON_CODES[node.op_type](node, codes, [None if x is None else _array(x) for x in operands[1:]])]
        return None

    def _in_float(
        self, node: onnx.NodeProto, operands: list[Value | None], result: ReferenceResult
    ) -> list[np.ndarray]:
        outputs = self._single.run(node, [None if x is None else _array(x) for x in operands])
        constant = all(name in self._constants for name in node.input)
        exact = _is_exact(node, operands)
        if not constant and not exact and any(output.dtype.kind == "f" for output in outputs):
            result.after_float.update(node.output)
        return outputs


def _is_exact(node: onnx.NodeProto, operands: list[Value | None]) -> bool:
    """Whether every implementation of a float operator gives the same bits."""
    if node.op_type == "Sqrt":  # of float32 it is an approximation
        return _array(operands[0]).dtype == np.float64
    return node.op_type in _ROUNDED_ONCE or (node.op_type == "ReduceSum" and _sums_integers(_array(operands[0])))


def _sums_integers(x: np.ndarray) -> bool:
    """Whether float32 holds every sum of elements exactly, in whatever order they are added."""
    return bool(np.array_equal(x, np.rint(x))) and float(np.abs(x, dtype=np.float64).sum(-1).max(initial=0)) <= 2**24


def _moves(node: onnx.NodeProto) -> bool:
    """Whether every output element is an input element, whatever they mean, provided larger codes are larger values."""
    if node.op_type == "Resize":
        return bool(attributes_of(node).get("mode", b"nearest") == b"nearest")
    return node.op_type in MOVES | {"ReduceMax", "ReduceMin"}


def _clip(_: onnx.NodeProto, codes: np.ndarray, bounds: list[np.ndarray | None]) -> np.ndarray:
    low, high = (*bounds, None, None)[:2]
    return codes if low is None and high is None else np.clip(codes, low, high)


def _cast(node: onnx.NodeProto, codes: np.ndarray, _: list[np.ndarray | None]) -> np.ndarray:
    kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"])
    return codes.astype(kind)


def _scale_up(_: onnx.NodeProto, codes: np.ndarray, factors: list[np.ndarray | None]) -> np.ndarray:
    assert factors[0] is not None
    return np.asarray(codes * factors[0])


def _sums(_: onnx.NodeProto, codes: np.ndarray, rest: list[np.ndarray | None]) -> np.ndarray:
    right, *zeros = rest
    assert right is not None
    left_zero, right_zero = (0 if zero is None else int(zero) for zero in (*zeros, None, None)[:2])
    left = codes.astype(np.int16) - left_zero
    return accumulate.multiply(left, right.astype(np.int16) - right_zero).astype(np.int64).astype(np.int32)


# Float operators whose result IEEE 754 fixes to the last bit, or that copy a constant.
_ROUNDED_ONCE = frozenset({"Add", "Cast", "Clip", "ConstantOfShape", "Div", "Mul", "Neg", "Relu", "Sub"})
# Clip bounds activation codes; Cast and Mul unpack INT4 and INT2 weights; products of codes are not quantized again.
_ON_CODES = {"Clip": _clip, "Cast": _cast, "Mul": _scale_up, "MatMulInteger": _sums}


def _quantize(operands: list[Value | None]) -> np.ndarray:
    x, scale = operands[0], _array(operands[1])
    zero = _array(operands[2]) if len(operands) > 2 and operands[2] is not None else np.zeros((), np.uint8)
    if isinstance(x, Pending):
        return operators.quantized(x.node, x.operands, Parameters(scale, zero))
    return arithmetic.quantize(_array(x), scale, zero)


def _dequantize(node: onnx.NodeProto, operands: list[Value | None]) -> Quantized:
    codes, scale = _array(operands[0]), _array(operands[1])
    zero = _array(operands[2]) if len(operands) > 2 and operands[2] is not None else np.zeros((), codes.dtype)
    return Quantized(codes, scale, zero, attributes_of(node).get("axis", 1))


def _value(values: Mapping[str, Value], name: str, reader: str) -> Value:
    if name not in values:
        raise UserError(f"the graph is broken: {reader!r} reads {name!r}, which nothing produces; export it again")
    return values[name]


def _as_array(values: Mapping[str, Value], name: str, reader: str) -> np.ndarray:
    return _array(_value(values, name, reader))


def _array(value: Value | None) -> np.ndarray:
    if isinstance(value, Quantized):
        return value.to_float()
    assert isinstance(value, np.ndarray)  # a Pending value is read by its QuantizeLinear only
    return value
