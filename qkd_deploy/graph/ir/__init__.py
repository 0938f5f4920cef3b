"""The one graph that the prepared model, the frozen model and the exporter walk, and its readable text."""

from qkd_deploy.graph.ir.graph import Graph
from qkd_deploy.graph.ir.node import LAYER_KINDS, Node, Ref, rebuilt, references, substitute

__all__ = ["LAYER_KINDS", "Graph", "Node", "Ref", "rebuilt", "references", "substitute"]
