"""The range that 8-bit weights use in a file, and why, in words."""

from __future__ import annotations

from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ops.layers import is_depthwise, layer_of

SAFE = 64
"""Pairs of products with an unsigned code stay within 16 bits up to here."""


def weight_codes(frozen: FrozenModel) -> str:
    """Say how far 8-bit weights reach and what that means for CPUs; "" where no layer has 8-bit weights."""
    largest = {False: 0, True: 0}
    for node in frozen.graph.nodes:
        if node.is_layer and frozen.layer(node).weight_bits == 8:
            depthwise = is_depthwise(layer_of(frozen.network, node))
            codes = frozen.layer(node).codes
            largest[depthwise] = max(largest[depthwise], int(codes.short().abs().max()))
    parts = []
    if largest[False] > SAFE:
        parts.append(
            f"reach {largest[False]}: sums may saturate on x86 CPUs without VNNI, which --weight-range safe avoids"
        )
    elif largest[False]:
        parts.append(f"stay within {largest[False]}, so that sums of pairs saturate on no CPU")
    if largest[True]:
        parts.append(f"reach {largest[True]} in depthwise convolutions, whose kernels add no pairs")
    return f"8-bit weights {', and '.join(parts)}" if parts else ""
