"""Copies of elements in ONNX."""

from __future__ import annotations

import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node


def emit_expand(ctx: EmitContext, node: Node) -> ir.Value:
    """Repeat dimensions of one element, on codes.

    Where a constant is repeated for every image (a class token), their number is read off the network's input.
    """
    source = ctx.frozen.graph.node(node.inputs[0])
    more = len(node.sizes) - len(source.sizes)
    own = [1 if dim in node.batch_dims else size for dim, size in enumerate(node.sizes)]
    sizes = ctx.builder.integers(f"{node.name}.own_sizes", own)
    copied = [dim for dim in node.batch_dims if dim - more not in source.batch_dims]
    if copied:
        sizes = _with_batch(ctx, node, sizes, copied[0])
    return ctx.move(node, "Expand", [sizes])


def _with_batch(ctx: EmitContext, node: Node, sizes: ir.Value, dim: int) -> ir.Value:
    """``sizes`` with the number of images at ``dim``."""
    b, inputs = ctx.builder, [ctx.frozen.graph.node(value.name) for value in ctx.inputs if value.name]
    i, at = next((i, given.batch_dims[0]) for i, given in enumerate(inputs) if given.batch_dims)
    where = {"start": at, "end": at + 1}
    images = b.add("Shape", [ctx.inputs[i]], f"{node.name}.images", node=node.name, attributes=where)
    place = b.integers(f"{node.name}.batch", [dim])
    return b.add("ScatterElements", [sizes, place, images], f"{node.name}.sizes", node=node.name)


EMITTERS = {"expand": Emitter(emit_expand)}
