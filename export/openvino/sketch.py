"""The graph under construction: ONNX's operators and OpenVINO's FakeQuantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.gate.names import GRAPH, PRODUCER

DOMAIN = "org.openvinotoolkit"
"""Of operators that OpenVINO reads beside ONNX's own."""
LEVELS = 256
_OPSET, _IR_VERSION = 20, 9
"""The first that has Gelu, and the first format that knows it."""


class Sketch(GraphBuilder):
    """A graph builder that knows FakeQuantize and makes names itself."""

    def do(self, tensor: str, operator: str, operands: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """Append one of the operations that ``tensor`` is computed in; its result gets a name that is free."""
        return self.add(operator, operands, self._free(f"{tensor}.{operator}"), node=tensor, attributes=attributes)

    def fake_quantize(self, tensor: str, value: ir.Value, lowest: int) -> ir.Value:
        """Round to the 256 integers from ``lowest``."""
        ends = [self.array(np.array([end], np.float32)) for end in (lowest, lowest + LEVELS - 1)]
        made = ir.Value(name=self._free(f"{tensor}.FakeQuantize"))
        levels = {"levels": LEVELS}
        self.nodes.append(ir.node("FakeQuantize", [value, *ends, *ends], levels, domain=DOMAIN, outputs=[made]))
        return made

    def array(self, values: npt.NDArray[Any]) -> ir.Value:
        """A constant of its own: the plugin fuses constants that nobody else reads."""
        return self.constant(self._free("constant"), values)

    def number(self, value: float) -> ir.Value:
        """A float32 constant of rank 0."""
        return self.array(np.array(value, np.float32))

    def shape(self, values: Sequence[int]) -> ir.Value:
        """An int64 constant: a shape, axes, bounds."""
        return self.array(np.array(values, np.int64))

    def finished(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> onnx.ModelProto:
        """The model; its outputs have no shapes, which OpenVINO finds itself."""
        imports = {"": _OPSET, DOMAIN: 1}
        initializers = list(self.initializers.values())
        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=initializers, opset_imports=imports, name=GRAPH
        )
        model = ir.Model(graph, ir_version=_IR_VERSION, producer_name=PRODUCER)
        RemoveUnusedNodesPass()(model)
        return ir.to_proto(model)

    def _free(self, wanted: str) -> str:
        self._names = getattr(self, "_names", {})
        count = self._names[wanted] = self._names.get(wanted, 0) + 1
        return wanted if count == 1 else f"{wanted}_{count}"
