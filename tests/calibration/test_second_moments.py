"""Second moments of columns say what a layer's outputs do, whatever its form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy.calibration import second_moments as module
from qkd_deploy.calibration.second_moments import second_moments

LAYERS = {
    "linear": (nn.Linear(6, 8), (5, 6)),
    "tokens": (nn.Linear(6, 8), (5, 7, 6)),
    "pointwise": (nn.Conv2d(6, 8, 1), (5, 6, 4, 4)),
    "strided": (nn.Conv2d(6, 8, 3, 2, padding=1), (5, 6, 7, 9)),
    "dilated": (nn.Conv2d(6, 8, 3, padding="same", dilation=2), (5, 6, 7, 9)),
    "grouped": (nn.Conv2d(6, 8, (3, 1), groups=2, padding=(1, 0)), (5, 6, 7, 9)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (5, 6, 7, 9)),
    "rows": (nn.Conv1d(6, 8, 3, 2, padding=2, groups=2), (5, 6, 9)),
}


def channels_first(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Outputs as [C, all others], in float64."""
    dim = -1 if isinstance(layer, nn.Linear) else 1
    return outputs.detach().double().movedim(dim, 0).flatten(1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_moments_give_means_and_covariances_of_outputs(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", at_once)
    layer, shape = LAYERS[name]
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, *shape, generator=generator)
    moments = second_moments(layer, x, y, generator)
    weight = layer.weight.detach().double().view(moments.mean.shape[0], -1, moments.mean.shape[1])
    quantized, full = channels_first(layer, layer(x)), channels_first(layer, layer(y))
    assert layer.bias is not None
    for mean, outputs in ((moments.mean, quantized), (moments.float_mean, full)):
        torch.testing.assert_close(
            (weight @ mean.unsqueeze(2)).flatten() + layer.bias, outputs.mean(1), rtol=1e-5, atol=1e-5
        )
    for covariance, error in ((moments.covariance, quantized), (moments.error_covariance, full - quantized)):
        expected = [
            torch.cov(torch.cat([a, b]), correction=0)[: len(a), len(a) :]
            for a, b in zip(error.chunk(len(weight)), quantized.chunk(len(weight)), strict=True)
        ]
        torch.testing.assert_close(weight @ covariance @ weight.mT, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_places_are_chosen_by_the_generator_and_are_those_of_both_networks() -> None:
    layer, x = nn.Conv2d(2, 2, 1), torch.rand(1024, 2, 8, 8)
    one, same, other = (second_moments(layer, x, x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.covariance, same.covariance)
    assert not torch.equal(one.covariance, other.covariance)  # 16 of 64 places
    assert not one.error_covariance.any()
