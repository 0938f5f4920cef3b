"""The graph under construction: its values, the grids that their codes are on, and the tables that describe it.

A quantized tensor is ``QuantizeLinear -> [Clip] -> DequantizeLinear``. Its *value* is the output of DequantizeLinear,
floats that ONNX Runtime never computes where it fuses both ends into integer kernels; its *codes* are the uint8 before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.metadata import LayerRecord, TensorRecord
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams


class NamedParams(NamedTuple):
    """Quantization parameters, and the tensor after which their constants are called in the file."""

    owner: str
    params: QuantParams


@dataclass
class EmitContext:
    """Everything that emitters read and add to.

    Attributes:
        frozen: the integer model.
        weights: "int8" or "packed".
        input_type: "float32", or "uint8" for inputs that are the codes themselves.
        open_sizes: write what can be written for all sizes so.
        builder: where constants and nodes go.
        inputs: inputs of the graph, in order.
        values: by tensor, its float (dequantized) value.
        grids: by tensor, the parameters that its codes are on; tensors in float have none.
        results: by operation with several results, their values, nested as the user's call returns them.
        constants: by tensor that does not depend on the input, its value: a ``QuantizedTensor`` or floats.
        tensors: rows of the table of quantized activations.
        layers: rows of the table of layers with weights.
    """

    frozen: FrozenModel
    weights: str
    input_type: str
    open_sizes: bool = False
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    inputs: list[ir.Value] = field(default_factory=list)
    values: dict[str, ir.Value] = field(default_factory=dict)
    grids: dict[str, NamedParams] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    tensors: list[TensorRecord] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)

    def params(self, node: Node) -> QuantParams:
        """The parameters of a node's own quantizer."""
        assert node.quantizer is not None
        return self.frozen.grid(node.quantizer)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor for the example inputs."""
        return self.frozen.graph.node(tensor).sizes

    def apply(self, node: Node, operator: str, **attributes: Any) -> ir.Value:
        """Append an operator that reads all operands of a node; returns its float value."""
        operands = [self.values[name] for name in node.inputs]
        return self.builder.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)

    def move(
        self, node: Node, operator: str, rest: Sequence[ir.Value | None], *, zero_last: bool = False, **attributes: Any
    ) -> ir.Value:
        """Append an operator that only moves elements; on codes where its first operand has some.

        Args:
            node: the tensor that it makes.
            operator: one that ONNX Runtime would compute in float between quantizers.
            rest: its operands behind the first.
            zero_last: append the zero point to ``rest`` where codes are moved.
            attributes: of the ONNX node.
        """
        operand = node.inputs[0]
        codes = self.codes(operand)
        if codes is None:
            operands = [self.values[operand], *rest]
            return self.builder.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)
        owner, params = self.grids[operand]
        zero = [self.scale_and_zero_point(owner, params)[1]] if zero_last else []
        operands = [codes, *rest, *zero]
        moved = self.builder.add(operator, operands, f"{node.name}.moved", node=node.name, attributes=attributes)
        return self.dequantize(node, params, moved)

    def moved(self, node: Node, value: ir.Value) -> ir.Value:
        """The result of an operator that only moved elements: as it is, for the runtime moves the codes instead."""
        return value

    def quantized(self, node: Node, value: ir.Value) -> ir.Value:
        """Put a float value on the grid of the node's quantizer; returns the dequantized value."""
        params = self.params(node)
        return self.record(node, params, self.quantize(node, params, value))

    def quantize(
        self,
        node: Node,
        params: QuantParams,
        value: ir.Value,
        *,
        made: QuantParams | None = None,
        scale: ir.Value | None = None,
    ) -> ir.Value:
        """Append QuantizeLinear and, below 8 bits, an integer Clip; returns the codes.

        The limits are on codes, for a Clip or Relu on floats in front of the quantizer would keep its producer from
        running in integers.

        Args:
            node: the tensor.
            params: what its codes stand for, and their range.
            value: its floats.
            made: what the codes are made on instead, where they are read otherwise than made (tanh, hard sigmoid).
            scale: divides ``value`` instead of the grid's own scale, where ``value`` is in other units.
        """
        name, b = node.name, self.builder
        own_scale, zero_point = self.scale_and_zero_point(name, made or params, "made_" if made else "")
        operands = [value, own_scale if scale is None else scale, zero_point]
        codes = b.add("QuantizeLinear", operands, f"{name}.quantized", node=name)
        lo, hi = stored_range(params)
        if hi == 255 and (lo == 0 or params.bounded_below):
            return codes  # saturation of uint8 does what a Clip would (decision 12)
        limits = [b.scalar(f"{name}.lo", lo, np.uint8), b.scalar(f"{name}.hi", hi, np.uint8)]
        return b.add("Clip", [codes, *limits], f"{name}.codes", node=name)

    def record(self, node: Node, params: QuantParams, codes: ir.Value) -> ir.Value:
        """Enter the codes of a node with a quantizer in the table of tensors; returns their dequantized value."""
        scale, limits = float(params.scale), stored_range(params)
        row = TensorRecord(node.name, str(codes.name), node.module, params.bits, scale, params.zero_point, *limits)
        self.tensors.append(row)
        self.grids[node.name] = NamedParams(node.name, params)
        return self.dequantize(node, params, codes)

    def dequantize(self, node: Node, params: QuantParams, codes: ir.Value) -> ir.Value:
        """Read codes as the tensor of ``node``, with constants of its own; returns the dequantized value."""
        constants = self.scale_and_zero_point(node.name, params)
        return self.builder.add("DequantizeLinear", [codes, *constants], f"{node.name}.dequantized", node=node.name)

    def scale_and_zero_point(self, owner: str, params: QuantParams, prefix: str = "") -> tuple[ir.Value, ir.Value]:
        """Constants of rank 0: with shape [1], ONNX Runtime cannot load QLinearAdd."""
        scale = self.builder.scalar(f"{owner}.{prefix}scale", float(params.scale), np.float32)
        return scale, self.builder.scalar(f"{owner}.{prefix}zero_point", params.zero_point, np.uint8)

    def codes(self, tensor: str) -> ir.Value | None:
        """The uint8 codes of a tensor; None where it stays in float."""
        if tensor not in self.grids:
            return None
        value = self.values[tensor]
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return producer.inputs[0]
        return self._codes_again(tensor, value)

    def known_codes(self, tensor: str) -> ir.Value:
        """The uint8 codes of a tensor that is quantized."""
        codes = self.codes(tensor)
        assert codes is not None
        return codes

    def _codes_again(self, tensor: str, value: ir.Value) -> ir.Value:
        """Quantize a value that was dequantized before it moved (reshape, transpose, slice, max-pool).

        All its readers are made to read these codes: ONNX Runtime would run those that still read floats in float
        (decision 14).
        """
        b, readers, constants = self.builder, list(value.uses()), self.scale_and_zero_point(*self.grids[tensor])
        codes = b.add("QuantizeLinear", [value, *constants], f"{tensor}.codes_again", node=tensor)
        again = b.add("DequantizeLinear", [codes, *constants], f"{tensor}.dequantized_again", node=tensor)
        for reader in readers:
            reader.node.replace_input_with(reader.idx, again)
        for other in [key for key, known in self.values.items() if known is value]:
            self.values[other] = again
        b.move_last_behind(value, count=2)
        return codes


def stored_range(params: QuantParams) -> tuple[int, int]:
    """The least and the largest code as stored in uint8."""
    return params.lo + params.zero_point, params.hi + params.zero_point
