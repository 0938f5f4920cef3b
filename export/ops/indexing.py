"""Parts of tensors in ONNX: slices and elements at listed positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node, Ref


def emit_slice(ctx: EmitContext, node: Node) -> ir.Value:
    """Slice; it moves codes where both of its sides read the same scale."""
    axes, starts, stops, steps = np.array(node.kwargs["ranges"], np.int64).reshape(-1, 4).T
    bounds = {"starts": starts, "stops": stops, "axes": axes} | ({"steps": steps} if (steps != 1).any() else {})
    limits = [ctx.builder.constant(f"{node.name}.{key}", values) for key, values in bounds.items()]
    return ctx.builder.add("Slice", [ctx.values[node.inputs[0]], *limits], f"{node.name}.float", node=node.name)


def emit_index(ctx: EmitContext, node: Node) -> ir.Value:
    """Gather what is at listed positions, which may be a buffer of the network; on codes."""
    given = node.kwargs["positions"]
    if ctx.open_sizes and not isinstance(given, Ref) and tuple(given) == tuple(reversed(range(len(given)))):
        return _flipped(ctx, node)
    if isinstance(given, Ref):
        positions = ctx.values[given.name]
    else:
        positions = ctx.builder.integers(f"{node.name}.positions", given)
    return ctx.move(node, "Gather", [positions], axis=node.kwargs["dim"])


def _flipped(ctx: EmitContext, node: Node) -> ir.Value:
    """All elements in reverse order, however many there are."""
    bounds = {"start": -1, "stop": np.iinfo(np.int64).min, "axis": node.kwargs["dim"], "step": -1}
    limits = [ctx.builder.integers(f"{node.name}.{key}", [value]) for key, value in bounds.items()]
    return ctx.move(node, "Slice", limits)


EMITTERS = {
    "slice": Emitter(emit_slice),
    "index": Emitter(emit_index),
}
