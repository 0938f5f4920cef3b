"""The Hessian-trace refresh of EWGS's ``delta`` (Lee, Kim, Ham 2021, arXiv:2104.00903).

With ``H`` the Hessian and ``g`` the gradient of the loss with respect to a discretised tensor ``x_q`` in [0, 1]:

    delta = max(0, mean over batches of (trace(H) / numel) / (3 * std(g)))

The traces are Hutchinson's estimates, ``E[z H z]`` over Rademacher vectors ``z``, with at most 50 of them per batch; an
estimate is final when its running mean moves by less than one in a thousand. The probes of all tensors share one
backward pass: they are independent, so that what they mix has mean zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.base import along_channels
from qkd_deploy.quantizers.ewgs import EwgsQuantizer

BATCHES, PROBES, TOLERANCE = 3, 50, 1e-3
_Captured = list[tuple[EwgsQuantizer, Tensor]]


def set_deltas(model: nn.Module, value: float) -> None:
    """Set one ``delta`` for all EWGS quantizers of a network: 0 for the straight-through estimator, 1e-3 as published.

    Raises:
        UserError: the network has no EWGS quantizer, or ``value`` is negative or not finite.
    """
    if not 0 <= value < float("inf"):
        raise UserError(f"delta is {value:g}; it must be 0 or more")
    for quantizer in _quantizers(model):
        quantizer.delta.fill_(value)


def refresh_deltas(
    model: nn.Module,
    batches: Iterable[tuple[Any, ...]],
    loss: Callable[..., Tensor],
    generator: torch.Generator | None = None,
) -> None:
    """Set every ``delta`` of ``model`` from the curvature of the loss on the first three training batches.

    The network runs in train mode; afterwards its mode, its buffers (the running statistics of batch norms), gradients
    and torch's random state are what they were.

    Args:
        model: a prepared model with EWGS quantizers.
        batches: tuples of the arguments of ``loss``.
        loss: ``loss(*batch)`` runs ``model`` and returns the scalar that training minimises, of labels or a teacher.
        generator: of the random probes, on any device; without it, they are the same in every call.

    Raises:
        UserError: the network has no EWGS quantizer, or there is no batch.
    """
    quantizers = _quantizers(model)
    generator = generator or torch.Generator().manual_seed(0)
    found: dict[EwgsQuantizer, list[Tensor]] = {quantizer: [] for quantizer in quantizers}
    count = 0
    with _left_as_it_was(model):
        for batch in islice(batches, BATCHES):
            count += 1
            for quantizer, delta in _deltas(quantizers, partial(loss, *batch), generator):
                found[quantizer].append(delta)
    if not count:
        raise UserError("there is no batch to refresh delta from; give at least one")
    for quantizer, deltas in found.items():
        if deltas:
            quantizer.delta.copy_(torch.stack(deltas).mean().clamp(min=0))


def _quantizers(model: nn.Module) -> list[EwgsQuantizer]:
    found = [module for module in model.modules() if isinstance(module, EwgsQuantizer)]
    if not found:
        raise UserError('the network has no EWGS quantizers; prepare it with quantizer="ewgs"')
    return found


def _deltas(
    quantizers: list[EwgsQuantizer], loss: Callable[[], Tensor], generator: torch.Generator
) -> Iterator[tuple[EwgsQuantizer, Tensor]]:
    """Compute ``delta`` of every discretised tensor that one batch makes, before the maximum with zero."""
    with torch.enable_grad(), _capture(quantizers) as captured:
        value = loss()
    reached = [(quantizer, tensor) for quantizer, tensor in captured if tensor.requires_grad]
    tensors = [tensor for _, tensor in reached]
    gradients = torch.autograd.grad(value, tensors, create_graph=True, materialize_grads=True)
    extents = [_extent(quantizer, tensor) for quantizer, tensor in reached]
    traces = _traces(tensors, gradients, extents, generator)
    for (quantizer, tensor), gradient, extent, trace in zip(reached, gradients, extents, traces, strict=True):
        deviation = (gradient.detach() * extent).std()
        delta = trace / (tensor.numel() * 3 * deviation)
        yield quantizer, torch.where(deviation > 0, delta, 0.0)


def _extent(quantizer: EwgsQuantizer, tensor: Tensor) -> Tensor:
    """Width of the range, by which g is multiplied, and H on both sides, for a tensor in [0, 1]; broadcasts over it."""
    return along_channels(quantizer.scale().detach() * (quantizer.spec.hi - quantizer.spec.lo), tensor)


def _traces(
    tensors: list[Tensor], gradients: tuple[Tensor, ...], extents: list[Tensor], generator: torch.Generator
) -> list[Tensor]:
    """Estimate the trace of the Hessian's block of every tensor (Hutchinson); a tensor's own estimate stops early.

    The Hessian is that of the tensors in units of ``extents``.
    """
    # a constant gradient, which has no graph, gets one of zero curvature
    curved = [g if g.requires_grad else g + 0 * t for t, g in zip(tensors, gradients, strict=True)]
    sums = torch.zeros(len(tensors), dtype=torch.float64)  # sums of many float32 products
    means = torch.zeros_like(sums)
    final = torch.zeros_like(sums, dtype=torch.bool)
    for probe in range(1, PROBES + 1):
        if bool(final.all()):
            break
        signs = [_rademacher(tensor, generator) * extent for tensor, extent in zip(tensors, extents, strict=True)]
        products = torch.autograd.grad(curved, tensors, signs, retain_graph=True, materialize_grads=True)
        sums += torch.stack([torch.sum(p * s) for p, s in zip(products, signs, strict=True)]).double().cpu()
        now = torch.where(final, means, sums / probe)
        final |= (now - means).abs() <= TOLERANCE * means.abs()
        means = now
    return list(means.to(tensors[0]))


def _rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ones with random signs; on the generator's device, so that every device sees the same ones."""
    bits = torch.randint(0, 2, like.shape, generator=generator, device=generator.device, dtype=torch.int8)
    return (2 * bits - 1).to(like)


@contextmanager
def _capture(quantizers: list[EwgsQuantizer]) -> Iterator[_Captured]:
    """Collect the outputs of the quantizers while the block runs."""
    captured: _Captured = []

    def collect(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, EwgsQuantizer)
        captured.append((module, output))

    hooks = [quantizer.register_forward_hook(collect) for quantizer in quantizers]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put the model into train mode for the block, and restore modes, buffers and random state behind it."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {buffer.device for buffer, _ in buffers if buffer.is_cuda}
    try:
        with torch.random.fork_rng([device.index for device in devices]):
            model.train()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
