"""Joins what one integer kernel computes: layer + batch norm + activation function.

Algebra: ``clip(bn(conv(x)))`` is one kernel, because a batch norm in eval mode is a per-channel factor and offset, and
a clip is a narrower range of the output codes. ReLU and other clips commute with max-pools and data movement.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref, substitute
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import DROPOUT
from qkd_deploy.graph.passes.batch_norms_as_depthwise import as_layer
from qkd_deploy.graph.passes.hoist_slices import hoist_slices


def fuse(model: nn.Module, graph: Graph, *, norms_as_layers: bool) -> Graph:
    """Fuse in place: batch norms into layers, clips into whatever makes their operand; then name the tensors.

    ``norms_as_layers``: batch norms that follow no layer become layers (``channel_norm``).
    """
    _fuse_batch_norms(model, graph)
    if norms_as_layers:
        for node in list(graph.nodes):
            as_layer(model, graph, node)
    while _hoist_one_clip(graph):
        pass
    _fuse_clips(graph)
    hoist_slices(model, graph)
    _name_tensors(graph)
    return graph


def _only_reader(graph: Graph, name: str, kind: str) -> Node | None:
    """The single node that reads a tensor, if it is of that kind and the network does not return the tensor."""
    readers = graph.consumers()[name]
    if len(readers) == 1 and readers[0].kind == kind and name not in graph.outputs():
        return readers[0]
    return None


def _absorb(graph: Graph, node: Node, reader: Node) -> None:
    """Let ``node`` stand for ``reader`` as well."""
    graph.nodes.remove(reader)
    graph.replace(reader.name, node.name)
    node.shape = reader.shape


def _fuse_batch_norms(model: nn.Module, graph: Graph) -> None:
    for node in [n for n in graph.nodes if n.is_layer]:
        reader = _only_reader(graph, node.name, "batch_norm")
        if reader is None:
            continue
        features = model.get_submodule(str(reader.target)).num_features
        layer: Any = model.get_submodule(str(node.target))
        # BatchNorm1d behind a Linear on tokens normalises another dimension than the layer's outputs
        if features == layer.weight.shape[0] and not (node.kind == "linear" and len(node.shape or ()) != 2):
            node.batch_norm = str(reader.target)
            _absorb(graph, node, reader)


def _hoist_one_clip(graph: Graph) -> bool:
    """Move one ReLU in front of the data movement before it, if its real producer can absorb it."""
    for clip in graph.nodes:
        if clip.kind != "clip":
            continue
        moved = graph.node(clip.inputs[0])
        if not operator_of(moved).moves_with_clip or _only_reader(graph, moved.name, "clip") is None:
            continue
        if moved.kind == DROPOUT.name and clip.clip != (0.0, float("inf")):
            continue  # dropout rescales in training: only a clip at zero and infinity commutes
        source = graph.node(moved.inputs[0])
        if (
            not (operator_of(source).moves_with_clip or operator_of(source).absorbs_clip)
            or _only_reader(graph, source.name, moved.kind) is None
        ):
            continue
        _swap(graph, source, moved, clip)
        return True
    return False


def _swap(graph: Graph, source: Node, moved: Node, clip: Node) -> None:
    """``source -> moved -> clip`` becomes ``source -> clip -> moved``."""
    clip_readers = {n.name for n in graph.consumers()[clip.name]}
    graph.replace(source.name, clip.name, only={moved.name})
    graph.replace(clip.name, moved.name, only=clip_readers - {moved.name})
    graph.replace(moved.name, source.name, only={clip.name})
    if clip.name in graph.outputs():
        holder = Graph([], [], graph.output)
        holder.replace(clip.name, moved.name)
        graph.output = holder.output
    clip.shape = source.shape
    graph.nodes.remove(clip)
    graph.nodes.insert(graph.nodes.index(moved), clip)


def _fuse_clips(graph: Graph) -> None:
    for node in list(graph.nodes):
        if not operator_of(node).absorbs_clip or node not in graph.nodes:
            continue
        while (reader := _only_reader(graph, node.name, "clip")) is not None and reader.clip is not None:
            low, high = node.clip or (float("-inf"), float("inf"))
            # clip(clip(x, a, b), c, d) as one range; both hold zero, so the ranges overlap
            node.clip = (max(low, reader.clip[0]), min(high, reader.clip[1]))
            _absorb(graph, node, reader)


def _name_tensors(graph: Graph) -> None:
    """Make the labels unique and let them be the names: ``layer1.0.conv1``, ``layer1.0.add``, ``layer1.0.add_2``."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        name, count = node.label, 1
        while name in taken:
            count += 1
            name = f"{node.label}_{count}"
        taken.add(name)
        names[node.name] = name

    def rename(ref: Ref) -> Ref:
        return Ref(names[ref.name])

    for node in graph.nodes:
        node.name = names[node.name]
        node.args, node.kwargs = substitute((node.args, node.kwargs), rename)
    graph.inputs[:] = [names[name] for name in graph.inputs]
    graph.output = substitute(graph.output, rename)
