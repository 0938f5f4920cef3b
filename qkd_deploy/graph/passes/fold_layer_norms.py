"""Gains and offsets of layer norms move into the linear layers behind them.

``W (g * x + o) + b`` is ``(W * g) x + (b + W o)``, as when a batch norm is folded; it saves a pass over every token for
each. An offset in the bias costs nothing. A gain makes the columns of a weight as uneven as its input was, and rounding
noise goes where the unevenness is: so it moves only into weights of no fewer bits than their input. RepQ-ViT
(https://arxiv.org/abs/2212.08254) moves it at 4 bits each. The parameters stay where the user put them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.placement.layer_bits import last_layers


def fold_layer_norms(model: nn.Module, graph: Graph, bits: Mapping[str, BitWidths]) -> None:
    """Rewrite every layer norm that nothing but linear layers reads, one of its own each; ``bits`` are theirs by name.

    The last layers are left out: what they read is a feature, with which other networks' features are compared.
    """
    last = last_layers(graph)
    for norm in [node for node in graph.nodes if node.kind == "layer_norm"]:
        gain, offset = (_path(graph, ref) for ref in norm.args[1:])
        readers = _linear_readers(model, graph, norm)
        if not readers or (gain, offset) == (None, None) or any(reader.name in last for reader in readers):
            continue
        if any(ref is not None and path is None for ref, path in zip(norm.args[1:], (gain, offset), strict=True)):
            continue
        uneven = any(bits[reader.name].weight < bits[reader.name].activation for reader in readers)
        for reader in readers:
            reader.gain, reader.offset = None if uneven else gain, offset
        norm.args = (norm.args[0], norm.args[1] if uneven else None, None)
    read = {name for node in graph.nodes for name in node.inputs} | {*graph.outputs()}
    graph.nodes[:] = [node for node in graph.nodes if node.kind != "constant" or node.name in read]


def _path(graph: Graph, ref: Ref | None) -> str | None:
    """The path of a parameter of the network; None for what is computed from several."""
    node = None if ref is None else graph.node(ref.name)
    return str(node.target) if node is not None and node.kind == "constant" else None


def _linear_readers(model: nn.Module, graph: Graph, norm: Node) -> list[Node]:
    """The layers that read a norm, also where its rows move on the way; [] where anything else does."""
    found, moved = [], [norm]
    while moved:
        node = moved.pop()
        if node.name in graph.outputs():
            return []
        for reader in graph.consumers()[node.name]:
            if _keeps_rows(node, reader):
                moved.append(reader)
            elif reader.kind == "scalar":
                continue
            elif reader.is_layer and _is_own_linear(model, graph, reader):
                found.append(reader)
            else:
                return []
    return found


def _keeps_rows(node: Node, reader: Node) -> bool:
    rank = len(node.shape or ())
    if reader.kind == "slice":
        return all(dim != rank - 1 for dim, *_ in reader.kwargs["ranges"])
    if reader.kind == "transpose":
        return bool(reader.kwargs["dims"][-1] == rank - 1)
    return reader.kind == "reshape" and (reader.shape or ())[-1:] == (node.shape or ())[-1:]


def _is_own_linear(model: nn.Module, graph: Graph, node: Node) -> bool:
    """A linear layer with a parameter for its weight, which is called once."""
    layer = model.get_submodule(str(node.target))
    once = sum(other.is_layer and other.target == node.target for other in graph.nodes) == 1
    return isinstance(layer, nn.Linear) and isinstance(layer._parameters.get("weight"), nn.Parameter) and once
