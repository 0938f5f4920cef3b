"""The argument of every pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import Graph
from qkd_deploy.pixels.normalization import Normalization


@dataclass(frozen=True)
class PassContext:
    """The network that a pass rewrites, and what it may ask about it.

    Attributes:
        model: the user's network, which holds the modules and parameters that nodes name; passes may add modules.
        graph: rewritten in place.
        layer_bits: the bits of every layer by its node's name, for the graph as it is then.
        last_layers: names of the layers with no other layer between them and an output, as the graph is then.
        normalization: what the network takes its pixels as; None where nothing is known of them.
    """

    model: nn.Module
    graph: Graph
    layer_bits: Callable[[nn.Module, Graph], Mapping[str, BitWidths]]
    last_layers: Callable[[Graph], Collection[str]]
    normalization: Normalization | None = None
