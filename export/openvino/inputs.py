"""Inputs of the network, and tensors that do not depend on them."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qkd_deploy.export.openvino.context import Drawing
from qkd_deploy.export.openvino.exact import divided
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.constants import pixel_map
from qkd_deploy.graph.quantized import QuantizedTensor


def draw_input(draw: Drawing, node: Node) -> ir.Value:
    """Add an input of the graph; one image, for which the plugin chooses the kernels."""
    raw = draw.input_type == "uint8" and node.quantizer is not None
    own = torch.float32 if node.span is None else node.dtype
    dtype = ir.DataType.UINT8 if raw else ir.DataType.from_numpy(torch.zeros((), dtype=own).numpy().dtype)
    shape = [1 if dim in (node.batch_dims or (0,)) else size for dim, size in enumerate(node.sizes)]
    value = ir.Value(name=node.name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    draw.inputs.append(value)
    if raw:
        grid = draw.grids[node.name] = draw.grid(node)
        codes = draw.do(node, "Cast", [value], to=ir.DataType.FLOAT)
        return draw.do(node, "Sub", [codes, draw.sketch.number(grid.zero_point)])
    value = _pixels(draw, node, value)
    if node.quantizer is None:
        return value
    return draw.quantized(node, divided(draw, node, value, float(draw.grid(node).scale)), rounded=True)


def _pixels(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    """Bring images that are normalised otherwise to ``(pixel - 128) / 64``."""
    found = pixel_map(draw.frozen.network, node)
    if found is None:
        return value
    offset, gain = (numbers.view(-1, 1, 1).cpu().numpy() for numbers in (found.offset, found.gain))
    return draw.do(node, "Div", [draw.do(node, "Sub", [value, draw.sketch.array(offset)]), draw.sketch.array(gain)])


def draw_constant(draw: Drawing, node: Node) -> ir.Value:
    """Store a tensor that does not depend on the input."""
    made = draw.constants[node.name]
    if not isinstance(made, QuantizedTensor):
        return draw.sketch.array(made.detach().cpu().numpy())
    draw.grids[node.name] = made.grid
    return draw.sketch.array(made.codes.detach().float().cpu().numpy())


DRAWERS = {"input": draw_input}
