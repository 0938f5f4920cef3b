"""Count the costs of layers: parameters, multiplications, and bytes at a number of bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.export.packing import container_bits
from qkd_deploy.graph.contract.borrowed_layers import has_computed_weight
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_of, layer_parameters
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
        """Count the bytes of the weights in a file with packed weights."""
        return math.ceil(self.weights * container_bits(bits.weight, "packed") / 8)

    def at(self, bits: BitWidths) -> dict[str, int]:
        """Count the costs at some bits, as ``LayerLoss`` tells them; ``saved`` is against 8 bits a weight."""
        size = self.packed(bits)
        return {"parameters": self.parameters, "macs": self.macs, "bytes": size, "saved": self.weights - size}


def weight_of(prepared: PreparedModel, node: Node) -> Tensor:
    """Look up the full-precision weights of a layer."""
    return layer_parameters(prepared.network, node)[0]


def weight_layers(prepared: PreparedModel) -> dict[str, list[Node]]:
    """Group the layers with weights of their own by module: all places where each is called."""
    found: dict[str, list[Node]] = {}
    for node in prepared.layers():
        layer = layer_of(prepared.network, node)
        if isinstance(layer.weight, nn.Parameter) or has_computed_weight(layer):
            found.setdefault(str(node.target), []).append(node)
    return found


def layer_costs(prepared: PreparedModel) -> dict[str, LayerCosts]:
    """Count the costs of every module with weights; of multiplications, those of all places where it is called."""
    costs = {}
    for module, nodes in weight_layers(prepared).items():
        weight = weight_of(prepared, nodes[0])
        each = weight.numel() // weight.shape[0]  # multiplications for one element of the output
        macs = sum(elements(node) for node in nodes) * each
        costs[module] = LayerCosts(_elements_of(layer_of(prepared.network, nodes[0])), weight.numel(), macs)
    return costs


def _elements_of(layer: Any) -> int:
    """Count the elements of a layer's weight and bias."""
    return sum(tensor.numel() for tensor in (layer.weight, layer.bias) if tensor is not None)


def bit_operations(prepared: PreparedModel) -> int:
    """Count the bit operations for one sample: each multiplication times the bits of both factors."""
    total = 0
    for nodes in weight_layers(prepared).values():
        weight = weight_of(prepared, nodes[0])
        for node in nodes:
            bits = prepared.layer_bits[node.name]
            total += elements(node) * (weight.numel() // weight.shape[0]) * bits.weight * bits.activation
    return total


def elements(node: Node) -> int:
    """Count the elements of a layer's output for one sample."""
    shape = node.sizes
    return math.prod(size for place, size in enumerate(shape) if place not in (node.batch_dims or (0,)))
