"""A thin layer over onnx_ir: named constants and nodes of one graph."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qkd_deploy.gate.names import GRAPH, PRODUCER
from qkd_deploy.graph.translation.translate import OPSET

PACKED_OPSETS = {4: 21, 2: 25}
"""First operator set that knows INT4 and INT2."""
PACKED_RUNTIME = "1.24"
"""First ONNX Runtime that loads packed weights."""


class GraphBuilder:
    """Collects initializers and nodes; every value has a name, every name is used once."""

    def __init__(self) -> None:
        """Start an empty graph."""
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.opset = OPSET
        self._taken: set[str] = set()
        self._owned: dict[tuple[Hashable, ...], str] = {}

    def constant(
        self, name: str, array: np.ndarray, dtype: ir.DataType | None = None, *, owner: Hashable = None
    ) -> ir.Value:
        """An initializer; the same name gives the same value, and so do equal arrays of one owner.

        Args:
            name: what it is called, where it is a new one.
            array: its elements.
            dtype: a packed type that numpy lacks.
            owner: the weights of a layer, which may be used in several places; None for constants of one place.
        """
        if owner is not None:
            key = (owner, str(array.dtype), array.shape, array.tobytes())
            name = self._owned.setdefault(key, name)
        if name not in self.initializers:
            tensor = ir.tensor(np.asarray(array, order="C"), dtype=dtype, name=name)
            self.initializers[name] = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self.initializers[name]

    def scalar(self, name: str, value: float, dtype: Any) -> ir.Value:
        """A rank-0 initializer."""
        return self.constant(name, np.array(value, dtype=dtype))

    def integers(self, name: str, values: Sequence[int]) -> ir.Value:
        """An initializer of int64 values: a shape, axes, bounds."""
        return self.constant(name, np.array(values, np.int64))

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        *,
        node: str,
        attributes: Mapping[str, Any] | None = None,
        reads: tuple[float, int] | None = None,
    ) -> ir.Value:
        """Append a node with one output called ``output``; the node is called ``{node}/{operator}``.

        ``reads``: what its integer operand stands for, scale and zero point, where no constant of the graph says so; it
        becomes the node's metadata.
        """
        name, count = f"{node}/{operator}", 1
        while name in self._taken:
            count += 1
            name = f"{node}/{operator}_{count}"
        self._taken.add(name)
        value = ir.Value(name=output)
        made = ir.node(operator, inputs, attributes or {}, outputs=[value], name=name)
        if reads is not None:
            made.metadata_props.update(scale=repr(reads[0]), zero_point=str(reads[1]))
        self.nodes.append(made)
        return value

    def step(
        self, tensor: str, operator: str, operands: Sequence[ir.Value], suffix: str, **attributes: Any
    ) -> ir.Value:
        """Append one of the operations that ``tensor`` is computed in; its result is called ``{tensor}.{suffix}``."""
        return self.add(operator, operands, f"{tensor}.{suffix}", node=tensor, attributes=attributes)

    def move_last_behind(self, value: ir.Value, count: int) -> None:
        """Move the last ``count`` nodes right behind the node that makes ``value``, in front of its other readers."""
        producer, last = value.producer(), self.nodes[-count:]
        assert producer is not None
        at = self.nodes.index(producer) + 1
        self.nodes[at:] = [*last, *self.nodes[at:-count]]

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> onnx.ModelProto:
        """The finished model, with inferred shapes."""
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": self.opset},
            name=GRAPH,
        )
        ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", self.opset)])
        model = ir.Model(graph, ir_version=ir_version, producer_name=PRODUCER)
        RemoveUnusedNodesPass()(model)  # the runtime would execute a DequantizeLinear that nobody reads
        proto = ir.to_proto(model)
        require_valid(proto)
        return proto


def require_valid(proto: onnx.ModelProto) -> None:
    """Give the outputs of a graph their inferred shapes; one that is not valid ONNX is a fault of the exporter."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    _adopt_output_shapes(proto, inferred)
    onnx.checker.check_model(proto, full_check=True)


def _adopt_output_shapes(proto: onnx.ModelProto, inferred: onnx.ModelProto) -> None:
    """Give graph outputs their inferred types and shapes, and leave inner values without, to keep the file small."""
    for output, known in zip(proto.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
