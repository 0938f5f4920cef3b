"""Pools over windows in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.context import EmitContext
from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.ops.float_ops import block_fusion
from qkd_deploy.export.ops.layers import dequantize_weight
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import POOL_CODE, pool_weight_scale


def emit_max_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """MaxPool, which acts on codes."""
    dilations, ceil_mode = list(node.kwargs["dilation"]), int(node.kwargs["ceil_mode"])
    return _emit_pool(ctx, node, "MaxPool", dilations=dilations, ceil_mode=ceil_mode)


def emit_avg_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """Average full windows by a depthwise convolution with equal weights (decision 4); in float by AveragePool.

    The convolution adds integers, so that it is exact, and takes a sixth of the time of QLinearAveragePool or less.
    """
    if node.quantizer is None:
        return _emit_pool(ctx, node, "AveragePool", count_include_pad=1)
    kernel, b, name = node.kwargs["kernel_size"], ctx.builder, node.name
    channels = node.sizes[1]
    codes = b.constant(f"{name}.weight", np.full((channels, 1, *kernel), POOL_CODE, np.int8))
    scale = np.full(channels, pool_weight_scale(kernel), np.float32)
    weight = dequantize_weight(b, name, codes, scale)
    attributes = {**_windows(node), "group": channels}
    return b.add("Conv", [ctx.values[node.inputs[0]], weight], f"{name}.float", node=name, attributes=attributes)


def emit_uneven_avg_pool(ctx: EmitContext, node: Node) -> ir.Value:
    """Average windows that count only elements of the image, which no convolution does: QLinearAveragePool."""
    return _emit_pool(ctx, node, "AveragePool", ceil_mode=int(node.kwargs["ceil_mode"]), count_include_pad=0)


def _emit_pool(ctx: EmitContext, node: Node, operator: str, **attributes: Any) -> ir.Value:
    """A pool as one operator.

    A Pad in front, on floats, is kept apart: the runtime would make its zeros the pool's own padding, which never
    counts (decision 14).
    """
    source, value = ctx.frozen.graph.node(node.inputs[0]), ctx.values[node.inputs[0]]
    if source.kind == "pad" and source.name not in ctx.grids:
        value = block_fusion(ctx.builder, value, f"{node.name}.input")
    attributes = {**_windows(node), **attributes}
    return ctx.builder.add(operator, [value], f"{node.name}.float", node=node.name, attributes=attributes)


def _windows(node: Node) -> dict[str, list[int]]:
    """The attributes that all pooling operators share."""
    options = node.kwargs
    return {
        "kernel_shape": list(options["kernel_size"]),
        "strides": list(options["stride"]),
        "pads": list(options["padding"]) * 2,
    }


EMITTERS = {
    "max_pool": Emitter(emit_max_pool),
    "avg_pool": Emitter(emit_avg_pool),
    "uneven_avg_pool": Emitter(emit_uneven_avg_pool),
}
