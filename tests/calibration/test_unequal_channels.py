"""Output channels of unequal size survive 8 bits: each has a scale of its own, as the exported file has."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import CalibrationWarning, calibrate, freeze, prepare

IMAGES = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Four distances in pixels and two logits, all from one layer; the logits are what is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(32, 6)
        self.head.weight.data[:4] *= 400

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))[:, 4:]  # type: ignore[no-any-return]


def fused(spread: float) -> nn.Module:
    """Convolutions whose channels differ by ``10^spread``, as fusing leaves them, and depthwise ones that undo it."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 16, 1), (16, 32, 2)):
        layer, undo = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs)
        size = torch.logspace(0, -spread, outputs)[torch.randperm(outputs)]
        layer.weight.data *= size.view(-1, 1, 1, 1)
        undo.weight.data.zero_()
        undo.weight.data[:, 0, 1, 1] = 2 / size
        layers += [layer, nn.ReLU(), undo, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def weights_rounded_per_channel(network: nn.Module) -> nn.Module:
    """The yardstick: only weights are rounded, to 63 codes on each side of zero."""
    rounded = copy.deepcopy(network)
    for module in rounded.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            step = module.weight.detach().abs().flatten(1).amax(1).view(-1, *[1] * (module.weight.dim() - 1)) / 63
            module.weight.data = (module.weight / step).round() * step
    return rounded


def decibels(wanted: Tensor, got: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().mean() / (wanted - got).square().mean()))


@pytest.mark.parametrize("make", [Head, lambda: fused(1.0), lambda: fused(1.5)], ids=["head", "factor10", "factor30"])
def test_the_integer_model_is_close_to_weights_rounded_per_channel(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    by_channel, by_layer = (prepare(network, "w8a8", IMAGES[:1], weight_scales=w) for w in ("channel", "layer"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # of what scales per layer do
        for prepared in (by_channel, by_layer):
            calibrate(prepared, [IMAGES], correction=False)
    with torch.no_grad():
        wanted = network(IMAGES)
        yardstick, channel, layer = (
            decibels(wanted, model(IMAGES))
            for model in (weights_rounded_per_channel(network), freeze(by_channel.eval()), freeze(by_layer.eval()))
        )
    assert channel > yardstick - 6  # which activations of 8 bits cost
    assert layer < channel - 6
