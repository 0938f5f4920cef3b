"""GroupNorm in float.

ONNX Runtime computes ``GroupNormalization`` with the variance ``mean(x^2) - mean(x)^2``, which loses digits where the
mean is large beside the deviation. ``InstanceNormalization`` over the groups subtracts the mean first, as PyTorch does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.export.graph_builder import GraphBuilder
from qkd_deploy.graph.ir import Node, Ref

_ARGUMENTS = ("input", "num_groups", "weight", "bias", "eps")


def is_group_norm(network: nn.Module, node: Node) -> bool:
    """Whether a float node is a GroupNorm over images whose sizes do not follow the batch."""
    called = node.target is F.group_norm
    if isinstance(node.target, str) and not node.method:
        called = isinstance(network.get_submodule(node.target), nn.GroupNorm)
    return called and node.batch_dims == (0,)


def emit_group_norm(builder: GraphBuilder, network: nn.Module, node: Node, values: dict[str, ir.Value]) -> ir.Value:
    """Append the norm to the graph; returns its value."""
    bound = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    if isinstance(node.target, str):
        module = network.get_submodule(node.target)
        assert isinstance(module, nn.GroupNorm)
        bound |= {"num_groups": module.num_groups, "weight": module.weight, "bias": module.bias, "eps": module.eps}
    name, shape, groups = node.name, node.shape or (), int(bound["num_groups"])

    def sizes(suffix: str, *values: int) -> ir.Value:
        return builder.constant(f"{name}.{suffix}", np.array(values, np.int64))

    def per_channel(suffix: str, given: Ref | Tensor | None) -> ir.Value | None:
        if given is None:
            return None
        if isinstance(given, Ref):
            value = values[given.name]
        else:
            value = builder.constant(f"{name}.{suffix}", given.detach().cpu().numpy())
        column = sizes(f"{suffix}_shape", shape[1], *(1 for _ in shape[2:]))
        return builder.add("Reshape", [value, column], f"{name}.{suffix}_column", node=name)

    length = int(np.prod(shape[1:])) // groups
    operand = values[bound["input"].name]
    rows = builder.add("Reshape", [operand, sizes("rows_shape", -1, groups, length)], f"{name}.rows", node=name)
    unit = [
        builder.constant(f"{name}.{suffix}", np.full(groups, number, np.float32))
        for suffix, number in (("ones", 1), ("zeros", 0))
    ]
    eps = {"epsilon": float(bound.get("eps", 1e-5))}
    y = builder.add("InstanceNormalization", [rows, *unit], f"{name}.normalised", node=name, attributes=eps)
    y = builder.add("Reshape", [y, sizes("shape", -1, *shape[1:])], f"{name}.image", node=name)
    for suffix, operator in (("weight", "Mul"), ("bias", "Add")):
        factor = per_channel(suffix, bound.get(suffix))
        y = y if factor is None else builder.add(operator, [y, factor], f"{name}.{suffix}ed", node=name)
    return y
