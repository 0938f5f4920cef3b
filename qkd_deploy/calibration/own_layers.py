"""Which layers may be given other weights without changing anything else."""

from __future__ import annotations

from collections import Counter

from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract.borrowed_layers import has_computed_weight
from qkd_deploy.graph.contract.evaluation import attribute_at
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.layers import layer_of
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.base import Quantizer


def own_layers(prepared: PreparedModel) -> set[str]:
    """Names of the layers whose weight, which is not computed, and batch norm are theirs alone, with learned scales.

    Raises:
        UserError: the quantizer rounds weights in a way of its own.
    """
    nodes = prepared.layers()
    weights = Counter(_address(prepared, node) for node in nodes)
    norms = Counter(node.batch_norm for node in nodes)
    written = [node for node in nodes if not has_computed_weight(layer_of(prepared.network, node))]
    learned = [node for node in written if not prepared.weight(node).fixed]
    if any(type(prepared.weight(node)).codes is not Quantizer.codes for node in learned):
        kind = prepared.settings.quantizer
        raise UserError(f"{kind} chooses codes of weights by a rule of its own; reconstruct with interval or lsq")
    return {
        node.name
        for node in learned
        if weights[_address(prepared, node)] == 1
        and (node.batch_norm is None or norms[node.batch_norm] == 1)
        and _gain_divides(prepared, node)
    }


def _gain_divides(prepared: PreparedModel, node: Node) -> bool:
    """Say if a gain in front of a layer can be taken out of its weights again."""
    if node.gain is None:
        return True
    return isinstance(layer_of(prepared.network, node), nn.Linear) and bool(
        attribute_at(prepared.network, node.gain).all()
    )


def _address(prepared: PreparedModel, node: Node) -> int:
    """Tell weights apart, also where several modules hold one tensor."""
    return int(layer_of(prepared.network, node).weight.data_ptr())
