"""Which kernels ONNX Runtime really built: integer ones, and what computes in float and why.

The graph is the one that the runtime writes after its optimizations, so a convolution that silently stayed in float is
seen here and nowhere else. The reasons come from the structure of the exported graph (what has to surround an operator
for it to fuse).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx
import onnxruntime

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.verification.reference.single_node import MOVES
from qkd_deploy.verification.reference.values import attributes_of

# Operators that become integer kernels between DequantizeLinear and QuantizeLinear.
FUSABLE = frozenset(
    {
        "Add", "AveragePool", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool", "Mul",
        "Resize", "Sigmoid", "Softmax",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_FLOAT_RESULT = frozenset({"DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_INTEGER = re.compile(r"QLinear|QGemm$|ConvInteger|MatMulInteger|NhwcMaxPool")
_ON_CODES = frozenset({"Clip", "Concat", "GatherElements", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "Resize"})
_BETWEEN_KERNELS = MOVES | {"QuantizeLinear", "DequantizeLinear", "Cast", "Shape"}
_NORM_PARTS = frozenset({"Cast", "ReduceSum", "Sqrt"})
_EXACT_NORM = "it is computed in float32 from exact sums of integers, the same on every CPU"
_EXACT_PARTS = {
    "Exp": ("ConstantOfShape", "it is computed in float32, on a grid on which every CPU agrees"),
    "Div": ("MatMulInteger", "it divides one sum of integers by another, the same on every CPU"),
}
"""Operators of attention that stay in float: what they stand beside, and why their codes are those of every CPU."""


@dataclass(frozen=True)
class Kernel:
    """One node of the runtime's graph that computes; ``reason`` says why a float one is not an integer one."""

    op: str
    module: str
    integer: bool
    reason: str = ""


def list_kernels(model: onnx.ModelProto, optimized: onnx.ModelProto, metadata: Metadata) -> list[Kernel]:
    """Kernels of ``optimized`` (see :func:`runtime.optimized_graph`), traced back to the modules of ``model``.

    Quantizers at the borders, operators that only move data and constants are left out.
    """
    structure = _Structure(model)
    float_values = _float_values(optimized)
    kernels = []
    norms: set[str] = set()
    for node in optimized.graph.node:
        touches_float = any(name in float_values for name in (*node.input[:1], *node.output))
        if _INTEGER.match(node.op_type) or (node.op_type in _ON_CODES and not touches_float):
            source = structure.find(node, optimized)
            kernels.append(Kernel(node.op_type, _module(source, node, metadata), True))
        elif node.op_type not in _BETWEEN_KERNELS and touches_float:
            source = structure.find(node, optimized)
            norm = structure.layer_norm_of(source)
            if norm and norm not in norms:
                kernels.append(Kernel("LayerNorm", _module(source, node, metadata), False, _EXACT_NORM))
                norms.add(norm)
            if norm:
                continue
            reason = structure.reason(source) if source is not None else "ONNX Runtime made it from several operators"
            kernels.append(Kernel(node.op_type, _module(source, node, metadata), False, reason))
    return kernels


def _module(source: onnx.NodeProto | None, node: onnx.NodeProto, metadata: Metadata) -> str:
    return metadata.module_of(source.name or source.output[0] if source is not None else node.name or node.output[0])


def _float_values(graph: onnx.ModelProto) -> set[str]:
    """Values of a graph that hold floating-point activations, by propagation from inputs and dequantizers."""
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    values = {value.name for value in graph.graph.input if value.type.tensor_type.elem_type in kinds}
    constants = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "QGemm":
            is_float = len(node.input) < 9 or not node.input[7]
        elif node.op_type == "QuantizeLinear" or (_INTEGER.match(node.op_type) and node.op_type not in _FLOAT_RESULT):
            is_float = False
        elif node.op_type == "Cast":
            # of codes that become floats, but not of weights that are unpacked
            is_float = attributes_of(node)["to"] in kinds and node.input[0] not in constants
            constants.update(node.output if node.input[0] in constants else ())
        else:
            is_float = node.op_type in _FLOAT_RESULT or any(name in values for name in node.input)
        if is_float:
            values.update(name for name in node.output if name)
    return values


class _Structure:
    """The exported graph: who produces and who reads each value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._graph_outputs = {value.name for value in model.graph.output}
        self._by_name: dict[str, onnx.NodeProto] = {node.name: node for node in nodes if node.name}
        self._producer: dict[str, onnx.NodeProto] = {name: node for node in nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def find(self, node: onnx.NodeProto, optimized: onnx.ModelProto) -> onnx.NodeProto | None:
        """The exported node that an optimized one stems from: by its name, its outputs, or those of its readers."""
        seen: set[str] = set()
        frontier = [node]
        while frontier:
            current = frontier.pop(0)
            name = re.sub(r"(_token_\d+|/duplicated|_nchwc|_quant)+$", "", current.name)
            if name in self._by_name:
                return self._by_name[name]
            for output in current.output:
                if output in self._producer:
                    return self._producer[output]
            seen.update(current.output)
            frontier += [
                reader for reader in optimized.graph.node if seen & set(reader.input) and reader not in frontier
            ]
            frontier = [reader for reader in frontier if not seen & set(reader.output)]
        return None

    def layer_norm_of(self, node: onnx.NodeProto | None) -> str:
        """The tensor that an exported node belongs to, where its operators are a LayerNorm from codes; "" elsewhere."""
        tensor = node.name.rpartition("/")[0] if node is not None else ""
        return tensor if tensor and all(f"{tensor}/{part}" in self._by_name for part in _NORM_PARTS) else ""

    def reason(self, node: onnx.NodeProto) -> str:
        """Why ``node`` computes in float, as a clause about it."""
        beside, reason = _EXACT_PARTS.get(node.op_type, ("", ""))
        if reason and f"{node.name.rpartition('/')[0]}/{beside}" in self._by_name:
            return reason
        if node.op_type not in FUSABLE:
            return f"ONNX Runtime has no integer kernel for {node.op_type}"
        weights = [name for name in node.input[1:2] if node.op_type in _PRODUCTS]
        activations = [name for name in (node.input[:1] if node.op_type in _PRODUCTS else node.input) if name]
        if not all(self._quantized(name) for name in weights):
            return "its weights are not quantized"
        if not all(self._quantized(name) or name in self._constants for name in activations):
            return "its input is not quantized"
        readers = self._readers.get(node.output[0], [])
        if not any(reader.op_type == "QuantizeLinear" for reader in readers):
            return "its output has no quantizer"
        if len(readers) > 1 or node.output[0] in self._graph_outputs:
            return "its output is read by others than one quantizer"
        if node.op_type in _PRODUCTS and len(node.input) > 2 and not self._quantized(node.input[2]):
            return "its bias is not on the integer grid of its input and weights"
        return f"ONNX Runtime {onnxruntime.__version__} did not fuse it with its quantizers on this machine"

    def _quantized(self, name: str) -> bool:
        producer = self._producer.get(name)
        while producer is not None and producer.op_type in MOVES | {"MaxPool"}:
            producer = self._producer.get(producer.input[0])
        return producer is not None and producer.op_type == "DequantizeLinear"
