"""Batch norms with no layer of their own become layers: a depthwise convolution of ones in front of them.

    bn(x)  =  bn(1 * x)    with a 1x1 kernel of ones per channel

Folding then gives ``gamma / sigma`` as the scales of the convolution's weights, so that normalising costs one integer
kernel and rounds nothing but the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.passes.context import PassContext
from qkd_deploy.quantizers.batch_norm import BatchNorm

BITS = BitWidths(8, 8)
STEP = 2.0**-5
"""Step of the ones: a power of two, so that 32 steps are one exactly."""
_CHILD = "channels"


class _Ones(nn.Module):
    """Depthwise weights of one, which nobody trains and no checkpoint holds."""

    weight: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, groups=channels, bias=False, device="meta")
        shape = self.weight.shape
        del self.weight
        self.register_buffer("weight", torch.ones(shape), persistent=False)


class ChannelIdentity(_Ones, nn.Conv2d):
    """A depthwise 1x1 convolution with weights of one, for images of that many channels."""


class SequenceIdentity(_Ones, nn.Conv1d):
    """The same for sequences."""


_CHANNEL_LAYERS: dict[int, Callable[[int], nn.Module]] = {2: SequenceIdentity, 3: SequenceIdentity, 4: ChannelIdentity}
"""The layer in front of a batch norm, by the rank of its tensor."""


def is_channel_identity(module: nn.Module) -> bool:
    """True where a layer only carries a batch norm."""
    return isinstance(module, _Ones)


def batch_norms_as_depthwise(context: PassContext) -> None:
    """Turn every batch norm of images, sequences or features into a layer: ``batch_norm`` becomes ``layer``."""
    for node in context.graph.nodes:
        if node.kind == "batch_norm" and len(node.sizes) in _CHANNEL_LAYERS:
            _become_layer(context, node)


def _become_layer(context: PassContext, node: Node) -> None:
    layer = _CHANNEL_LAYERS[len(node.sizes)]
    if len(node.sizes) == 2:
        _as_sequence(context.graph, node)
    path = str(node.target)
    norm = context.model.get_submodule(path)
    assert isinstance(norm, BatchNorm)
    if _CHILD not in norm._modules:  # a batch norm that is called twice has one
        norm.add_module(_CHILD, layer(norm.num_features))
    node.kind, node.target, node.batch_norm, node.reason = "conv", f"{path}.{_CHILD}", path, ""


def _as_sequence(graph: Graph, node: Node) -> None:
    """Make features [N, C] a sequence [N, C, 1] for a batch norm, and features again behind it."""
    features, sequence = node.sizes, (*node.sizes, 1)
    column = _reshape(node, "column", sequence, torch.unsqueeze, node.args[0])
    row = _reshape(node, "row", features, torch.squeeze, Ref(node.name))
    graph.insert_before(node, column)
    graph.insert_after(node, row)
    graph.replace_all_uses(node.name, row.name)
    node.args, node.shape = (Ref(column.name),), sequence


def _reshape(node: Node, suffix: str, shape: tuple[int, ...], function: Callable[..., Any], operand: Ref) -> Node:
    return Node(
        f"{node.name}_{suffix}",
        "reshape",
        (operand, -1),
        label=f"{node.label}.{suffix}",
        module=node.module,
        target=function,
        shape=shape,
        batch_dims=node.batch_dims,
    )
