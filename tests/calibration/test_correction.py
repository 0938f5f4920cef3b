"""Correction: every output channel keeps the mean and the spread that it had in float, whatever holds its bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import calibrate, prepare
from qkd_deploy.graph.prepared import PreparedModel

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(64, 8, 6, 6, generator=GENERATOR) - 0.3

pytestmark = pytest.mark.filterwarnings("ignore::qkd_deploy.CalibrationWarning")


def settled(*layers: nn.Module) -> nn.Sequential:
    """The network with batch norms in the statistics of the images."""
    network = nn.Sequential(*layers)
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()(IMAGES)
    return network.eval()


def networks() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)
    return {
        "batch norm": settled(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8)),
        "batch norm without bias": settled(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False)),
        "own bias": settled(nn.Conv2d(8, 8, 3, groups=8)),
        "linear": settled(nn.Flatten(2), nn.Linear(36, 5)),
        "conv1d": settled(nn.Flatten(2), nn.Conv1d(8, 5, 3)),
    }


def off_mean(prepared: PreparedModel, network: nn.Module) -> Tensor:
    """How far the mean of each channel is from the float network's; the outputs here are the layer's."""
    with torch.no_grad():
        difference = prepared.eval()(IMAGES) - network(IMAGES)
    return difference.movedim(-1 if difference.shape[-1] == 5 else 1, 0).flatten(1).mean(1).abs()


@pytest.mark.parametrize("name", networks())
def test_every_channel_keeps_its_mean(name: str) -> None:
    network = networks()[name]
    plain, corrected = (prepare(network, "w2a8", IMAGES[:1], first_last_bits=2) for _ in range(2))
    calibrate(plain, IMAGES.split(16), correction=False)
    calibrate(corrected, IMAGES.split(16))
    assert off_mean(plain, network).max() > 0.02
    assert off_mean(corrected, network).max() < 0.1 * off_mean(plain, network).max()


def test_gains_of_batch_norms_keep_the_spread() -> None:
    network = networks()["batch norm"]
    plain, corrected = (prepare(network, "w2a8", IMAGES[:1], first_last_bits=2) for _ in range(2))
    calibrate(plain, IMAGES.split(16), correction=False)
    calibrate(corrected, IMAGES.split(16))
    with torch.no_grad():
        wanted, before, after = (model.eval()(IMAGES).std((0, 2, 3)) for model in (network, plain, corrected))
    assert (before / wanted).log().abs().max() > 0.1
    assert (after / wanted).log().abs().max() < 0.01


def test_layers_behind_are_corrected_on_what_they_will_read() -> None:
    torch.manual_seed(1)
    network = settled(
        nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8)
    )
    plain, corrected = (prepare(network, "w3a8", IMAGES[:1], first_last_bits=3) for _ in range(2))
    calibrate(plain, IMAGES.split(16), correction=False)
    calibrate(corrected, IMAGES.split(16))
    assert off_mean(corrected, network).mean() < 0.2 * off_mean(plain, network).mean()


def test_a_layer_that_is_called_twice_is_corrected_for_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.layer(x), self.layer(-0.5 * x)], 2)

    torch.manual_seed(0)
    network = Twice().eval()
    prepared = prepare(network, "w2a8", IMAGES[:1], first_last_bits=2)
    calibrate(prepared, [IMAGES])
    assert off_mean(prepared, network).max() < 1e-2  # over both halves together


def test_layers_without_any_bias_stay_as_they_are() -> None:
    torch.manual_seed(0)
    prepared = prepare(nn.Sequential(nn.Conv2d(8, 8, 3, bias=False)), "w2a8", IMAGES[:1])
    before = {name: value.clone() for name, value in prepared.network.state_dict().items()}
    calibrate(prepared, [IMAGES])
    assert all(torch.equal(value, before[name]) for name, value in prepared.network.state_dict().items())
