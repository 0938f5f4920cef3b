"""Inputs of the network, and tensors that do not depend on them."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qkd_deploy.export.context import EmitContext, NamedParams
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.gate.names import BATCH
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.constants import pixel_map
from qkd_deploy.graph.quantized import QuantizedTensor


def emit_input(ctx: EmitContext, node: Node) -> ir.Value:
    """Add an input of the graph, with a dynamic batch dimension and the type that the network takes.

    With ``--input uint8`` it already is the codes.
    """
    raw = ctx.input_type == "uint8" and node.quantizer is not None
    floats = torch.float32 if node.span is None else node.dtype
    own = ir.DataType.from_numpy(torch.zeros((), dtype=floats).numpy().dtype)
    dtype = ir.DataType.UINT8 if raw else own
    batch_dims = node.batch_dims or (0,)
    shape = [BATCH if dim in batch_dims else size for dim, size in enumerate(node.sizes)]
    value = ir.Value(name=node.name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    ctx.inputs.append(value)
    if raw:
        return ctx.record(node, ctx.params(node), value)
    value = _pixels(ctx, node, value)
    return value if node.quantizer is None else ctx.quantized(node, value)


def _pixels(ctx: EmitContext, node: Node, value: ir.Value) -> ir.Value:
    """Bring images that are normalised otherwise to ``(pixel - 128) / 64``."""
    found = pixel_map(ctx.frozen.network, node)
    if found is None:
        return value
    for operator, numbers in (("Sub", found.offset), ("Div", found.gain)):
        name = f"{node.name}.{operator.lower()}"
        by_channel = ctx.builder.constant(f"{name}.by_channel", numbers.view(-1, 1, 1).cpu().numpy())
        value = ctx.builder.add(operator, [value, by_channel], name, node=node.name)
    return value


def emit_constant(ctx: EmitContext, node: Node) -> ir.Value:
    """Store a tensor that does not depend on the input."""
    made = ctx.constants[node.name]
    if not isinstance(made, QuantizedTensor):
        return ctx.builder.constant(f"{node.name}.value", made.detach().cpu().numpy())
    ctx.grids[node.name] = NamedParams(node.name, made.grid)
    codes = ctx.builder.constant(f"{node.name}.codes", made.grid.store(made.codes))
    return ctx.dequantize(node, made.grid, codes)


EMITTERS = {
    "input": Emitter(emit_input, quantizes=True),
    "constant": Emitter(emit_constant, quantizes=True),
}
