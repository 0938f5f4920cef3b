"""Why the runtime computes an operator in float: what has to surround one for it to fuse, and what is missing.

The reasons come from the structure of the exported graph.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

import onnx

from qkd_deploy.verification.onnx_graph import OnnxGraph, optional_input
from qkd_deploy.verification.reference.movement import MOVES
from qkd_deploy.verification.runtime import DEFAULT

# Operators that become integer kernels between DequantizeLinear and QuantizeLinear.
_FUSABLE = frozenset(
    {
        "Add", "AveragePool", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool", "Mul",
        "Resize", "Sigmoid", "Softmax",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_PASSES_CODES = MOVES | {"MaxPool"}
_NORM_PARTS = frozenset({"Cast", "ReduceSum", "Sqrt"})
_EXACT_PARTS = {
    "Exp": ("ReduceMax", "it is computed in float32, on a grid on which every CPU agrees"),
    "Div": ("MatMulInteger", "it divides one sum of integers by another, the same on every CPU"),
}
"""Operators of attention that stay in float: what they stand beside, and why their codes are those of every CPU."""
_ADDED_BY_RUNTIME = re.compile(r"(_token_\d+|/duplicated|_nchwc|_quant)+$")
"""Endings of the names that ONNX Runtime gives nodes which it changes or copies."""


class ExportedGraph:
    """The exported graph, asked about the nodes that the runtime made of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index a model."""
        self._graph = OnnxGraph(model)
        self._by_name: dict[str, onnx.NodeProto] = {node.name: node for node in self._graph.nodes if node.name}
        self._obstacles: tuple[tuple[Callable[[onnx.NodeProto], bool], str], ...] = (
            (self._has_float_weights, "its weights are not quantized"),
            (self._has_float_operands, "its input is not quantized"),
            (self._lacks_quantizer, "its output has no quantizer"),
            (self._is_read_by_others, "its output is read by others than one quantizer"),
            (self._has_float_bias, "its bias is not on the integer grid of its input and weights"),
        )

    def find(self, node: onnx.NodeProto, built: OnnxGraph) -> onnx.NodeProto | None:
        """The exported node that one of the built graph stems from: by its name, its outputs, or those of readers."""
        waiting, met = deque([node]), {node.output[0]}
        while waiting:
            current = waiting.popleft()
            origin = self._origin(current)
            if origin is not None:
                return origin
            readers = [reader for reader in built.readers_of(current) if reader.output[0] not in met]
            waiting.extend(readers)
            met.update(reader.output[0] for reader in readers)
        return None

    def _origin(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        name = _ADDED_BY_RUNTIME.sub("", node.name)
        if name in self._by_name:
            return self._by_name[name]
        made = [output for output in node.output if output in self._graph.producers]
        return self._graph.producers[made[0]] if made else None

    def layer_norm_of(self, node: onnx.NodeProto) -> str:
        """The tensor that an exported node belongs to, where its operators are a LayerNorm from codes; "" elsewhere."""
        tensor = node.name.rpartition("/")[0]
        parts = {f"{tensor}/{part}" for part in _NORM_PARTS}
        return tensor if tensor and parts <= self._by_name.keys() else ""

    def reason(self, node: onnx.NodeProto) -> str:
        """Why ``node`` computes in float, as a clause about it."""
        beside, exact = _EXACT_PARTS.get(node.op_type, ("", ""))
        if exact and f"{node.name.rpartition('/')[0]}/{beside}" in self._by_name:
            return exact
        if self._undoes_normalisation(node):
            return "it makes pixels of the normalised input, which --input uint8 does not need"
        if node.op_type not in _FUSABLE:
            return f"{DEFAULT.name} has no integer kernel for {node.op_type}"
        obstacles = (sentence for is_there, sentence in self._obstacles if is_there(node))
        return next(obstacles, f"{DEFAULT.name} {DEFAULT.version} did not fuse it with its quantizers on this machine")

    def _undoes_normalisation(self, node: onnx.NodeProto) -> bool:
        """True for the two operators between a float input and its quantizer."""
        before = self._graph.producers.get(node.input[0])
        chain = [node] if before is None else [before, node]
        starts_at_input = chain[0].input[0] in self._graph.inputs
        return starts_at_input and [each.op_type for each in chain] == ["Sub", "Div"][: len(chain)]

    def _has_float_weights(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _PRODUCTS and not all(map(self._is_dequantized, node.input[1:2]))

    def _has_float_operands(self, node: onnx.NodeProto) -> bool:
        operands = node.input[:1] if node.op_type in _PRODUCTS else node.input
        known = {"", *self._graph.constants}
        return not all(name in known or self._is_dequantized(name) for name in operands)

    def _lacks_quantizer(self, node: onnx.NodeProto) -> bool:
        readers = self._graph.readers.get(node.output[0], [])
        return all(reader.op_type != "QuantizeLinear" for reader in readers)

    def _is_read_by_others(self, node: onnx.NodeProto) -> bool:
        output = node.output[0]
        return len(self._graph.readers.get(output, [])) > 1 or output in self._graph.outputs

    def _has_float_bias(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _PRODUCTS and len(node.input) > 2 and not self._is_dequantized(optional_input(node, 2))

    def _is_dequantized(self, name: str) -> bool:
        """True where a value comes from a DequantizeLinear, and was only moved since."""
        producer = self._graph.producer_behind(name, _PASSES_CODES)
        return producer is not None and producer.op_type == "DequantizeLinear"
