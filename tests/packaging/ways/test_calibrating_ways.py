"""Ways out of weights, batches and options that scales cannot be set with: what the sentence recommends sets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.calibration.diagnosis import Diagnosis
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.ewgs_refresh import refresh_deltas, set_deltas
from qkd_deploy.training.config import make_config

LABELS = torch.arange(32) % 4


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Overflows(nn.Module):
    """Makes values that are not finite, and reads them."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(100 * x))


def network(middle: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), middle or nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)]
    return nn.Sequential(*layers).eval()


def damaged() -> nn.Module:
    broken = network()
    broken[0].weight.data[0] = torch.nan  # type: ignore[index, union-attr]
    return broken


def prepared(net: nn.Module | None = None, bits: str = "w8a8", **settings: Any) -> PreparedModel:
    return qkd.prepare(net or network(), bits, images(), **settings)


def calibrated(net: nn.Module | None = None, bits: str = "w8a8", data: Any = None, **settings: Any) -> PreparedModel:
    model = prepared(net, bits, **settings)
    qkd.calibrate(model, images() if data is None else data)
    qkd.freeze(model)
    return model


class Once:
    """Gives its batches the first time only."""

    def __init__(self) -> None:
        self.batches = iter([images()])

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches


def with_batch_norm(data: Any) -> None:
    qkd.calibrate(prepared(), data, batch_norm=True, correction=False)


def ewgs() -> PreparedModel:
    model = prepared(quantizer="ewgs")
    qkd.initialize(model, images())
    return model


def refreshed(model: PreparedModel, batches: list[Any]) -> None:
    refresh_deltas(model, batches, lambda x, y: F.cross_entropy(model(x), y))


WAYS: dict[str, Way] = {
    "batches that are given once": Way(
        lambda path: with_batch_norm(Once()),
        "give a list or a loader, which gives its batches every time",
        lambda path: [with_batch_norm(data) for data in ([images()], torch.utils.data.DataLoader(images(), 8))],
    ),
    "a batch that is not finite": Way(
        lambda path: qkd.initialize(prepared(), images() * torch.nan),
        "check the weights and the batch",
        lambda path: qkd.initialize(prepared(), images()),
    ),
    "a later batch that is not finite": Way(
        lambda path: calibrated(data=[images(), images() * torch.inf]),
        "check the weights and the batch",
        lambda path: calibrated(data=[images(), images()]),
    ),
    "a module that makes what is not finite": Way(
        lambda path: calibrated(network(Overflows())),
        "or where a module makes and reads them, keep that module in float: overrides={'2': 'float'}",
        lambda path: calibrated(network(Overflows()), overrides={"2": "float"}),
    ),
    "weights that are not finite": Way(
        lambda path: calibrated(damaged()), "start from other weights", lambda path: calibrated(network())
    ),
    "an unknown way to start": Way(
        lambda path: qkd.initialize(prepared(), images(), method="mean"),
        "choose one of mse, percentile, lsq, minmax",
        lambda path: [
            qkd.initialize(prepared(), images(), method=name) for name in ("mse", "percentile", "lsq", "minmax")
        ],
    ),
    "a quantizer without delta": Way(
        lambda path: set_deltas(prepared(), 0.1),
        'prepare it with quantizer="ewgs"',
        lambda path: set_deltas(prepared(quantizer="ewgs"), 0.1),
    ),
    "a negative delta": Way(
        lambda path: set_deltas(ewgs(), -0.1), "it must be 0 or more", lambda path: set_deltas(ewgs(), 0.0)
    ),
    "nothing to refresh delta from": Way(
        lambda path: refreshed(ewgs(), []),
        "give at least one",
        lambda path: refreshed(ewgs(), [(images(), LABELS)]),
    ),
    "a delta that is no number": Way(
        lambda path: make_config({"quantizer": "ewgs", "delta": "hesse"}),
        "give a number that is not negative, or hessian",
        lambda path: [make_config({"quantizer": "ewgs", "delta": given}) for given in ("0", "0.001", "hessian")],
    ),
    "an unknown method": Way(
        lambda path: make_config({"method": "qkdd"}),
        "did you mean 'qkd'? known methods: qkd, sqakd, gslr, qfd, kd, qat",
        lambda path: [make_config({"method": name}) for name in ("qkd", "sqakd", "gslr", "qfd", "kd", "qat")],
    ),
    "an unknown phase": Way(
        lambda path: make_config({"method": "qkd", "phases": ["tuttor"]}),
        "did you mean 'tutor'? its phases: self-study, co-study, tutor",
        lambda path: [make_config({"method": "qkd", "phases": [name]}) for name in ("self-study", "co-study", "tutor")],
    ),
    "no epochs": Way(
        lambda path: make_config({"epochs": 0}), "give positive numbers", lambda path: make_config({"epochs": 1})
    ),
}


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)


