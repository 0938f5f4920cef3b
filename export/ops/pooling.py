"""Pooling in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.ops.float_islands import block_fusion
from qkd_deploy.export.ops.layers import dequantize_weight
from qkd_deploy.export.quantized_graph import QuantizedGraph
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import POOL_CODE, pool_weight_scale


class Pooling(QuantizedGraph):
    """Handlers of max and average pools."""

    def _max_pool(self, node: Node) -> ir.Value:
        dilations, ceil_mode = list(node.kwargs["dilation"]), int(node.kwargs["ceil_mode"])
        return self._pool(node, "MaxPool", dilations=dilations, ceil_mode=ceil_mode)

    def _pool(self, node: Node, operator: str, **attributes: Any) -> ir.Value:
        """A pool; zeros around floats stay what they are: the runtime would make them padding, which never counts."""
        source, value = self.frozen.graph.node(node.inputs[0]), self.values[node.inputs[0]]
        if source.kind == "pad" and source.name not in self.grids:
            value = block_fusion(self.builder, value, f"{node.name}.input")
        attributes = {**_windows(node), **attributes}
        return self.builder.add(operator, [value], f"{node.name}.float", node=node.name, attributes=attributes)

    def _avg_pool(self, node: Node) -> ir.Value:
        """A depthwise convolution with equal weights: exact, and several times faster than the runtime's pool."""
        if node.quantizer is None:
            return self._pool(node, "AveragePool", count_include_pad=1)
        kernel, b, name = node.kwargs["kernel_size"], self.builder, node.name
        channels = (node.shape or ())[1]
        codes = b.constant(f"{name}.weight", np.full((channels, 1, *kernel), POOL_CODE, np.int8))
        scale = np.full(channels, pool_weight_scale(kernel), np.float32)
        weight = dequantize_weight(b, name, codes, scale)
        attributes = {**_windows(node), "group": channels}
        return b.add("Conv", [self.values[node.inputs[0]], weight], f"{name}.float", node=name, attributes=attributes)

    def _uneven_avg_pool(self, node: Node) -> ir.Value:
        ceil_mode = int(node.kwargs["ceil_mode"])
        return self._pool(node, "AveragePool", ceil_mode=ceil_mode, count_include_pad=0)


def _windows(node: Node) -> dict[str, list[int]]:
    """The attributes that all pooling operators share."""
    options = node.kwargs
    return {
        "kernel_shape": list(options["kernel_size"]),
        "strides": list(options["stride"]),
        "pads": list(options["padding"]) * 2,
    }
