"""Means of distributions over bins, behind the last layers, belong to the tail, whatever they are written as.

As a layer with 8-bit weights, or as an average of 8-bit products, they would read a softmax on steps of 1/256, and
boxes would be pixels off. Detectors write them as a 1x1 convolution to one channel, as a linear layer to one feature,
as a product with a vector, or as a sum of products.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

from qkd_deploy.graph.contract.borrowed_layers import BorrowingLayer
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.arithmetic import MUL, RESCALE
from qkd_deploy.graph.ops.constants import CONSTANT
from qkd_deploy.graph.ops.float_ops import FLOAT_OP
from qkd_deploy.graph.ops.layers import CONV, LINEAR
from qkd_deploy.graph.ops.movement import RESHAPE, TRANSPOSE
from qkd_deploy.graph.ops.normalization import EXPECTATION, SOFTMAX
from qkd_deploy.graph.ops.reductions import GLOBAL_AVG_POOL

_PRODUCTS = (operator.matmul, torch.matmul, "matmul")


def expectations(network: nn.Module, graph: Graph) -> None:
    """Rewrite means of numbers under the shares of a softmax, where no layer reads what they give."""
    constants = graph.constants()
    for node in graph.nodes:
        mul = _sums_products(graph, node, constants)
        weighs, multiplies = _weighs_shares(network, graph, node), _multiplies_by_vector(graph, node, constants)
        if not (weighs or multiplies or mul) or _is_read_by_layers(graph, node):
            continue
        if weighs:
            _from_layer(network, graph, node)
        elif multiplies:
            _from_product(graph, node)
        elif mul is not None:
            _from_sum(graph, node, mul, constants)


def share_dim(graph: Graph, name: str) -> int | None:
    """Find the dimension along which a tensor holds the shares of a softmax; None where it holds none."""
    node = graph.node(name)
    if node.clip is not None:
        return None
    if node.kind == SOFTMAX.name:
        return len(node.sizes) - 1
    if node.kind != TRANSPOSE.name:
        return None
    before = share_dim(graph, node.inputs[0])
    return None if before is None else list(node.kwargs["dims"]).index(before)


def _is_read_by_layers(graph: Graph, node: Node) -> bool:
    """True where a layer reads the node, at once or later."""
    read = {node.name}
    for other in graph.nodes:
        if not read.isdisjoint(other.inputs):
            if other.is_layer:
                return True
            read.add(other.name)
    return False


# -- layers ------------------------------------------------------------------------------------------------------------


def _weighs_shares(network: nn.Module, graph: Graph, node: Node) -> bool:
    """True for a bare layer to one channel of shares."""
    if node.kind not in (CONV.name, LINEAR.name):
        return False
    if node.gain or node.offset or node.batch_norm or node.affine or node.clip:
        return False
    layer: Any = network.get_submodule(str(node.target))
    if not isinstance(layer, BorrowingLayer) and not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return False
    if layer.bias is not None:
        return False
    if isinstance(layer, nn.Linear):
        return bool(layer.out_features == 1) and share_dim(graph, node.inputs[0]) == len(node.sizes) - 1
    single = layer.out_channels == 1 == layer.groups and set(layer.kernel_size) == {1} == set(layer.stride)
    padded = any(layer.padding) if isinstance(layer.padding, tuple) else False
    return single and not padded and share_dim(graph, node.inputs[0]) == 1


def _from_layer(network: nn.Module, graph: Graph, node: Node) -> None:
    """Let the numbers that are a layer's weights be a constant, which is trained where they are."""
    path = f"{node.target}.weight"
    shape = tuple(network.get_submodule(str(node.target)).weight.shape)  # type: ignore[arg-type]
    name = graph.unused_name(f"{node.name}.numbers")
    numbers = Node(name, CONSTANT.name, label=name, module=node.module, target=path, shape=shape)
    graph.insert_before(node, numbers)
    where = {} if node.kind == CONV.name else {"dim": len(node.sizes) - 1}
    node.become(EXPECTATION.name, (node.args[0], Ref(name)), **where)


# -- products and sums -------------------------------------------------------------------------------------------------


