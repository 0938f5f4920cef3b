"""An ONNX graph with indices: who makes and who reads each value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx


class OnnxGraph:
    """The nodes of a model and what connects them.

    Attributes:
        nodes: in execution order.
        constants: initializers by name.
        inputs, outputs: names of the graph's own inputs and outputs, in order.
        producers: by value name, the node that makes it.
        readers: by value name, the nodes that read it, once for every time they do.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index the graph of a model."""
        graph = model.graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = names_of(graph.input)
        self.outputs = names_of(graph.output)
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            self.producers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def readers_of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that read any output of a node, in execution order."""
        made = set(node.output)
        return [reader for reader in self.nodes if not made.isdisjoint(reader.input)]

    def is_quantized_only(self, name: str) -> bool:
        """True where a QuantizeLinear alone reads a value; whether it is an output of the graph is not asked."""
        return [reader.op_type for reader in self.readers.get(name, [])] == ["QuantizeLinear"]

    def producer_behind(self, name: str, passed: frozenset[str]) -> onnx.NodeProto | None:
        """The node that made a value before operators of the types ``passed`` handed on their first input."""
        producer = self.producers.get(name)
        while producer is not None and producer.op_type in passed:
            producer = self.producers.get(producer.input[0])
        return producer


def names_of(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """Names of the inputs or outputs of a graph, in order."""
    return [value.name for value in values]


def optional_input(node: onnx.NodeProto, index: int) -> str:
    """The name of an input of a node, "" where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values (strings are bytes)."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
