"""The tensors of a network's answers, whose extremes are what users ask for: peaks of maps, best boxes, bright pixels.

A clip that least squares chooses rounds most values a little finer, and cuts the rare large ones by a quarter. Behind
a hidden layer the sums of the next one hide that; nothing hides it in an answer.
"""

from __future__ import annotations

from qkd_deploy.graph.prepared import PreparedModel

_WIDE = 8
"""Bits with which a grid from end to end is fine enough."""


def answers_of(prepared: PreparedModel) -> frozenset[str]:
    """Keys of the 8-bit quantizers whose tensors no integer kernel reads, at once or later."""
    graph = prepared.graph
    read: set[str] = set()
    for node in reversed(graph.nodes):
        if node.quantizer is not None or node.is_layer or node.name in read:
            read.update(node.inputs)
    inner = {node.quantizer for node in graph.nodes if node.name in read}
    keys = {node.quantizer for node in graph.nodes} - inner - {None}
    return frozenset(key for key in keys if key and prepared.activation(key).spec.bits == _WIDE)


def method_for(key: str, method: str, answers: frozenset[str]) -> str:
    """The method for one quantizer: where least squares would choose a clip, answers keep their extremes."""
    return "minmax" if method in ("auto", "mse") and key in answers else method