def _multiplies_by_vector(graph: Graph, node: Node, constants: set[str]) -> bool:
    """True for the product of shares with a constant vector."""
    if node.kind != FLOAT_OP.name or node.target not in _PRODUCTS or len(node.inputs) != 2 or node.kwargs:
        return False
    shares, numbers = map(graph.node, node.inputs)
    is_vector = numbers.name in constants and len(numbers.sizes) == 1
    return is_vector and shares.name not in constants and share_dim(graph, shares.name) == len(shares.sizes) - 1


def _from_product(graph: Graph, node: Node) -> None:
    last = len(node.sizes)
    mean = _mean_in_front(graph, node, node.inputs[0], node.inputs[1], (*node.sizes, 1), last)
    node.become(RESHAPE.name, (Ref(mean), last))
    node.target = torch.squeeze


def _sums_products(graph: Graph, node: Node, constants: set[str]) -> Node | None:
    """Find the product of shares and constants that a node is the sum of, along the shares; else None.

    A sum is an average with another scale: of rows, each of which holds the products along the dimension.
    """
    chain = _behind_each_other(graph, node, (RESCALE, RESHAPE, GLOBAL_AVG_POOL, RESHAPE, TRANSPOSE, MUL))
    if chain is None:
        return None
    scaled, _, _, rows, turned, mul = chain
    shares = next((name for name in mul.inputs if name not in constants), "")
    dim = share_dim(graph, shares) if len(mul.inputs) == 2 and not constants.isdisjoint(mul.inputs) else None
    if dim is None or graph.node(shares).sizes != mul.sizes or mul.sizes[dim] != rows.sizes[-1]:
        return None
    others = [place for place in range(len(mul.sizes)) if place != dim]
    in_order = list(turned.kwargs["dims"]) == [*others, dim]
    return mul if in_order and scaled.kwargs["factor"] == mul.sizes[dim] else None


def _behind_each_other(graph: Graph, node: Node, kinds: tuple[Any, ...]) -> list[Node] | None:
    """The node and those in front of it, where they are of these kinds and nothing else reads them."""
    found = [node]
    for kind in kinds[1:]:
        if not found[-1].inputs or found[-1].kind != kinds[len(found) - 1].name or found[-1].clip is not None:
            return None
        before = graph.node(found[-1].inputs[0])
        if before.kind != kind.name or graph.only_user(before.name) is not found[-1]:
            return None
        found.append(before)
    return found if found[-1].clip is None else None


def _from_sum(graph: Graph, node: Node, mul: Node, constants: set[str]) -> None:
    """Compute the sum of the products at once, and bring it to the shape that the sum had."""
    numbers, shares = sorted(mul.inputs, key=lambda name: name not in constants)
    dim = share_dim(graph, shares)
    assert dim is not None
    kept = tuple(1 if place == dim else size for place, size in enumerate(mul.sizes))
    mean = _mean_in_front(graph, node, shares, numbers, kept, dim)
    chain = [node, *_chain_of(graph, node, mul)]
    node.become(RESHAPE.name, (Ref(mean), node.open_shape))
    node.target = torch.reshape
    for gone in chain[1:]:
        graph.remove(gone)


def _chain_of(graph: Graph, node: Node, end: Node) -> list[Node]:
    """The nodes in front of a node, each the first operand of the one behind it, up to ``end``."""
    found: list[Node] = []
    while node is not end:
        node = graph.node(node.inputs[0])
        found.append(node)
    return found


def _mean_in_front(graph: Graph, node: Node, shares: str, numbers: str, shape: tuple[int, ...], dim: int) -> str:
    """Put the mean of numbers under shares in front of a node; returns its name."""
    name = graph.unused_name(f"{node.name}.mean")
    source = graph.node(shares)
    facts: dict[str, Any] = {"label": name, "module": node.module, "batch_dims": source.batch_dims, "line": node.line}
    made = Node(name, EXPECTATION.name, (Ref(shares), Ref(numbers)), {"dim": dim}, shape=shape, **facts)
    graph.insert_before(node, made)
    return name
