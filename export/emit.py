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

from qkd_deploy.errors import UserError
from qkd_deploy.export.float_islands import emit_island
from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.export.layer_norm import emit_exact_norm, emit_float_norm
from qkd_deploy.export.layers import dequantize_weight, emit_layer
from qkd_deploy.export.metadata import LayerRecord, TensorRecord
from qkd_deploy.graph import contract, operations
from qkd_deploy.graph.contract import OPERATORS
from qkd_deploy.graph.frozen import POOL_CODE, Codes, FrozenModel, Grid, TableGrid, pool_weight_scale
from qkd_deploy.graph.ir import Node, Ref, references, substitute
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.unary import RELABELLED, before_key

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


class _Emitter:
    def __init__(self, frozen: FrozenModel, weights: str, input_type: str) -> None:
        self.frozen, self.weights, self.input_type = frozen, weights, input_type
        self.builder = GraphBuilder()
        self.values: dict[str, ir.Value] = {}  # tensor name -> its float (dequantized) value
        self.grids: dict[str, tuple[Node, Grid]] = {}  # tensor name -> whose grid its codes are on
        self.fixed = frozen.graph.constants()
        self.constants: dict[str, Any] = {}  # their values: codes, or floats that only floats read
        self.inputs: list[ir.Value] = []
        self.tensors: list[TensorRecord] = []
        self.layers: list[LayerRecord] = []
        self.handlers: dict[str, Callable[[Node], ir.Value]] = {
            "input": self._input,
            "layer": self._layer,
            "add": lambda node: self._simple(node, "Add"),
            "concat": lambda node: self._simple(node, "Concat", axis=node.kwargs["dim"]),
            "mul": lambda node: self._simple(node, "Mul"),
            "matmul": lambda node: self._simple(node, "MatMul"),
            "sigmoid": lambda node: self._simple(node, "Sigmoid"),
            "tanh": self._tanh,
            "hard_sigmoid": self._hard_sigmoid,
            "leaky_relu": self._leaky_relu,
            "softmax": lambda node: self._simple(node, "Softmax", axis=-1),
            "layer_norm": self._layer_norm,
            "table": self._island,
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
            "dropout": lambda node: self.values[node.inputs[0]],
            "batch_norm": self._island,
            "float": self._island,
        }

    def run(self) -> Emitted:
        for node in self.frozen.graph.nodes:
            if node.kind != "python":
                self.values[node.name] = self._value(node)
        model = self.builder.model(self.inputs, self._outputs())
        self._name_batch(model)
        return Emitted(model, tuple(self.tensors), tuple(self.layers))

    def _value(self, node: Node) -> ir.Value:
        """The float (dequantized) value of a node's tensor."""
        if node.name in self.fixed:
            return self._fixed(node)
        first = node.inputs[0] if node.inputs else ""
        if node.kind == "table" and node.quantizer is not None:
            return self._table(node)
        value = self.handlers[node.kind](node)
        if node.quantizer is not None:
            grid = self.frozen.grid(node.quantizer)
            self.grids[node.name] = (node, grid)
            return self._quantize(node, grid, value)
        if OPERATORS[node.kind].operand_bits == "codes" and first in self.grids:
            self.grids.setdefault(node.name, self.grids[first])
        return self._float_clip(node, value)

    def _fixed(self, node: Node) -> ir.Value:
        """A tensor that does not depend on the input, computed here and now."""

        def value(ref: Ref) -> Any:
            return self.constants[ref.name]

        made = self.frozen.evaluate(node, *substitute((node.args, node.kwargs), value))
        self.constants[node.name] = made
        if not isinstance(made, Codes):
            return self.builder.constant(f"{node.name}.value", made.detach().cpu().numpy())
        self.grids[node.name] = (node, made.grid)
        codes = self.builder.constant(f"{node.name}.codes", made.grid.store(made.codes))
        return self._dequantize(node, made.grid, codes)

    # -- quantizers --------------------------------------------------------------------------------------------------

    def _quantize(self, node: Node, grid: Grid, value: ir.Value) -> ir.Value:
        """Q -> [Clip] -> DQ behind a value; a uint8 input already is the codes."""
        name, b = node.name, self.builder
        made = self.frozen.grid(before_key(node)) if node.kind in RELABELLED else None
        scale, zero_point = self._grid_constants(node, made or grid, "made_" if made else "")
        lo, hi = grid.lo + grid.zero_point, grid.hi + grid.zero_point
        if value.name == name and value.type == ir.TensorType(ir.DataType.UINT8):
            codes = value
        else:
            codes = b.add("QuantizeLinear", [value, scale, zero_point], f"{name}.quantized", node=name)
            if not self._saturates(node, lo, hi):
                limits = [b.scalar(f"{name}.lo", lo, np.uint8), b.scalar(f"{name}.hi", hi, np.uint8)]
                codes = b.add("Clip", [codes, *limits], f"{name}.codes", node=name)
        return self._recorded(node, grid, codes)

    def _recorded(self, node: Node, grid: Grid, codes: ir.Value) -> ir.Value:
        """The real values of codes, which get a row of the table of tensors."""
        lo, hi = grid.lo + grid.zero_point, grid.hi + grid.zero_point
        name, scale = node.name, float(grid.scale)
        self.tensors.append(TensorRecord(name, str(codes.name), node.module, grid.bits, scale, grid.zero_point, lo, hi))
        return self._dequantize(node, grid, codes)

    def _dequantize(self, node: Node, grid: Grid, codes: ir.Value) -> ir.Value:
        scale, zero_point = self._grid_constants(node, grid)
        return self.builder.add(
            "DequantizeLinear", [codes, scale, zero_point], f"{node.name}.dequantized", node=node.name
        )

    def _grid_constants(self, node: Node, grid: Grid, prefix: str = "") -> tuple[ir.Value, ir.Value]:
        b = self.builder
        scale = b.scalar(f"{node.name}.{prefix}scale", float(grid.scale), np.float32)
        return scale, b.scalar(f"{node.name}.{prefix}zero_point", grid.zero_point, np.uint8)

    def _codes(self, name: str) -> ir.Value | None:
        """The codes of a tensor; None where it stays in float."""
        if name not in self.grids:
            return None
        value = self.values[name]
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return producer.inputs[0]
        holder, grid = self.grids[name]  # dequantized before it moved: the same codes again
        constants = self._grid_constants(holder, grid)
        return self.builder.add("QuantizeLinear", [value, *constants], f"{name}.codes_again", node=name)

    def _saturates(self, node: Node, lo: int, hi: int) -> bool:
        """Whether uint8 saturation alone keeps the codes in range."""
        if lo > 0:  # codes at the top of uint8 (TensorSpec.saturating): their operand is never negative
            source = self.grids.get(node.inputs[0]) if node.kind == "requantize" else None
            return hi == 255 and source is not None and source[1].lo == 0
        return hi == 255

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

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _input(self, node: Node) -> ir.Value:
        raw = self.input_type == "uint8" and node.quantizer is not None
        dtype = ir.DataType.UINT8 if raw else ir.DataType.FLOAT
        shape = [BATCH if i in (node.batch_dims or (0,)) else size for i, size in enumerate(node.shape or ())]
        value = ir.Value(name=node.name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def _simple(self, node: Node, operator: str, **attributes: Any) -> ir.Value:
        operands = [self.values[name] for name in node.inputs]
        return self.builder.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)

    def _max_pool(self, node: Node) -> ir.Value:
        dilations, ceil_mode = list(node.kwargs["dilation"]), int(node.kwargs["ceil_mode"])
        return self._simple(node, "MaxPool", **_windows(node), dilations=dilations, ceil_mode=ceil_mode)

    def _avg_pool(self, node: Node) -> ir.Value:
        """A depthwise convolution with equal weights: exact, and several times faster than the runtime's pool."""
        if node.quantizer is None:
            return self._simple(node, "AveragePool", **_windows(node), count_include_pad=1)
        kernel, b, name = node.kwargs["kernel_size"], self.builder, node.name
        channels = (node.shape or ())[1]
        codes = b.constant(f"{name}.weight", np.full((channels, 1, *kernel), POOL_CODE, np.int8))
        scale = np.full(channels, pool_weight_scale(kernel), np.float32)
        weight = dequantize_weight(b, name, codes, scale)
        attributes = {**_windows(node), "group": channels}
        return b.add("Conv", [self.values[node.inputs[0]], weight], f"{name}.float", node=name, attributes=attributes)

    def _uneven_avg_pool(self, node: Node) -> ir.Value:
        ceil_mode = int(node.kwargs["ceil_mode"])
        return self._simple(node, "AveragePool", **_windows(node), ceil_mode=ceil_mode, count_include_pad=0)

    def _tanh(self, node: Node) -> ir.Value:
        """Codes of ``sigmoid(2 * x)``, which are read as those of tanh."""
        operand, b = node.inputs[0], self.builder
        codes = self._codes(operand)
        if codes is None or node.quantizer is None:
            return self._simple(node, "Tanh")
        _, grid = self.grids[operand]
        scale, zero_point = self._grid_constants(node, grid.times(2.0), "doubled_")
        doubled = b.add("DequantizeLinear", [codes, scale, zero_point], f"{node.name}.doubled", node=node.name)
        return b.add("Sigmoid", [doubled], f"{node.name}.float", node=node.name)

    def _hard_sigmoid(self, node: Node) -> ir.Value:
        """Codes of ``x`` on another grid, which are read as those of the function."""
        if node.quantizer is None:
            return self._simple(node, "HardSigmoid", alpha=1 / 6, beta=0.5)
        return self._requantize(node)

    def _table(self, node: Node) -> ir.Value:
        """Codes looked up by codes; GatherElements on one dimension is ten times as fast as Gather."""
        grid, b, name = self.frozen.grid(str(node.quantizer)), self.builder, node.name
        assert isinstance(grid, TableGrid)
        self.grids[name] = (node, grid)
        table = b.constant(
            f"{name}.{contract.table_name(self.frozen.network, node.target)}.table", grid.table.cpu().numpy()
        )
        flat = b.constant(f"{name}.flat", np.array([-1], np.int64))
        shape = [-1 if i in node.batch_dims else size for i, size in enumerate(node.shape or ())]
        back = b.constant(f"{name}.shape", np.array(shape, np.int64))
        line = b.add("Reshape", [self._codes(node.inputs[0]), flat], f"{name}.line", node=f"{name}.flat")
        index = b.add("Cast", [line], f"{name}.index", node=name, attributes={"to": ir.DataType.INT32})
        found = b.add("GatherElements", [table, index], f"{name}.found", node=name, attributes={"axis": 0})
        codes = b.add("Reshape", [found, back], f"{name}.codes", node=f"{name}.back")
        return self._recorded(node, grid, codes)

    def _layer_norm(self, node: Node) -> ir.Value:
        codes, (_, weight, bias) = self._codes(node.inputs[0]), node.args
        gain, offset = (None if ref is None else self.values[ref.name] for ref in (weight, bias))
        if codes is None or node.quantizer is None:
            return emit_float_norm(self.builder, node, self.values[node.inputs[0]], gain, offset)
        return emit_exact_norm(self.builder, node, self.grids[node.inputs[0]][1], codes, gain, offset)

    def _leaky_relu(self, node: Node) -> ir.Value:
        slope = operations.slope_of(self.frozen.network, self.frozen.graph, node)
        operand = self.values[node.inputs[0]]
        return self.builder.add(
            "LeakyRelu", [operand], f"{node.name}.float", node=node.name, attributes={"alpha": slope}
        )

    def _requantize(self, node: Node) -> ir.Value:
        """Codes on another grid: an integer addition of zero, which unlike Q behind DQ is never merged away."""
        operand, b = node.inputs[0], self.builder
        if operand not in self.grids:
            return self.values[operand]
        holder, grid = self.grids[operand]
        scale, zero_point = self._grid_constants(holder, grid)
        code = b.scalar(f"{node.name}.zero", grid.zero_point, np.uint8)
        zero = b.add(
            "DequantizeLinear", [code, scale, zero_point], f"{node.name}.zero.dequantized", node=f"{node.name}.zero"
        )
        return b.add("Add", [self.values[operand], zero], f"{node.name}.float", node=node.name)

    def _reshape(self, node: Node) -> ir.Value:
        if len(node.batch_dims) > 1:
            raise UserError(f"{node.name} spreads the batch over several dimensions; reshape one sample at a time")
        shape = [-1 if i in node.batch_dims else size for i, size in enumerate(node.shape or ())]
        target = self.builder.constant(f"{node.name}.shape", np.array(shape, np.int64))
        operands = [self.values[node.inputs[0]], target]
        return self.builder.add("Reshape", operands, f"{node.name}.float", node=node.name)

    def _slice(self, node: Node) -> ir.Value:
        axes, starts, stops = np.array(node.kwargs["ranges"], np.int64).reshape(-1, 3).T
        bounds = {"starts": starts, "stops": stops, "axes": axes}
        limits = [self.builder.constant(f"{node.name}.{key}", values) for key, values in bounds.items()]
        return self.builder.add("Slice", [self.values[node.inputs[0]], *limits], f"{node.name}.float", node=node.name)

    def _pad(self, node: Node) -> ir.Value:
        """On codes, where zero is the zero point."""
        amounts = np.array(node.kwargs["amounts"], np.int64)
        pads = self.builder.constant(f"{node.name}.pads", amounts.T.reshape(-1))
        mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[node.kwargs["mode"]]
        return self._on_codes(node, "Pad", [pads], mode == "constant", {"mode": mode})

    def _resize(self, node: Node) -> ir.Value:
        b, factors = self.builder, node.kwargs["factors"]
        scales = b.constant(f"{node.name}.scales", np.array([1, 1, *factors], np.float32))
        attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._on_codes(node, "Resize", [None, scales], False, attributes)

    def _rescale(self, node: Node) -> ir.Value:
        """The same codes with another scale."""
        codes, factor = self._codes(node.inputs[0]), node.kwargs["factor"]
        if codes is None:
            number = self.builder.scalar(f"{node.name}.factor", factor, np.float32)
            return self.builder.add("Mul", [self.values[node.inputs[0]], number], f"{node.name}.float", node=node.name)
        grid = self.frozen.grid(module_key(node.name))
        self.grids[node.name] = (node, grid)
        return self._dequantize(node, grid, codes)

    def _roll(self, node: Node) -> ir.Value:
        """The end in front of the beginning, dimension by dimension, on codes where there are any."""
        b, operand = self.builder, node.inputs[0]
        value, shape = self._codes(operand) or self.values[operand], node.shape or ()
        for i, (shift, dim) in enumerate(zip(node.kwargs["shifts"], node.kwargs["dims"], strict=True)):
            at, parts = (-shift) % shape[dim], []
            for part, bounds in (("end", (at, shape[dim])), ("beginning", (0, at))):
                limits = [
                    b.constant(f"{node.name}.{part}_{i}.{key}", np.array([number], np.int64))
                    for key, number in zip(("start", "stop", "axis"), (*bounds, dim), strict=True)
                ]
                parts.append(b.add("Slice", [value, *limits], f"{node.name}.{part}_{i}", node=node.name))
            value = b.add("Concat", parts, f"{node.name}.rolled_{i}", node=node.name, attributes={"axis": dim})
        return self._dequantize(node, self.grids[operand][1], value) if operand in self.grids else value

    def _on_codes(
        self, node: Node, operator: str, rest: list[ir.Value | None], zero_last: bool, attributes: dict[str, Any]
    ) -> ir.Value:
        """An operator that the runtime would compute in float between quantizers, directly on codes."""
        b, codes = self.builder, self._codes(node.inputs[0])
        if codes is None:
            operands = [self.values[node.inputs[0]], *rest]
            return b.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)
        holder, grid = self.grids[node.inputs[0]]
        zero = [self._grid_constants(holder, grid)[1]] if zero_last else []
        moved = b.add(operator, [codes, *rest, *zero], f"{node.name}.moved", node=node.name, attributes=attributes)
        return self._dequantize(node, grid, moved)

    def _island(self, node: Node) -> ir.Value:
        if len(list(references((node.args, node.kwargs)))) != len([n for n in node.inputs if n in self.values]):
            raise UserError(f"{node.name} computes sizes at run time outside a reshape, which cannot be exported")
        return emit_island(self.builder, self.frozen, node, self.values)

    def _layer(self, node: Node) -> ir.Value:
        value, record = emit_layer(self.builder, self.frozen, node, self.values[node.inputs[0]], self.weights)
        self.layers.append(record)
        return value

    # -- outputs -----------------------------------------------------------------------------------------------------

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


def _windows(node: Node) -> dict[str, list[int]]:
    """The attributes that all pooling operators share."""
    options = node.kwargs
    return {
        "kernel_shape": list(options["kernel_size"]),
        "strides": list(options["stride"]),
        "pads": list(options["padding"]) * 2,
    }


def _output_names(output: Any) -> list[str]:
    if isinstance(output, Ref):
        return ["output"]
    if isinstance(output, dict) and all(isinstance(value, Ref) for value in output.values()):
        return [str(key) for key in output]
    return [f"output_{i}" for i in range(len(list(references(output))))]
