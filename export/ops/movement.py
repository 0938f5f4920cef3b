"""Movement of elements in ONNX: other shapes, orders and borders.

Reshape, Transpose and Slice are written on floats: between equal scales the runtime moves the codes instead. Pad,
Gather, Expand and the like it would compute in float there, so that they are written on codes
(``EmitContext.move``).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantParams

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
"""PyTorch's names of padding modes, and ONNX's."""


def emit_reshape(ctx: EmitContext, node: Node) -> ir.Value:
    """Reshape, with -1 for what follows the batch; Squeeze behind a slice that left dimensions of size 1.

    The runtime moves transpositions past a Squeeze, as past no Reshape, until they meet others and cancel.
    """
    source = ctx.frozen.graph.node(node.inputs[0])
    axes = _dropped(source, node) if source.kind == "slice" else []
    if axes:
        operands = [ctx.values[source.name], ctx.builder.integers(f"{node.name}.axes", axes)]
        return ctx.builder.add("Squeeze", operands, f"{node.name}.float", node=node.name)
    target = ctx.builder.integers(f"{node.name}.shape", node.open_shape)
    return ctx.builder.add("Reshape", [ctx.values[source.name], target], f"{node.name}.float", node=node.name)


def _dropped(source: Node, node: Node) -> list[int]:
    """The dimensions of size 1 that a reshape leaves out, where it does nothing else; none otherwise."""
    target, axes, j = node.sizes, [], 0
    for i, size in enumerate(source.sizes):
        if j < len(target) and size == target[j] and (i in source.batch_dims) == (j in node.batch_dims):
            j += 1
        elif size == 1 and i not in source.batch_dims:
            axes.append(i)
        else:
            return []
    return axes if j == len(target) else []


def emit_transpose(ctx: EmitContext, node: Node) -> ir.Value:
    """Put the dimensions in another order."""
    return ctx.apply(node, "Transpose", perm=list(node.kwargs["dims"]))


def emit_pad(ctx: EmitContext, node: Node) -> ir.Value:
    """Pad codes, with the zero point where the mode is zeros; Pad has no integer kernel between quantizers."""
    amounts = np.array(node.kwargs["amounts"], np.int64)
    pads = ctx.builder.constant(f"{node.name}.pads", amounts.T.reshape(-1))
    mode = _PAD_MODES[node.kwargs["mode"]]
    return ctx.move(node, "Pad", [pads], zero_last=mode == "constant", mode=mode)


def emit_border(ctx: EmitContext, node: Node) -> ir.Value:
    """Pad each channel with its own value, on codes; in one go where all have the same."""
    operand, values = node.inputs[0], np.array(node.kwargs["values"], np.float32)
    codes = ctx.codes(operand)
    fills = values if codes is None else _stored(ctx.grids[operand].params, values)
    whole = codes or ctx.values[operand]
    parts = [whole] if len(set(fills.tolist())) == 1 else channels_of(ctx, node, whole, len(fills))
    pads = ctx.builder.constant(f"{node.name}.pads", np.array(node.kwargs["amounts"], np.int64).T.reshape(-1))
    padded = []
    for number, (part, fill) in enumerate(zip(parts, fills, strict=False)):
        value = ctx.builder.constant(f"{node.name}.value_{number}", fill)
        padded.append(ctx.builder.add("Pad", [part, pads, value], f"{node.name}.padded_{number}", node=node.name))
    if len(padded) > 1:
        padded = [ctx.builder.add("Concat", padded, f"{node.name}.moved", node=node.name, attributes={"axis": 1})]
    return padded[0] if codes is None else ctx.dequantize(node, ctx.grids[operand].params, padded[0])


def _stored(params: QuantParams, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return params.store(params.quantize(torch.from_numpy(values).to(params.scale.device)))


def channels_of(ctx: EmitContext, node: Node, value: ir.Value, count: int) -> list[ir.Value]:
    """The channels of images, one by one."""
    b, axis = ctx.builder, ctx.builder.integers(f"{node.name}.axis", [1])
    ends = [b.integers(f"{node.name}.channel_{number}", [number]) for number in range(count + 1)]
    return [
        b.add("Slice", [value, start, stop, axis], f"{node.name}.of_channel_{number}", node=node.name)
        for number, (start, stop) in enumerate(pairwise(ends))
    ]


def emit_roll(ctx: EmitContext, node: Node) -> ir.Value:
    """Put the end in front of the beginning, dimension by dimension, on codes where there are any."""
    operand = node.inputs[0]
    value = ctx.codes(operand) or ctx.values[operand]
    for number, (shift, dim) in enumerate(zip(node.kwargs["shifts"], node.kwargs["dims"], strict=True)):
        value = _rolled(ctx, node, value, number, shift, dim)
    return ctx.dequantize(node, ctx.grids[operand].params, value) if operand in ctx.grids else value


def _rolled(ctx: EmitContext, node: Node, value: ir.Value, number: int, shift: int, dim: int) -> ir.Value:
    """``value`` rolled along one dimension, the one that comes ``number``-th."""
    b, size = ctx.builder, node.sizes[dim]
    at, parts = (-shift) % size, []
    for part, start, stop in (("end", at, size), ("beginning", 0, at)):
        name = f"{node.name}.{part}_{number}"
        limits = [b.integers(f"{name}.{key}", [x]) for key, x in (("start", start), ("stop", stop), ("axis", dim))]
        parts.append(b.add("Slice", [value, *limits], name, node=node.name))
    return b.add("Concat", parts, f"{node.name}.rolled_{number}", node=node.name, attributes={"axis": dim})


EMITTERS = {
    "reshape": Emitter(emit_reshape),
    "transpose": Emitter(emit_transpose),
    "pad": Emitter(emit_pad),
    "border": Emitter(emit_border),
    "roll": Emitter(emit_roll),
}
