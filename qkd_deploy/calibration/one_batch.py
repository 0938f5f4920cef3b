"""Set the first scale of every quantizer from the weights and one batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qkd_deploy.bits import keep_in_float
from qkd_deploy.calibration.answers import answers_of, method_for
from qkd_deploy.calibration.batch_norms import estimating_fresh
from qkd_deploy.calibration.inputs import network_inputs
from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.given import as_prepared
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops.layers import layer_parameters
from qkd_deploy.graph.prepared import PreparedModel


@torch.no_grad()
def initialize(prepared: nn.Module, *inputs: Any, method: str = "auto") -> None:
    """Set every scale from the weights and one batch, layer by layer on already quantized inputs.

    Call it once, before training and before wrapping the model for distribution or compilation. Batch norms are not
    touched, but for those that never saw a batch: they take the statistics of this one.

    Args:
        prepared: the model from ``prepare``, wrapped or not.
        inputs: a batch, as the network takes it; some hundred samples are plenty.
        method: "mse", "percentile", "lsq" or "minmax", see ``quantizers.scale_search``; "auto" takes the start that
            goes with the quantizers ("mse" for intervals). With both, 8-bit answers that no integer kernel reads keep
            their extremes ("minmax").

    Raises:
        UserError: not a prepared model, an unknown method, no samples, or values that are not finite; all scales are
            then as before.
    """
    prepared = as_prepared(prepared, "initialize")
    with _all_or_none(prepared):
        _set_scales(prepared, network_inputs(prepared, inputs), method)


@contextmanager
def _all_or_none(prepared: PreparedModel) -> Iterator[None]:
    """Put all scales back where the block fails: half of them would pass for an initialised model."""
    holders = prepared.weights, prepared.activations
    before = [copy.deepcopy(holder.state_dict()) for holder in holders]
    try:
        yield
    except BaseException:
        for holder, state in zip(holders, before, strict=True):
            holder.load_state_dict(state)
        raise


def _set_scales(prepared: PreparedModel, inputs: tuple[Any, ...], method: str) -> None:
    _set_weight_scales(prepared, method)
    factors, answers = tie_breaking_factors(), answers_of(prepared)

    def observe(node: Node, value: Any) -> None:
        if node.quantizer is None:
            return
        quantizer = prepared.activation(node.quantizer)
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{node.name} has values that are not finite; check the weights and the batch, or where a module makes "
                f"and reads them, {keep_in_float(node.module or 'PATH')}"
            )
        if not quantizer.fixed:
            start = quantizer.start(value, method_for(node.quantizer, method, answers))
            quantizer.set_scale(start * next(factors))

    with evaluating(prepared), estimating_fresh(prepared, len(inputs[0])):
        prepared.run_observed(inputs, observe)


def _set_weight_scales(prepared: PreparedModel, method: str) -> None:
    for node in prepared.layers():
        quantizer = prepared.weight(node)
        weight, _ = layer_parameters(prepared.network, node)
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"{node.name} has weights that are not finite; start from other weights")
        if not quantizer.fixed:
            quantizer.set_scale(quantizer.start(weight, method))


def tie_breaking_factors() -> Iterator[float]:
    """Yield factors between 1 and 1.01, all different, for the scales of activations.

    Scales that start from related tensors (a pool and its operand) often stand in the ratio of two small integers, on
    which exact rounding ties are common. The multiples of the golden ratio, which no ratio of small integers is close
    to, avoid that.
    """
    golden = (5**0.5 - 1) / 2
    return (1 + 0.01 * (index * golden % 1) for index in itertools.count(1))
