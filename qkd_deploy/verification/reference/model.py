"""Exact interpreter of exported graphs: the second opinion on every code that ONNX Runtime computes.

It reads the ONNX file alone and shares no code with the torch side. Quantized operators follow the integer formulas of
ONNX Runtime's kernels (see :mod:`rounding`); a DequantizeLinear stays lazy until it is known whether its reader works
on codes. Operators outside the contract run in float, and everything behind them is marked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.verification.onnx_graph import OnnxGraph, attributes_of
from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.operator import Operator, Values
from qkd_deploy.verification.reference.operators import row_of
from qkd_deploy.verification.reference.rounding import Parameters
from qkd_deploy.verification.reference.single_node import SingleNodes, cannot_evaluate
from qkd_deploy.verification.reference.values import Pending, Quantized, Value, as_array, as_arrays

_BAD_OPERANDS = (ValueError, IndexError, TypeError, KeyError, AssertionError)
"""What NumPy and our own functions raise for operands of a damaged graph."""


@dataclass
class ReferenceResult:
    """Results of one batch.

    Attributes:
        outputs: graph outputs by name.
        codes: by ONNX value name, uint8 inputs, and what quantizers wrote and dequantizers of activations read.
        after_float: names of all values that a float operator had a part in.
        rounded: names of the codes that were rounded from such values, not computed by an integer kernel.
        near_ties: of these, where they are true: values so near the middle of two codes that either may be right.
        moved: if set, what moves them by chance before they are rounded, by how many steps at most.
    """

    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    after_float: set[str] = field(default_factory=set)
    rounded: set[str] = field(default_factory=set)
    near_ties: dict[str, np.ndarray] = field(default_factory=dict)
    moved: tuple[np.random.Generator, float] | None = None


class ReferenceModel:
    """Interprets one model; constants (packed weights too) are evaluated once.

    Raises:
        UserError: it holds an operator that cannot be evaluated.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._single, self._graph = SingleNodes(model), OnnxGraph(model)
        self._constants: dict[str, Value] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []  # those that depend on the input
        with np.errstate(all="ignore"):
            for node in self._graph.nodes:
                self._take_in(node)
        self._reads = Counter(name for node in self._nodes for name in set(node.input))

    def _take_in(self, node: onnx.NodeProto) -> None:
        """Evaluate a node of constants; keep any other for the runs."""
        if all(name in self._constants for name in node.input if name):
            self._evaluate(node, self._constants, ReferenceResult(), {})
        else:
            self._nodes.append(node)

    def constant(self, name: str) -> Quantized | None:
        """A dequantized constant, with its codes (unpacked); None for anything else."""
        value = self._constants.get(name)
        return value if isinstance(value, Quantized) else None

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        continue_with: Mapping[str, np.ndarray] | None = None,
        moved: tuple[np.random.Generator, float] | None = None,
    ) -> ReferenceResult:
        """Outputs and codes of one batch.

        Args:
            feeds: an array for each graph input.
            continue_with: codes by ONNX value name, from the runtime. Behind a float operator, where own codes may
                differ by a rounding, the interpreter notes its own and goes on with these: differences stay local.
            moved: move values behind a float operator by chance before they are rounded to codes, by up to so many
                steps.
        """
        values: dict[str, Value] = {name: np.asarray(feeds[name]) for name in self._graph.inputs if name in feeds}
        raw = {name: feeds[name] for name in values if feeds[name].dtype == np.uint8}
        result = ReferenceResult(codes=raw, moved=moved)
        values |= self._constants
        unread = self._reads.copy()
        with np.errstate(all="ignore"):
            for node in self._nodes:
                self._evaluate(node, values, result, continue_with or {})
                self._release(node, values, unread)
            result.outputs = {name: as_array(values[name]) for name in self._graph.outputs}
        return result

    def _release(self, node: onnx.NodeProto, values: dict[str, Value], unread: Counter[str]) -> None:
        """Drop the values that nobody reads after ``node``."""
        for name in set(node.input):
            unread[name] -= 1
            if not unread[name] and name not in self._graph.outputs:
                values.pop(name, None)

    def _evaluate(
        self,
        node: onnx.NodeProto,
        values: dict[str, Value],
        result: ReferenceResult,
        given: Mapping[str, np.ndarray],
    ) -> None:
        """Compute a node, and add what it makes to ``values`` and ``result``."""
        if not result.after_float.isdisjoint(node.input):
            result.after_float.update(node.output)
        operands = _operands(node, values)
        if node.op_type == "DequantizeLinear":
            operands[0] = self._codes_read(node.input[0], operands[0], result, given)
        try:
            outputs = self._outputs_of(node, tuple(operands), result)
        except _BAD_OPERANDS as error:
            raise cannot_evaluate(node, error) from error
        if _is_codes(node, outputs[0]):
            result.codes[node.output[0]] = as_array(outputs[0])
        values.update(zip(filter(None, node.output), outputs, strict=False))

    def _codes_read(
        self, name: str, codes: Value | None, result: ReferenceResult, given: Mapping[str, np.ndarray]
    ) -> Value | None:
        """The codes that a DequantizeLinear goes on with: behind a float operator, the given ones."""
        if name in self._constants:
            return codes
        result.codes.setdefault(name, as_array(codes))
        return given[name] if name in result.after_float and name in given else codes

    def _outputs_of(self, node: onnx.NodeProto, operands: Values, result: ReferenceResult) -> Sequence[Value]:
        """The outputs of a node, by the first of the ways to compute it that its row and its operands allow."""
        if node.op_type == "QuantizeLinear":
            if node.input[0] not in result.after_float or isinstance(operands[0], Pending):
                return [_quantize(operands, None)]
            result.rounded.update(node.output)
            result.near_ties[node.output[0]] = rounding.near_ties(as_array(operands[0]), as_array(operands[1]))
            return [_quantize(operands, result.moved)]
        if node.op_type == "DequantizeLinear":
            return [_dequantize(node, operands)]
        row = row_of(node)
        for way in (self._fused, self._moved, _on_codes, _on_integers):
            outputs = way(node, row, operands)
            if outputs is not None:
                return outputs
        return self._in_float(node, row, operands, result)

    def _fused(self, node: onnx.NodeProto, row: Operator, operands: Values) -> list[Value] | None:
        """An integer kernel: it waits for its quantizer, or gives exact floats where it has none."""
        if row.fused is None or not row.fits(node, operands):
            return None
        quantized = tuple(operand if isinstance(operand, Quantized) else None for operand in operands)
        if self._is_quantized_only(node.output[0]):
            return [Pending(node, quantized)]
        return None if row.exact_float is None else [row.exact_float(node, quantized)]

    def _is_quantized_only(self, name: str) -> bool:
        """True where nothing but a QuantizeLinear gets a value."""
        return self._graph.is_quantized_only(name) and name not in self._graph.outputs

    def _moved(self, node: onnx.NodeProto, row: Operator, operands: Values) -> list[Value] | None:
        """An operator that moves codes or floats."""
        moves = row.moves(node) if callable(row.moves) else row.moves
        codes = _moved_array(operands)
        pads_floats = node.op_type == "Pad" and isinstance(operands[0], Quantized)  # what is put around is no code
        if not moves or codes is None or pads_floats:
            return None
        return _on_the_same_grid(operands[0], self._single.run(node, [codes, *as_arrays(operands[1:])]))

    def _in_float(self, node: onnx.NodeProto, row: Operator, operands: Values, result: ReferenceResult) -> list[Value]:
        """Compute a node on floats as the runtime does; mark values behind it unless all implementations agree."""
        outputs = self._single.run(node, as_arrays(operands))
        makes_floats = any(output.dtype.kind == "f" for output in outputs)
        rounds_once = row.rounds_once(operands) if callable(row.rounds_once) else row.rounds_once
        if makes_floats and not rounds_once:
            result.after_float.update(node.output)
        return list(outputs)


