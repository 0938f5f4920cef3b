"""Batch norms with no layer of their own, as layers: a depthwise convolution of ones in front of them.

Folding then gives ``gamma / sigma`` as the scales of the convolution's weights, so that normalising costs one integer
kernel and rounds nothing but the result.
"""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Graph, Node, Ref
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


def is_channel_identity(module: nn.Module) -> bool:
    """Whether a layer only carries a batch norm."""
    return isinstance(module, _Ones)


def as_layer(model: nn.Module, graph: Graph, node: Node) -> None:
    """Turn a batch norm node into a layer node; features become sequences of one element for it."""
    rank = len(node.shape or ())
    if node.kind != "batch_norm" or rank not in (2, 3, 4):
        return
    if rank == 2:
        _as_sequence(graph, node)
    path = str(node.target)
    norm = model.get_submodule(path)
    assert isinstance(norm, BatchNorm)
    if _CHILD not in norm._modules:
        norm.add_module(_CHILD, (ChannelIdentity if rank == 4 else SequenceIdentity)(norm.num_features))
    node.kind, node.target, node.batch_norm, node.reason = "conv", f"{path}.{_CHILD}", path, ""


def _as_sequence(graph: Graph, node: Node) -> None:
    """Put a reshape in front of a norm of features, and one behind it."""
    shape, at = node.shape or (), graph.nodes.index(node)
    column, row = (
        Node(
            f"{node.name}_{suffix}", "reshape", args, label=f"{node.label}.{suffix}", module=node.module,
            target=function, shape=sizes, batch_dims=node.batch_dims,
        )
        for suffix, args, function, sizes in (
            ("column", (node.args[0], -1), torch.unsqueeze, (*shape, 1)),
            ("row", (Ref(node.name), -1), torch.squeeze, shape),
        )
    )  # fmt: skip
    graph.nodes[at : at + 1] = [column, node, row]
    graph.replace(node.name, row.name)
    node.args, node.shape = (Ref(column.name),), (*shape, 1)
