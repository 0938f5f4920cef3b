"""What layers cost: parameters, multiplications, and bytes at a number of bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.export.packing import container_bits
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_parameters
from qkd_deploy.graph.prepared import PreparedModel


@dataclass(frozen=True)
class LayerCosts:
    """Costs of one module, in all the places where it is called.

    Attributes:
        parameters: weights and biases.
        weights: the weights alone.
        macs: multiplications and additions for one sample.
    """

    parameters: int
    weights: int
    macs: int

    def packed(self, bits: BitWidths) -> int:
        """Bytes of the weights in a file with packed weights."""
        return math.ceil(self.weights * container_bits(bits.weight, "packed") / 8)

    def at(self, bits: BitWidths) -> dict[str, int]:
        """The costs at some bits, as ``LayerLoss`` tells them."""
        size = self.packed(bits)
        return {"parameters": self.parameters, "macs": self.macs, "bytes": size, "saved": self.weights - size}


def weight_of(prepared: PreparedModel, node: Node) -> Tensor:
    """The full-precision weights of a layer."""
    return layer_parameters(prepared.network, node)[0]


def weight_layers(prepared: PreparedModel) -> dict[str, list[Node]]:
    """The layers with weights of their own, by module: all places where each is called."""
    found: dict[str, list[Node]] = {}
    for node in prepared.layers():
        if isinstance(prepared.network.get_submodule(str(node.target)).weight, nn.Parameter):
            found.setdefault(str(node.target), []).append(node)
    return found


def layer_costs(prepared: PreparedModel) -> dict[str, LayerCosts]:
    """Costs by module."""
    costs = {}
    for module, nodes in weight_layers(prepared).items():
        own = prepared.network.get_submodule(module)
        weight = weight_of(prepared, nodes[0])
        each = weight.numel() // weight.shape[0]
        macs = sum(elements(node) for node in nodes) * each
        costs[module] = LayerCosts(sum(p.numel() for p in own.parameters()), weight.numel(), macs)
    return costs


def bit_operations(prepared: PreparedModel) -> int:
    """Multiplications for one sample, each counted as often as the bits of both factors multiply to."""
    total = 0
    for nodes in weight_layers(prepared).values():
        weight = weight_of(prepared, nodes[0])
        for node in nodes:
            bits = prepared.layer_bits[node.name]
            total += elements(node) * (weight.numel() // weight.shape[0]) * bits.weight * bits.activation
    return total


def elements(node: Node) -> int:
    """Elements of a layer's output for one sample."""
    shape = node.shape or ()
    return math.prod(size for place, size in enumerate(shape) if place not in (node.batch_dims or (0,)))
