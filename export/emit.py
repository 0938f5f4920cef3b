"""Frozen model -> QDQ ONNX, node by node, in the form that ONNX Runtime fuses into integer kernels.

Activations are uint8 with rank-0 scale and zero point: ``QuantizeLinear -> [Clip on uint8] -> DequantizeLinear``.
Activation functions never appear: they are the ranges of the codes. Weights are int8 (or packed) behind a per-channel
``DequantizeLinear`` with explicit zero points, biases int32 behind one of scale ``s_x * s_w``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qkd_deploy.export.metadata import LayerRecord, TensorRecord
from qkd_deploy.export.ops.activations import Functions
from qkd_deploy.export.ops.float_islands import emit_float_op
from qkd_deploy.export.ops.layers import emit_layer
from qkd_deploy.export.ops.movement import Movement
from qkd_deploy.export.ops.pooling import Pooling
from qkd_deploy.export.ops.products import Products
from qkd_deploy.export.ops.tokens import Tokens
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node, Ref, references, substitute
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.quantized import QuantizedTensor

BATCH = "batch"


@dataclass(frozen=True)
class Emitted:
    """An ONNX model without metadata, and the tables that describe its tensors and layers."""

    model: onnx.ModelProto
    tensors: tuple[TensorRecord, ...]
    layers: tuple[LayerRecord, ...]


def emit(frozen: FrozenModel, *, weights: str = "int8", input_type: str = "float32") -> Emitted:
    """Write a frozen model as ONNX.

    Args:
        frozen: the integer model.
        weights: "int8" or "packed" (INT4 or INT2 where the bits allow it).
        input_type: "float32", or "uint8" for inputs that are the codes themselves.

    Raises:
        UserError: an operation that ONNX cannot express.
    """
    return _Emitter(frozen, weights, input_type).run()


class _Emitter(Functions, Movement, Pooling, Products, Tokens):
    def __init__(self, frozen: FrozenModel, weights: str, input_type: str) -> None:
        super().__init__(frozen)
        self.weights, self.input_type = weights, input_type
        self.fixed = frozen.graph.constants()
        self.constants: dict[str, Any] = {}  # their values: codes, or floats that only floats read
        self.layers: list[LayerRecord] = []
        self.ready: dict[str, Callable[[Node], ir.Value]] = {  # those that bring their quantizers
            "lookup": self._table,
            "exponential": self._exponential,
            "weighted_mean": self._weighted_mean,
        }
        self.handlers: dict[str, Callable[[Node], ir.Value]] = {
            "input": self._input,
            "conv": self._layer,
            "linear": self._layer,
            "add": lambda node: self._simple(node, "Add"),
            "concat": lambda node: self._simple(node, "Concat", axis=node.kwargs["dim"]),
            "mul": self._mul,
            "matmul": self._matmul,
            "sigmoid": lambda node: self._simple(node, "Sigmoid"),
            "tanh": self._tanh,
            "hard_sigmoid": self._hard_sigmoid,
            "leaky_relu": self._leaky_relu,
            "softmax": lambda node: self._simple(node, "Softmax", axis=-1),
            "layer_norm": self._layer_norm,
            "lookup": self._island,
            "max_pool": self._max_pool,
            "avg_pool": self._avg_pool,
            "uneven_avg_pool": self._uneven_avg_pool,
            "global_avg_pool": lambda node: self._simple(node, "GlobalAveragePool"),
            "requantize": self._requantize,
            "clip": self._requantize,
            "reshape": self._reshape,
            "transpose": lambda node: self._simple(node, "Transpose", perm=list(node.kwargs["dims"])),
            "slice": self._slice,
            "pad": self._pad,
            "resize": self._resize,
            "rescale": self._rescale,
            "roll": self._roll,
            "expand": self._expand,
            "index": self._index,
            "amax": lambda node: self._extreme(node, "ReduceMax"),
            "amin": lambda node: self._extreme(node, "ReduceMin"),
            "dropout": lambda node: self.values[node.inputs[0]],
            "batch_norm": self._island,
            "float_op": self._island,
        }

    def run(self) -> Emitted:
        for node in self.frozen.graph.nodes:
            if node.kind != "scalar":
                self.values[node.name] = self._value(node)
        model = self.builder.model(self.inputs, self._outputs())
        self._name_batch(model)
        return Emitted(model, tuple(self.tensors), tuple(self.layers))

    def _value(self, node: Node) -> ir.Value:
        """The float (dequantized) value of a node's tensor."""
        if node.name in self.fixed:
            return self._fixed(node)
        first = node.inputs[0] if node.inputs else ""
        if node.kind in self.ready and node.quantizer is not None:
            return self.ready[node.kind](node)
        value = self.handlers[node.kind](node)
        if node.quantizer is not None:
            grid = self.frozen.grid(node.quantizer)
            self.grids[node.name] = (node, grid)
            return self._quantize(node, grid, value)
        if operator_of(node).moves_codes and first in self.grids:
            self.grids.setdefault(node.name, self.grids[first])
        return self._float_clip(node, value)

    def _fixed(self, node: Node) -> ir.Value:
        """A tensor that does not depend on the input, computed here and now."""

        def value(ref: Ref) -> Any:
            return self.constants[ref.name]

        made = self.frozen.evaluate(node, *substitute((node.args, node.kwargs), value))
        self.constants[node.name] = made
        if not isinstance(made, QuantizedTensor):
            return self.builder.constant(f"{node.name}.value", made.detach().cpu().numpy())
        self.grids[node.name] = (node, made.grid)
        codes = self.builder.constant(f"{node.name}.codes", made.grid.store(made.codes))
        return self._dequantize(node, made.grid, codes)

    def _float_clip(self, node: Node, value: ir.Value) -> ir.Value:
        """The activation function of a tensor that stays in float."""
        if node.clip is None:
            return value
        low, high = node.clip
        if (low, high) == (0.0, float("inf")):
            return self.builder.add("Relu", [value], f"{node.name}.clipped", node=node.name)
        limits = [
            self.builder.scalar(f"{node.name}.{end}", limit, np.float32) if np.isfinite(limit) else None
            for end, limit in (("min", low), ("max", high))
        ]
        return self.builder.add("Clip", [value, *limits], f"{node.name}.clipped", node=node.name)

    def _input(self, node: Node) -> ir.Value:
        raw = self.input_type == "uint8" and node.quantizer is not None
        dtype = ir.DataType.UINT8 if raw else ir.DataType.FLOAT
        shape = [BATCH if i in (node.batch_dims or (0,)) else size for i, size in enumerate(node.shape or ())]
        value = ir.Value(name=node.name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def _island(self, node: Node) -> ir.Value:
        return emit_float_op(self.builder, self.frozen, node, self.values)

    def _layer(self, node: Node) -> ir.Value:
        tokens = node.is_on_tokens
        operand = self._image_of_tokens(node) if tokens else self.values[node.inputs[0]]
        value, record = emit_layer(self.builder, self.frozen, node, operand, self.weights)
        self.layers.append(record)
        return value

    def _outputs(self) -> list[ir.Value]:
        names = _output_names(self.frozen.graph.output)
        outputs: list[ir.Value] = []
        for name, tensor in zip(names, self.frozen.graph.outputs(), strict=True):
            outputs.append(self.builder.add("Identity", [self.values[tensor]], name, node=name))
        return [self._without_identity(value) for value in outputs]

    def _name_batch(self, model: onnx.ModelProto) -> None:
        """Call the batch dimension of the outputs by its name, which shape inference loses in reshapes."""
        for output, tensor in zip(model.graph.output, self.frozen.graph.outputs(), strict=True):
            dims = output.type.tensor_type.shape.dim
            for i in self.frozen.graph.node(tensor).batch_dims:
                dims[i].dim_param = BATCH

    def _without_identity(self, value: ir.Value) -> ir.Value:
        """Let the producing node write the output itself where nobody else reads or returns its value."""
        identity = value.producer()
        assert identity is not None
        (source,) = identity.inputs
        assert source is not None
        if source.producer() is None or len(source.uses()) != 1 or source.name in self.builder.initializers:
            return value
        self.builder.nodes.remove(identity)
        identity.replace_input_with(0, None)
        source.name = value.name
        return source


def _output_names(output: Any) -> list[str]:
    if isinstance(output, Ref):
        return ["output"]
    if isinstance(output, dict) and all(isinstance(value, Ref) for value in output.values()):
        return [str(key) for key in output]
    return [f"output_{i}" for i in range(len(list(references(output))))]