def _moved_array(operands: Values) -> np.ndarray | None:
    """Prepare the operand of an operator that moves values or picks some: codes of one grid, or an array as it is."""
    first = operands[0] if operands else None
    if isinstance(first, Quantized):
        return first.codes if first.scalar else None
    return first if isinstance(first, np.ndarray) else None


def _on_the_same_grid(before: Value | None, moved: Sequence[np.ndarray]) -> list[Value]:
    return [before.with_codes(part) for part in moved] if isinstance(before, Quantized) else list(moved)


def _on_codes(node: onnx.NodeProto, row: Operator, operands: Values) -> list[Value] | None:
    """An operator whose integer kernel gives codes on the grid of its operand."""
    codes = _moved_array(operands)
    if row.on_codes is None or codes is None or codes.dtype.kind == "f" or len(node.output) > 1:
        return None
    return _on_the_same_grid(operands[0], [row.on_codes(node, codes)])


def _on_integers(node: onnx.NodeProto, row: Operator, operands: Values) -> list[Value] | None:
    """An operator on integers before any DequantizeLinear."""
    codes = operands[0] if operands else None
    if row.on_integers is None or not isinstance(codes, np.ndarray) or codes.dtype.kind == "f":
        return None
    return [row.on_integers(node, codes, as_arrays(operands[1:]))]


def _quantize(operands: Values, moved: tuple[np.random.Generator, float] | None) -> np.ndarray:
    x, scale = operands[0], as_array(operands[1])
    zero = _zero_point(operands, np.dtype(np.uint8))
    if not isinstance(x, Pending):
        return rounding.quantize(_moved_by_chance(as_array(x), scale, moved), scale, zero)
    fused = row_of(x.node).fused
    assert fused is not None
    return fused(x.node, x.operands, Parameters(scale, zero))


def _moved_by_chance(x: np.ndarray, scale: np.ndarray, moved: tuple[np.random.Generator, float] | None) -> np.ndarray:
    if moved is None:
        return x
    generator, steps = moved
    return np.asarray(x + generator.uniform(-steps, steps, x.shape).astype(np.float32) * scale)


def _dequantize(node: onnx.NodeProto, operands: Values) -> Quantized:
    codes, scale = as_array(operands[0]), as_array(operands[1])
    return Quantized(codes, scale, _zero_point(operands, codes.dtype), attributes_of(node).get("axis", 1))


def _zero_point(operands: Values, kind: np.dtype[np.generic]) -> np.ndarray:
    """The third operand, 0 where it is left out."""
    given = operands[2] if len(operands) > 2 else None
    return np.zeros((), kind) if given is None else as_array(given)


def _is_codes(node: onnx.NodeProto, output: Value) -> bool:
    """True where the first output of a node holds codes."""
    return node.op_type == "QuantizeLinear" or (isinstance(output, np.ndarray) and output.dtype == np.uint8)


def _operands(node: onnx.NodeProto, values: Mapping[str, Value]) -> list[Value | None]:
    """The values that a node reads; None for inputs that are left out."""
    return [values[name] if name else None for name in node.input]
