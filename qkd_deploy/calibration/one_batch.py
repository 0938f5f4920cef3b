"""The first scale of every quantizer, from the weights and one batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.prepare import PreparedModel


@torch.no_grad()
def initialize(prepared: PreparedModel, *inputs: Any, method: str = "auto") -> None:
    """Set every scale from the weights and one batch, layer by layer on already quantized inputs.

    Call it once, before training and before wrapping the model for distribution or compilation. Batch norms are not
    touched.

    Args:
        prepared: the model from ``prepare``.
        inputs: a batch, as the network takes it; some hundred samples are plenty.
        method: "mse", "percentile", "lsq" or "minmax", see ``quantizers.initialization``; "auto" takes the start that
            goes with the quantizers ("mse" for intervals).

    Raises:
        UserError: an unknown method, or values that are not finite.
    """
    for node in prepared.layers():
        quantizer = prepared.weight(node)
        weight, _ = operations.layer_parameters(prepared.network, node)
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"{node.name} has weights that are not finite; start from other weights")
        if not quantizer.fixed:
            quantizer.set_scale(quantizer.start(weight, method))

    factors = spread()

    def evaluate(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = prepared.unquantized(node, args, kwargs)
        if node.quantizer is None:
            return value
        quantizer = prepared.activation(node.quantizer)
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{node.name} has values that are not finite; check the weights and the batch, or keep the module that "
                "makes them as one step in float (leaf_modules)"
            )
        if not quantizer.fixed:
            quantizer.set_scale(quantizer.start(value, method) * next(factors))
        return quantizer(value)

    with evaluating(prepared):
        prepared.graph.run(inputs, evaluate)


def spread() -> Iterator[float]:
    """Factors between 1 and 1.01, all different.

    Steps that start from related tensors (a pool and its operand) often stand in the ratio of two small integers, on
    which exact rounding ties are common. The multiples of the golden ratio avoid such ratios.
    """
    golden = (5**0.5 - 1) / 2
    return (1 + 0.01 * (index * golden % 1) for index in itertools.count(1))
