"""Inputs with structure, and targets that depend on it, so that a few training steps give realistic networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import RelativeAdam, parameter_groups
from qkd_deploy.export.onnx_export import flat_tensors

CLASSES = 10
_COARSE, _NOISE = 4, 0.3
_STEPS, _RATE = 3, 2e-3


def samples(shape: tuple[int, ...], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs float [count, *shape] and their classes: a smooth pattern per class, of varying contrast, with noise.

    The patterns are the same for all seeds.
    """
    coarse = (CLASSES, shape[0], *(_COARSE for _ in shape[1:]))
    mode = "linear" if len(shape) == 2 else "bicubic"
    patterns = F.interpolate(torch.randn(coarse, generator=torch.Generator().manual_seed(99)), shape[1:], mode=mode)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    contrast = 0.5 + torch.rand((count, *(1 for _ in shape)), generator=generator)
    return patterns[labels] * contrast + _NOISE * torch.randn((count, *shape), generator=generator), labels


def targets(outputs: list[Tensor], labels: Tensor) -> list[Tensor]:
    """For every output a tensor of its shape that is the same for all inputs of a class."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for output in outputs:
        prototypes = torch.randn((CLASSES, *output.shape[1:]), generator=generator)
        found.append(prototypes[labels])
    return found


def vary(model: nn.Module, seed: int = 0) -> None:
    """Gammas (negative ones too), betas and slopes as after some training, in place.

    Batch norms average over all batches that they see: after a few steps, their statistics are those of activations.
    """
    generator = torch.Generator().manual_seed(seed)

    def spread(parameter: Tensor | None, low: float, high: float) -> None:
        if parameter is not None:
            parameter.data.copy_(low + (high - low) * torch.rand(parameter.shape, generator=generator))

    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            spread(module.weight, 0.5, 1.5)
            spread(module.bias, -0.3, 0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            if module.affine:
                module.weight.data[::7] *= -1
        if isinstance(module, nn.PReLU):
            spread(module.weight, 0.05, 0.4)


def train(model: nn.Module, shape: tuple[int, ...], seed: int) -> None:
    """A few steps towards the targets; quantization steps move relatively, as in our own training."""
    groups = parameter_groups(model, lr=_RATE, weight_decay=0.0)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups.weights)]
    if groups.steps:
        optimizers.append(RelativeAdam(groups.steps))
    model.train()
    for step in range(_STEPS):
        inputs, labels = samples(shape, 16, seed + step)
        outputs = flat_tensors(model(inputs))
        loss = sum(F.mse_loss(o.float(), t) for o, t in zip(outputs, targets(outputs, labels), strict=True))
        assert isinstance(loss, Tensor) and bool(torch.isfinite(loss))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
