"""Bits for each layer under a budget: the choice whose summed sensitivities are smallest.

What a layer costs in sensitivity is measured with every other layer in full precision (``sensitivity``), and the losses
of a choice are added up. Among all choices within the budget the one with the smallest sum is found (``knapsack``). The
size of a file is not quite the sum over its layers, so that files are really built, and the limit is drawn in until the
file itself is within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.costs import bit_operations, layer_costs, weight_layers
from qkd_deploy.mixed_precision.search import BitSearch, Choice
from qkd_deploy.mixed_precision.sensitivity import sensitivity


def choose_bits(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel],
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
        data: as for ``sensitivity``; training data, or the choice would know what it is judged by.
        budget: what the model may cost.
        candidates: bits to choose from.
        base: bits of the network, as for ``prepare``.
        images: of ``data``, to measure sensitivity on.
        measure: bytes of the ONNX file of a prepared model.
        progress: receives lines about what is being done.

    Raises:
        UserError: fewer than two candidates, no free layer, or a budget that no choice meets.
    """
    widest, widths, free = _open(prepare, candidates)
    progress(f"sensitivity of {len(free)} layers at {', '.join(map(str, widths))} on {images} images")
    losses = _losses(widest, data, widths, free, images)
    cost = measure if budget.kind == "size" else bit_operations
    search = BitSearch(free, widths, budget, lambda bits_for: cost(prepare(base, bits_for)))
    return search.best(losses, _layer_costs(widest, budget, widths, free))


def require_possible(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel],
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
    widest, widths, free = _open(prepare, candidates)
    cost = measure if budget.kind == "size" else bit_operations
    search = BitSearch(free, widths, budget, lambda bits_for: cost(prepare(base, bits_for)))
    search.smallest(_layer_costs(widest, budget, widths, free))


def _open(
    prepare: Callable[[str, Mapping[str, str]], PreparedModel], candidates: Sequence[str]
) -> tuple[PreparedModel, list[BitWidths], list[str]]:
    """The network at the widest bits, the bits to choose from, and the modules to choose for."""
    widths = sorted({BitWidths.parse(text) for text in candidates}, key=lambda w: (-w.weight, -w.activation))
    if len(widths) < 2:
        raise UserError("there is nothing to choose from; give at least two different bits, such as w8a8,w4a4")
    uniform = {bits: prepare(str(bits), {}) for bits in widths}
    free = _free(uniform)
    if not free:
        raise UserError("every layer has its bits already, by --bits-for or as first or last layer; leave some open")
    return uniform[widths[0]], widths, free


def _free(uniform: Mapping[BitWidths, PreparedModel]) -> list[str]:
    """Modules that have the network's bits wherever they are called, whatever these are."""
    first = next(iter(uniform.values()))
    return [
        module
        for module, nodes in weight_layers(first).items()
        if all(prepared.layer_bits[node.name] == bits for bits, prepared in uniform.items() for node in nodes)
    ]


def _losses(prepared: PreparedModel, data: Any, widths: list[BitWidths], free: list[str], images: int) -> np.ndarray:
    """Losses [layers, widths]; what falls by chance counts as no loss."""
    found = sensitivity(prepared, data, widths, images=images)
    known = {(layer.module, layer.bits): layer.loss for layer in found.layers}
    return np.array([[max(known[module, str(bits)], 0.0) for bits in widths] for module in free])


def _layer_costs(prepared: PreparedModel, budget: Budget, widths: list[BitWidths], free: list[str]) -> np.ndarray:
    """What the layers themselves cost [layers, widths]."""
    own = layer_costs(prepared)
    if budget.kind == "size":
        return np.array([[float(own[module].packed(bits)) for bits in widths] for module in free])
    return np.array([[float(own[module].macs * bits.weight * bits.activation) for bits in widths] for module in free])
