"""Choose bits for each layer under a budget, so that the summed sensitivities are smallest.

The sensitivity of a layer is measured with every other layer in full precision (``sensitivity``), and the losses of a
choice are added up. Among all choices within the budget the one with the smallest sum is found (``knapsack``). The size
of a file is not quite the sum over its layers, so that files are really built, and the limit is drawn in until the
file itself is within the budget (``search``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.costs import bit_operations, layer_costs, weight_layers
from qkd_deploy.mixed_precision.search import BitSearch, Choice
from qkd_deploy.mixed_precision.sensitivity import sensitivity

Prepare = Callable[[str, Mapping[str, str]], PreparedModel]
"""Prepares the network at some bits, and with other bits for some modules."""


def choose_bits(
    prepare: Prepare,
    data: Any,
    budget: Budget,
    candidates: Sequence[str],
    *,
    base: str,
    images: int,
    measure: Callable[[PreparedModel], float],
    progress: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Choose bits for every layer that neither an override nor the first and last layers' bits decide.

    Args:
        prepare: the network at some bits, and with bits of further modules.
        data: as for ``sensitivity``; training data, or the choice would know the images that it is judged by.
        budget: the most that the model may cost.
        candidates: bits to choose from.
        base: bits of the network, as for ``prepare``.
        images: of ``data``, to measure sensitivity on.
        measure: counts the bytes of the ONNX file of a prepared model.
        progress: receives lines about the work being done.

    Raises:
        UserError: fewer than two candidates, no free layer, or a budget that no choice meets.
    """
    layers = _free_layers(prepare, candidates)
    widths = ", ".join(map(str, layers.widths))
    progress(f"sensitivity of {len(layers.modules)} layers at {widths} on {images} images")
    losses = _losses(layers, data, images)
    return _search(prepare, layers, budget, base, measure).best(losses, _own_costs(layers, budget))


def require_possible(
    prepare: Prepare,
    budget: Budget,
    candidates: Sequence[str],
    *,
    base: str,
    measure: Callable[[PreparedModel], float],
) -> None:
    """Refuse what ``choose_bits`` would, before anything is trained; arguments as there.

    Raises:
        UserError: as ``choose_bits``.
    """
    layers = _free_layers(prepare, candidates)
    _search(prepare, layers, budget, base, measure).smallest(_own_costs(layers, budget))


@dataclass(frozen=True)
class _FreeLayers:
    """The layers to choose for: their modules, the widths from the widest, and the network at the widest."""

    modules: list[str]
    widths: list[BitWidths]
    widest: PreparedModel


def _free_layers(prepare: Prepare, candidates: Sequence[str]) -> _FreeLayers:
    widths = sorted({BitWidths.parse(text) for text in candidates}, key=lambda w: (-w.weight, -w.activation))
    if len(widths) < 2:
        raise UserError("there is nothing to choose from; give two or more, such as --auto-bits-from w8a8,w4a4")
    uniform = {bits: prepare(str(bits), {}) for bits in widths}
    widest = uniform[widths[0]]
    modules = [module for module, nodes in weight_layers(widest).items() if _follow_the_network(nodes, uniform)]
    if not modules:
        raise UserError(
            "every layer has its bits already, by --bits-for or as first or last layer; leave some open, or leave "
            "--auto-bits out"
        )
    return _FreeLayers(modules, widths, widest)


def _follow_the_network(nodes: Sequence[Node], uniform: Mapping[BitWidths, PreparedModel]) -> bool:
    """True if all places where a module is called have the network's bits, whatever these are."""
    return all(prepared.layer_bits[node.name] == bits for bits, prepared in uniform.items() for node in nodes)


def _search(
    prepare: Prepare, layers: _FreeLayers, budget: Budget, base: str, measure: Callable[[PreparedModel], float]
) -> BitSearch:
    cost = measure if budget.kind == "size" else bit_operations
    return BitSearch(layers.modules, layers.widths, budget, lambda bits_for: cost(prepare(base, bits_for)))


def _losses(layers: _FreeLayers, data: Any, images: int) -> np.ndarray:
    """Measure the losses [layers, widths]; one that falls by chance counts as no loss."""
    found = sensitivity(layers.widest, data, layers.widths, images=images)
    known = {(layer.module, layer.bits): layer.loss for layer in found.layers}
    return np.array([[max(known[module, str(bits)], 0.0) for bits in layers.widths] for module in layers.modules])


def _own_costs(layers: _FreeLayers, budget: Budget) -> np.ndarray:
    """Count the costs of the layers themselves, [layers, widths]."""
    costs = layer_costs(layers.widest)
    modules = [costs[module] for module in layers.modules]
    if budget.kind == "size":
        return np.array([[float(own.packed(bits)) for bits in layers.widths] for own in modules])
    return np.array([[float(own.macs * bits.weight * bits.activation) for bits in layers.widths] for own in modules])
