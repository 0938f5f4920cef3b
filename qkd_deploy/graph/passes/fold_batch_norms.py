"""Batch norms join the layer in front of them.

    gamma * (W x + b - mean) / sigma + beta  =  (s W) x + (s (b - mean) + beta)    with s = gamma / sigma, per channel

In eval mode the two are one kernel. The layer only notes which batch norm is its own: the constants are computed where
they are needed, because both go on training.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.passes.context import PassContext


def fold_batch_norms(context: PassContext) -> None:
    """Fold every batch norm that alone reads a layer: ``layer -> batch_norm`` becomes ``layer``."""
    graph = context.graph
    for layer in [node for node in graph.nodes if node.is_layer]:
        norm = graph.only_user(layer.name)
        if norm is not None and norm.kind == "batch_norm" and _normalizes_outputs(context.model, layer, norm):
            layer.batch_norm, layer.shape = str(norm.target), norm.shape
            graph.remove(norm, layer.name)


def _normalizes_outputs(model: nn.Module, layer: Node, norm: Node) -> bool:
    """True where the channels of a batch norm are the outputs of a layer.

    A BatchNorm1d behind a Linear on tokens [N, T, C] normalizes T.
    """
    features = model.get_submodule(str(norm.target)).num_features
    module: Any = model.get_submodule(str(layer.target))
    on_tokens = layer.kind == "linear" and len(layer.sizes) != 2
    return bool(features == module.weight.shape[0]) and not on_tokens
