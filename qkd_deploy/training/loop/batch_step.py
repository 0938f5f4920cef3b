"""One optimizer step of all networks that learn, from one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.distill.phases import LossTerms, Phase, Role
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.answers import outputs_of, total
from qkd_deploy.training.loop.compiled import compile_network
from qkd_deploy.training.loop.optimizers import NetworkOptimizer
from qkd_deploy.training.loop.stage import LoopOptions, Stage


class BatchStep:
    """Trains the networks of a stage on one batch after the other.

    Args:
        stage: whose networks learn.
        optimizers: of those that learn in some phase.
        processes: that train together.
        options: how batches are computed.
    """

    def __init__(
        self,
        stage: Stage,
        optimizers: Mapping[Role, NetworkOptimizer],
        processes: Processes,
        options: LoopOptions,
    ) -> None:
        self._stage = stage
        self._optimizers = optimizers
        self._processes = processes
        self._options = options
        self._forward = {role: self._callable(role, network) for role, network in stage.networks.items()}

    def _callable(self, role: Role, network: nn.Module) -> nn.Module:
        if self._options.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # All batches of a stage have one size, so that every network compiles once per mode it runs in.
        called = compile_network(network) if self._options.compiled else network
        return self._processes.wrap(called) if role in self._stage.optimizers else called

    def train(self, phase: Phase, inputs: Tensor, labels: Tensor, progress: float) -> dict[Role, LossTerms]:
        """Move every network that learns once; the batch is processed in parts that add up their gradients.

        Args:
            phase: says who learns by which loss.
            inputs: float32 images [N, C, H, W].
            labels: the task's targets: int64 [N], or float32 [N, classes] of mixed images.
            progress: share of the phase that is over.

        Returns:
            the detached loss terms of every network that learns, averaged over the batch.
        """
        for role in phase.losses:
            self._optimizers[role].zero_grad()
        parts = list(zip(inputs.chunk(self._options.accumulate), labels.chunk(self._options.accumulate), strict=True))
        means: dict[Role, LossTerms] = {role: {} for role in phase.losses}
        for index, (images, answers) in enumerate(parts):
            share = len(answers) / len(labels)
            with self._exchange(phase, last=index + 1 == len(parts)):
                losses = self._backward(phase, images, answers, share, progress)
            for role, terms in losses.items():
                means[role] = {name: means[role].get(name, 0) + value * share for name, value in terms.items()}
        for role in phase.losses:
            self._optimizers[role].step()
        if self._stage.averaged is not None and "student" in phase.losses:
            self._stage.averaged.update_parameters(self._stage.networks["student"])
        return means

    @contextmanager
    def _exchange(self, phase: Phase, *, last: bool) -> Iterator[None]:
        """Average gradients between the processes, but only with the last part of a batch."""
        with ExitStack() as quiet:
            for role in () if last else phase.losses:
                quiet.enter_context(self._processes.without_exchange(self._forward[role]))
            yield

    def _backward(
        self, phase: Phase, inputs: Tensor, labels: Tensor, share: float, progress: float
    ) -> dict[Role, LossTerms]:
        """Add the gradients of a part of a batch, weighted by its share of it."""
        if self._options.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        answers = {role: self._answer(role, phase, inputs) for role in phase.networks}
        outputs = outputs_of(labels, answers, progress, self._stage.task)
        losses = {role: loss(outputs) for role, loss in phase.losses.items()}
        # The losses detach what they imitate, so one backward pass serves both networks without mixing them.
        (total(*losses.values()) * share).backward()  # type: ignore[no-untyped-call]
        return {role: {name: value.detach() for name, value in terms.items()} for role, terms in losses.items()}

    def _answer(self, role: Role, phase: Phase, inputs: Tensor) -> Any:
        learns = role in phase.losses
        # A frozen network on a GPU always runs in bfloat16: its softmax is only imitated.
        low_precision = self._options.bf16 or (not learns and inputs.is_cuda)
        with torch.set_grad_enabled(learns), torch.autocast(inputs.device.type, torch.bfloat16, low_precision):
            return self._forward[role](inputs)
