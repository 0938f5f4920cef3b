"""Frozen model -> ONNX for OpenVINO, node by node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from qkd_deploy.export.emit import output_names
from qkd_deploy.export.openvino import (
    elementwise,
    float_ops,
    functions,
    inputs,
    layers,
    movement,
    pooling,
    tokens,
    upsampling,
)
from qkd_deploy.export.openvino.context import Drawing, without_form
from qkd_deploy.export.ops import NOT_WRITTEN
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node

DRAWERS: dict[str, Callable[[Drawing, Node], ir.Value]] = {
    "conv": layers.draw_layer,
    "linear": layers.draw_layer,
    **elementwise.DRAWERS,
    **functions.DRAWERS,
    **float_ops.DRAWERS,
    **inputs.DRAWERS,
    **movement.DRAWERS,
    **pooling.DRAWERS,
    **tokens.DRAWERS,
    **upsampling.DRAWERS,
}


def draw_model(frozen: FrozenModel, *, input_type: str = "float32") -> onnx.ModelProto:
    """Write a frozen model for OpenVINO, for batches of one.

    Args:
        frozen: the integer model.
        input_type: "float32", or "uint8" for inputs that are the codes themselves.

    Raises:
        UserError: an operation that has no form for OpenVINO; names it.
    """
    draw, graph = Drawing(frozen, input_type), frozen.graph
    constants = graph.constants()
    for node in graph.nodes:
        if node.kind in NOT_WRITTEN:
            continue
        if node.name in constants:
            draw.constants[node.name] = frozen.evaluate_constant(node, draw.constants)
        if node.shape is None:
            float_ops.draw_results(draw, node)
        elif node.name in constants:
            draw.values[node.name] = inputs.draw_constant(draw, node)
        else:
            draw.values[node.name] = _drawn(draw, node)
    return draw.sketch.finished(draw.inputs, _outputs(draw))


def _drawn(draw: Drawing, node: Node) -> ir.Value:
    if node.kind not in DRAWERS:
        raise without_form(node)
    value = DRAWERS[node.kind](draw, node)
    if node.quantizer is not None or node.clip is None or node.name in draw.grids:
        return value
    limits = [draw.sketch.number(limit) for limit in np.clip(node.clip, *np.array([-1, 1]) * np.finfo(np.float32).max)]
    return draw.do(node, "Clip", [value, *limits])


def _outputs(draw: Drawing) -> list[ir.Value]:
    """The outputs of the graph, in real units, under the user's names where there are any."""
    graph, outputs = draw.frozen.graph, []
    for name, tensor in zip(output_names(graph.output), graph.outputs(), strict=True):
        node = graph.node(tensor)
        value = draw.real(node, tensor)
        outputs.append(draw.sketch.add("Identity", [value], name, node=name))
    return outputs
