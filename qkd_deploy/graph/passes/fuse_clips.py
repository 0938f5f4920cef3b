"""Activation functions that are ranges (ReLU, ReLU6, Hardtanh, clamps) become the range of the node in front of them.

    clip(f(x), low, high)  =  f(x) with codes from low to high
    clip(move(x))          =  move(clip(x))      for max-pools and data movement, which rounding nothing commute with it

A clip moves in front of data movement only to meet a node that absorbs it:

    conv -> max_pool -> reshape -> clip   becomes   conv {clip} -> max_pool -> reshape
"""

from __future__ import annotations

import math

from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import CLIP, DROPOUT
from qkd_deploy.graph.passes.context import PassContext

_RELU = (0.0, math.inf)


def fuse_clips(context: PassContext) -> None:
    """Fuse every clip that alone reads the node, or the moved node, that absorbs it."""
    graph = context.graph
    for node in graph.nodes:
        if node.kind == CLIP.name:
            _hoist(graph, node)
    for node in graph.nodes:
        if node in graph and operator_of(node).absorbs_clip:
            _absorb(graph, node)


def _hoist(graph: Graph, clip: Node) -> None:
    """Move a clip in front of as much data movement as it can cross: ``a -> move -> clip`` to ``a -> clip -> move``."""
    while (moved := _crossable(graph, clip)) is not None:
        source = graph.node(moved.inputs[0])
        graph.replace_all_uses(clip.name, moved.name)
        graph.move_before(moved, clip)
        graph.replace_uses_in([clip], moved.name, source.name)
        graph.replace_uses_in([moved], source.name, clip.name)
        clip.shape = source.shape


def _crossable(graph: Graph, clip: Node) -> Node | None:
    """The data movement that a clip reads, if the clip may stand in front of it."""
    moved = graph.node(clip.inputs[0])
    if not _commutes(clip, moved) or graph.only_user(moved.name) is not clip:
        return None
    source = graph.node(moved.inputs[0])
    leads_on = operator_of(source).moves_with_clip or operator_of(source).absorbs_clip
    return moved if leads_on and graph.only_user(source.name) is moved else None


def _commutes(clip: Node, moved: Node) -> bool:
    if moved.kind == DROPOUT.name:
        return clip.clip == _RELU  # dropout rescales in training: only a clip at zero and infinity commutes
    return operator_of(moved).moves_with_clip


def _absorb(graph: Graph, node: Node) -> None:
    """Make the clips behind a node part of it."""
    while (clip := graph.only_user(node.name)) is not None and clip.kind == CLIP.name and clip.clip is not None:
        low, high = node.clip or (-math.inf, math.inf)
        # clip(clip(x, a, b), c, d) as one range; both hold zero, so the ranges overlap
        node.clip = (max(low, clip.clip[0]), min(high, clip.clip[1]))
        node.shape = clip.shape
        graph.remove(clip, node.name)
