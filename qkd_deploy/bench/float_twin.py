"""The same network in float: what an exported integer model is compared with in speed, memory and size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qkd_deploy.bench.float_attention import AttentionTwin
from qkd_deploy.bench.float_readings import CodeGrid, table_function, unfolded
from qkd_deploy.export.ops.matmul import RIGHT
from qkd_deploy.export.ops.tokens import CHANNELS_FIRST, CHANNELS_LAST, IMAGE
from qkd_deploy.verification.reference.values import attributes_of

# A quantizer with zero point 0 behind one of these also is its ReLU; behind others the values are not negative anyway.
_SIGNED_RESULTS = frozenset({"Conv", "Gemm", "MatMul", "Add"})
_FOLDING_STEPS = 6  # nodes by which export folds pixels into channels in front of a convolution


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without quantization: float weights and biases, no quantizers, ReLU where a quantizer stood for it.

    Additions of zero, which only change the grid, are left out, convolutions that export rewrote for the integer kernel
    get their plain form back, as do functions that became tables or readings of other codes, and uint8 inputs become
    float32. The result computes about the same as the integer model;
    ONNX Runtime optimizes it like any float model.
    """
    return _Twin(model).build()


class _Twin(AttentionTwin):
    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._model = model
        self._constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._same: dict[str, str] = {}  # value of the model -> value of the twin
        self._nodes: list[onnx.NodeProto] = []
        self._rectified: dict[str, str] = {}
        self._looked_up: set[str] = set()  # results of tables
        self._handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Cast": self._cast,
            "GatherElements": self._look_up,
            "Reshape": self._reshape,
            "Clip": self._clip,
            "Add": self._add,
            "Conv": self._conv,
            "Transpose": self._transpose,
            "Sub": self._subtract,
            "Exp": self._exponential,
            "MatMulInteger": self._add_up,
            "Div": self._divide,
        }

    def build(self) -> onnx.ModelProto:
        """Translate node by node."""
        for node in self._model.graph.node:
            if all(name in self._constants for name in node.input) and node.op_type != "MatMulInteger":
                self._fold(node)
            else:
                self._handlers.get(node.op_type, self._keep)(node)
        graph = self._model.graph
        for output in graph.output:
            if self._now(output.name) != output.name:
                self._nodes.append(helper.make_node("Identity", [self._now(output.name)], [output.name]))
        twin = onnx.ModelProto(ir_version=self._model.ir_version, opset_import=self._model.opset_import)
        twin.graph.name = "float"
        twin.graph.input.extend(_float_input(value) for value in graph.input)
        twin.graph.output.extend(graph.output)
        needed = {output.name for output in graph.output}
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed.update(node.input)
                twin.graph.node.insert(0, node)
        constants = {name: array for name, array in self._constants.items() if name in needed}
        twin.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        return twin

    def _fold(self, node: onnx.NodeProto) -> None:
        """Constants of constants: unpacking and dequantizing weights."""
        operands = [self._constants[name] for name in node.input]
        if node.op_type == "Cast":
            value = operands[0].astype(np.int8)
        elif node.op_type == "Mul":
            value = operands[0] * operands[1]
        elif node.op_type == "DequantizeLinear":
            shape = [-1] + [1] * (operands[0].ndim - 1) if operands[1].ndim else []
            centered = operands[0].astype(np.float64) - operands[2].astype(np.float64).reshape(shape)
            value = (centered * operands[1].reshape(shape)).astype(np.float32)
        else:
            self._keep(node)
            return
        self._constants[node.output[0]] = value

    def _now(self, name: str) -> str:
        return self._same.get(name, name)

    def _pass_on(self, node: onnx.NodeProto) -> None:
        self._same[node.output[0]] = self._now(node.input[0])
        if node.input[0] in self._grids and node.op_type != "DequantizeLinear":
            self._grids[node.output[0]] = self._grids[node.input[0]]

    def _dequantize(self, node: onnx.NodeProto) -> None:
        """Codes that are read on another grid than they were made on are a function of their own."""
        if node.input[1] not in self._constants:
            self._below_largest.add(node.output[0])
        read = self._grid(node)
        made = self._grids.setdefault(node.input[0], read)
        if made.equals(read):
            self._pass_on(node)
        else:
            self._read(self._now(node.input[0]), node.output[0], made, read)

    def _cast(self, node: onnx.NodeProto) -> None:
        """Codes become indices of a table, signed bytes, or what LayerNorm adds up; numbers of rows are not codes."""
        made = self._grids.get(node.input[0])
        if node.input[0] in self._sums:
            self._sums[node.output[0]] = self._sums[node.input[0]]
            self._pass_on(node)
        elif made is None and not node.name.rpartition("/")[0].endswith(RIGHT):
            self._keep(node)
        elif made is None:
            self._pass_on(node)
        elif attributes_of(node)["to"] == onnx.TensorProto.FLOAT:
            self._read(self._now(node.input[0]), node.output[0], made, CodeGrid(1.0, 0))
        else:
            self._pass_on(node)

    def _look_up(self, node: onnx.NodeProto) -> None:
        flat = self._producers[self._now(node.input[1])]
        self._looked_up.add(node.output[0])
        self._append(table_function(node, flat.input[0]))

    def _reshape(self, node: onnx.NodeProto) -> None:
        """Tables look up flat codes; the function behind one does not need that."""
        if node.input[0] in self._looked_up:
            self._pass_on(node)
        else:
            self._keep(node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        made = self._grid(node)
        self._grids[node.output[0]] = CodeGrid(made.scale * self._means.get(node.input[0], 1.0), made.zero_point)
        source = self._now(node.input[0])
        producer = self._producers.get(source)
        signed = producer is not None and producer.op_type in _SIGNED_RESULTS
        rectify = signed and not self._constants[node.input[2]].any()
        self._same[node.output[0]] = self._relu(source) if rectify else source

    def _relu(self, name: str) -> str:
        if name not in self._rectified:
            self._rectified[name] = f"{name}.relu"
            self._append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}/Relu"))
        return self._rectified[name]

    def _clip(self, node: onnx.NodeProto) -> None:
        bounds = [self._constants[name] for name in node.input[1:] if name]
        grid = self._grids.get(node.input[0])
        if grid is not None and len(bounds) == 2 and bounds[1] == grid.zero_point:  # learned ranges go beyond zero
            self._constants[f"{node.output[0]}.zero"] = np.zeros((), np.float32)
            operands = [self._now(node.input[0]), f"{node.output[0]}.zero"]
            self._append(helper.make_node("Min", operands, node.output, node.name))
            self._grids[node.output[0]] = grid
            return
        lowest = np.finfo(np.float32).min  # such a clip only keeps the runtime from fusing across it
        if all(bound.dtype == np.uint8 or bound == lowest for bound in bounds):
            self._pass_on(node)
        else:
            self._keep(node)

    def _add(self, node: onnx.NodeProto) -> None:
        variable = [name for name in node.input if name not in self._constants]
        if len(variable) == 1 and not any(self._constants[n].any() for n in node.input if n in self._constants):
            self._same[node.output[0]] = self._now(variable[0])
        else:
            self._keep(node)

    def _transpose(self, node: onnx.NodeProto) -> None:
        """Those around a linear layer on tokens go, as the layer is a product of matrices again."""
        if node.name.rpartition("/")[0].endswith((CHANNELS_FIRST, CHANNELS_LAST)):
            self._pass_on(node)
        else:
            self._keep(node)

    def _linear(self, node: onnx.NodeProto) -> None:
        """A convolution over tokens, as ``x @ w.T + b``."""
        name, operands = node.name, [self._now(value) for value in node.input]
        weight = self._constants[operands[1]]
        self._constants[f"{name}.matrix"] = np.ascontiguousarray(weight.reshape(weight.shape[:2]).T)
        self._append(helper.make_node("MatMul", [operands[0], f"{name}.matrix"], [f"{name}.product"], name))
        self._append(helper.make_node("Add", [f"{name}.product", operands[2]], node.output, f"{name}.bias"))

    def _conv(self, node: onnx.NodeProto) -> None:
        if node.input[0].endswith(IMAGE):
            self._linear(node)
            return
        weight = self._constants.get(node.input[1])
        source = [self._now(node.input[0])]
        own = f"{node.name.rpartition('/')[0]}.input/"  # the nodes of the rewriting, and not the network's own reshapes
        while weight is not None and (producer := self._producers.get(source[-1])) is not None:
            if not producer.name.startswith(own):
                break
            source.append(producer.input[0])
        plain = None
        if weight is not None and len(source) == _FOLDING_STEPS + 1:
            plain = unfolded(weight, attributes_of(node))
        elif weight is not None and len(source) == 2:
            extra = int(self._constants[self._producers[source[0]].input[1]][5])
            plain = weight[:, : weight.shape[1] - extra], attributes_of(node)
        if plain is None:
            self._keep(node)
            return
        name = f"{node.input[1]}.plain"
        self._constants[name], attributes = plain
        made = helper.make_node("Conv", [source[-1], name, *node.input[2:]], node.output, node.name, **attributes)
        self._append(made)

    def _keep(self, node: onnx.NodeProto) -> None:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.input[:] = [self._now(name) for name in node.input]
        grid = next((self._grids[name] for name in node.input if name in self._grids), None)
        if grid is not None:
            self._grids |= dict.fromkeys(node.output, grid)
        for i, name in enumerate(node.input):
            codes = self._constants.get(name)
            if codes is not None and codes.dtype == np.uint8:  # beside codes there are floats now
                kept.input[i] = f"{name}.in_{node.name}"
                floats = grid.floats(codes) if grid is not None else np.zeros(codes.shape, np.float32)
                self._constants[kept.input[i]] = floats
        self._append(kept)

    def _append(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)
        self._producers |= dict.fromkeys(node.output, node)


def _float_input(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    if made.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        made.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made