def diagnosis(net: nn.Module, bits: str, method: str = "mse", **settings: Any) -> tuple[PreparedModel, Diagnosis]:
    """Calibrate a network and find the layers that have too few bits."""
    model = prepared(net, bits, **{"first_last_bits": int(bits[1])} | settings)
    return model, qkd.calibrate(model, images(), method=method, correction=False)


def unequal() -> nn.Module:
    """A channel that is a hundred times smaller than the others, but for its batch norm."""
    net = network()
    net[0].weight.data[1] /= 100  # type: ignore[index, union-attr]
    net[1].weight.data[1] *= 100  # type: ignore[index, union-attr]
    return net


COARSE: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "a scale for all channels": (
        {"bits": "w8a8", "weight_scales": "layer"},
        "prepare with weight_scales='channel' (--weight-scales channel on the command line)",
        {"bits": "w8a8", "weight_scales": "channel"},
    ),
    "wide scales": (
        {"bits": "w4a4", "method": "lsq"},
        "calibrate with method='mse' (--calibrate-method mse on the command line)",
        {"bits": "w4a4", "method": "mse"},
    ),
}


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")
@pytest.mark.parametrize("case", COARSE)
def test_channels_with_few_codes_get_more(case: str) -> None:
    wrong, said, right = COARSE[case]
    (coarse,) = diagnosis(unequal(), **wrong)[1].coarse[:1]
    assert str(coarse).endswith(f"; {said}")
    assert diagnosis(unequal(), **right)[1].coarse == ()


NOISY: dict[str, tuple[str, str, str]] = {
    "few bits": ("w2a2", "train, or give it more bits: overrides={'4': 'w8a8'}, or --bits-for '4=w8a8' on", "w8a8"),
    "few bits of weights": ("w2a32", "overrides={'4': 'w8a32'}, or --bits-for '4=w8a32' on the command line", "w8a32"),
    "all bits": ("w8a8", "train, or keep that module in float: overrides={'4': 'float'}, or --float 4 on", "float"),
}


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")
@pytest.mark.parametrize("case", NOISY)
def test_a_layer_that_is_noise_gets_more_bits(case: str) -> None:
    bits, said, more = NOISY[case]
    net = unequal if bits == "w8a8" else network
    noisy = {layer.layer: str(layer) for layer in diagnosis(net(), bits)[1].noisy}
    assert said in noisy["4"]
    assert "4" not in {layer.layer for layer in diagnosis(net(), bits, overrides={"4": more})[1].noisy}


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")
def test_a_layer_that_is_noise_is_trained() -> None:
    model, found = diagnosis(network(), "w2a2")
    assert all("; train, or" in str(layer) for layer in found.noisy) and found.noisy
    with torch.no_grad():
        target = network()(images())
        untrained = float(F.mse_loss(model.eval()(images()), target))
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.mse_loss(model(images()), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert float(F.mse_loss(model.eval()(images()), target)) < untrained / 2
