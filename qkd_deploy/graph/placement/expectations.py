"""Convolutions that only take the mean of a distribution, behind the last layers, belong to the tail.

As a layer with 8-bit weights it would read a softmax on steps of 1/256, and boxes would be pixels off.
"""

from __future__ import annotations

from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.constants import CONSTANT
from qkd_deploy.graph.ops.layers import CONV
from qkd_deploy.graph.ops.movement import TRANSPOSE
from qkd_deploy.graph.ops.normalization import EXPECTATION, SOFTMAX


def expectations(network: nn.Module, graph: Graph) -> None:
    """Rewrite 1x1 convolutions to one channel of the shares of a softmax, where no layer reads what they give."""
    for node in graph.nodes:
        if node.kind == CONV.name and _weighs_shares(network, graph, node) and not _is_read_by_layers(graph, node):
            layer, weight = str(node.target), network.get_submodule(str(node.target)).get_parameter("weight")
            name = graph.unused_name(f"{node.name}.numbers")
            shape = tuple(weight.shape)
            numbers = Node(name, CONSTANT.name, label=name, module=node.module, target=f"{layer}.weight", shape=shape)
            graph.insert_before(node, numbers)
            node.become(EXPECTATION.name, (node.args[0], Ref(name)))


def _weighs_shares(network: nn.Module, graph: Graph, node: Node) -> bool:
    layer = network.get_submodule(str(node.target))
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)) or not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return False
    single = layer.out_channels == 1 == layer.groups and set(layer.kernel_size) == {1} == set(layer.stride)
    bare = layer.bias is None and node.batch_norm is None and node.affine is None and node.clip is None
    padded = any(layer.padding) if isinstance(layer.padding, tuple) else False
    return single and bare and not padded and node.gain is None and _are_shares(graph, graph.node(node.inputs[0]))


def _are_shares(graph: Graph, moved: Node) -> bool:
    """True for the result of a softmax over dimension 1, which is computed over the last and turned back."""
    if moved.kind != TRANSPOSE.name or moved.kwargs["dims"][1] != len(moved.sizes) - 1:
        return False
    return graph.node(moved.inputs[0]).kind == SOFTMAX.name


def _is_read_by_layers(graph: Graph, node: Node) -> bool:
    """True where a layer reads the node, at once or later."""
    read = {node.name}
    for other in graph.nodes:
        if not read.isdisjoint(other.inputs):
            if other.is_layer:
                return True
            read.add(other.name)
    return False
