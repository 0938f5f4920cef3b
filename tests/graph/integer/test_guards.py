"""Each guard of freezing has a case that goes wrong without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from additions import pairs, unsigned
from deployment import assert_same_codes, deploy, finish, noise
from scales import learned
from torch import Tensor, nn

from qkd_deploy import UserError, freeze, initialize, prepare
from qkd_deploy.bits import TensorSpec
from qkd_deploy.graph.exact import fold
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ops import OPERATORS, arithmetic
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import QuantizedTensor

IMAGES = noise(4, 3, 6, 6)


class Two(nn.Module):
    """conv + bn + relu, conv + bn (signed), mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.a(x)))
        return self.head(self.norm_b(self.b(x)).mean((2, 3)))  # type: ignore[no-any-return]


def prepared_two(**state: Any) -> PreparedModel:
    model = Two().eval()
    with torch.no_grad():
        for name, value in state.items():
            model.get_parameter(name.replace("__", ".")).copy_(value)
    prepared = prepare(model, "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    return prepared


def distance(one: Tensor, two: Tensor) -> float:
    """How far the second tensor is from the first, relative to the first."""
    return float((two - one).detach().norm() / one.detach().norm())


def without_scale_floor(monkeypatch: pytest.MonkeyPatch, *, least: float = 0.0, bias_floor: bool = False) -> None:
    real = fold._raise_scale

    def raise_scale(base: Tensor, scale: Tensor, floor: Tensor, upscale: int) -> tuple[Tensor, Tensor]:
        monkeypatch.setattr(fold, "SCALE_FLOOR", least)
        return real(base, scale, floor if bias_floor else torch.zeros_like(floor), upscale)

    monkeypatch.setattr(fold, "_raise_scale", raise_scale)


def test_gamma_zero_keeps_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    beta = torch.linspace(-2, 3, 8)
    prepared = prepared_two(norm_a__weight=torch.zeros(8), norm_a__bias=beta)
    deployed = finish(prepared)
    assert_same_codes(deployed, (IMAGES,))
    codes = deployed.frozen.codes(IMAGES)["a"][0, :, 0, 0]
    grid = deployed.frozen.grid("a")
    assert codes.tolist() == (beta / grid.scale).round().clamp(grid.lo, grid.hi).int().tolist()
    assert len(set(codes.tolist())) > 4

    without_scale_floor(monkeypatch)
    broken = freeze(prepared).codes(IMAGES)["a"][0, :, 0, 0]  # the bias on a grid of step zero
    assert broken.tolist() != codes.tolist()


def test_biases_beyond_int32_raise_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny gamma gives a tiny scale; on its grid a bias of one is beyond int32."""
    prepared = prepared_two(norm_a__weight=torch.full((8,), 1e-9), norm_a__bias=torch.linspace(0.2, 3, 8))
    deployed = finish(prepared)
    assert_same_codes(deployed, (IMAGES,))
    layer = deployed.frozen.layer(deployed.frozen.graph.node("a"))
    sums = layer.codes.abs().double().flatten(1).sum(1) * deployed.frozen.grid("x").extent
    assert float((layer.bias.abs().double() + sums).max()) < 2**31
    preview = prepared.eval()(IMAGES)
    assert distance(preview, deployed.frozen(IMAGES)) < 0.02

    without_scale_floor(monkeypatch, least=1e-12)
    assert distance(preview, freeze(prepared)(IMAGES)) > 0.05


def test_the_least_scale_keeps_products_of_scales_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """gamma = 0 and beta = 0 leave no bias that would raise the scale: only the constant floor keeps it from zero."""
    prepared = prepared_two(norm_a__weight=torch.zeros(8), norm_a__bias=torch.zeros(8))
    deployed = finish(prepared)
    assert_same_codes(deployed, (IMAGES,))
    assert float(deployed.frozen.layer(deployed.frozen.graph.node("a")).scale.min()) > 0

    without_scale_floor(monkeypatch, bias_floor=True)
    layer = freeze(prepared).layer(deployed.frozen.graph.node("a"))
    assert float(layer.scale.min()) == 0  # a scale that ONNX does not define


def test_sums_that_could_overflow_are_refused() -> None:
    model = nn.Sequential(nn.Linear(150_000, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    prepared = prepare(model, "w8a8", (torch.rand(2, 150_000),), weight_range="full")
    learned(prepared.weights)[0].set_scale(1e-6)
    with pytest.raises(UserError, match="0 sums so many products"):
        freeze(prepared)
    # the sum that the guard forbids does wrap around
    total = np.int64(150_000) * 255 * 127
    assert total > 2**31
    assert np.int64(total).astype(np.int32) != total


def test_wide_layers_below_the_limit_are_exact() -> None:
    """Accumulators beyond 2^24, where float32 products would no longer be exact."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5000, 3), nn.ReLU(), nn.Linear(3, 2))
    model.get_parameter("0.weight").data.abs_()  # sums that do not cancel
    deployed = deploy(model.eval(), (torch.rand(4, 5000),), "w8a8", method="minmax")
    deployed.prepared.weight(deployed.prepared.layers()[0]).set_scale(1e-4)
    deployed = finish(deployed.prepared)
    layer = deployed.frozen.layer(deployed.frozen.graph.node("0"))
    assert layer.accumulator > 2**24
    x = torch.rand(4, 5000)
    assert_same_codes(deployed, (x,))

    grid = deployed.frozen.grid(deployed.frozen.graph.inputs[0])
    codes = grid.quantize(x)
    exact = codes.numpy().astype(np.int64) @ layer.codes.numpy().astype(np.int64).T + layer.bias.numpy()
    assert exact.max() > 2**24
    got = layer.accumulate(deployed.frozen.network.get_submodule("0"), QuantizedTensor(codes, grid))
    assert np.array_equal(got.numpy(), exact.astype(np.float32))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.a(x) + self.b(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_without_nudging_a_whole_network_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(8, 3, 24, 24, scale=3)
    prepared = prepare(Sum().eval(), "w8a8", (x,))
    initialize(prepared, x, method="minmax")
    for key, step in (("a", 0.7), ("b", 0.1), ("add", 0.2)):
        prepared.activation(key).set_scale(step)
    assert_same_codes(finish(prepared), (x,))

    monkeypatch.setattr(arithmetic, "portable_add_scale", lambda a, b, out, name: out.scale)
    with pytest.raises(AssertionError):
        assert_same_codes(finish(prepared), (x,))


class Requantized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_without_nudging_a_second_quantizer_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of round ratios make ties; the moved step settles them for every CPU."""
    x = noise(8, 3, 24, 24, scale=3)
    prepared = prepare(Requantized().eval(), "w4a4", (x,))
    initialize(prepared, x, method="minmax")
    prepared.activation("stem").set_scale(0.1)
    second = prepared.activation("stem/a4")
    wrong = []
    for step in (0.2, 0.6, 1.4, 0.3):
        second.set_scale(step)
        monkeypatch.undo()
        assert_same_codes(finish(prepared), (x,))
        a, zero = unsigned(0.1), CodeRange(float(np.float32(0.1)), 0, 0, 0)
        out = CodeRange(float(np.float32(step)), 240, 0, 15)
        forms = pairs(a, zero, out)
        wrong.append(any(not np.array_equal(form, forms["definition"]) for form in forms.values()))
    assert any(wrong)


@pytest.mark.parametrize("factor", [1e-6, 1e14])
def test_global_pools_keep_within_the_ratios_that_the_runtime_accepts(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_two()
    mean = prepared.activation("mean")
    mean.set_scale(float(mean.scale().detach()) * factor)
    assert_same_codes(finish(prepared), (IMAGES,))
    unguarded = replace(OPERATORS["global_avg_pool"], portable_scale=None)
    monkeypatch.setitem(OPERATORS, "global_avg_pool", unguarded)
    with pytest.raises(UserError, match="cannot run the exported graph"):
        finish(prepared)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_and_named(bad: float) -> None:
    prepared = prepared_two()
    prepared.network.get_parameter("norm_b.weight").data[3] = bad
    with pytest.raises(UserError, match=r"^b has weights or statistics that are not finite"):
        freeze(prepared)
    prepared = prepared_two()
    prepared.activation("b").set_scale(bad)
    with pytest.raises(UserError, match="step of b is not finite"):
        freeze(prepared)
    prepared = prepared_two()
    prepared.network.get_parameter("a.weight").data[0, 0, 0, 0] = bad
    with pytest.raises(UserError, match=r"^a has weights that are not finite"):
        initialize(prepared, IMAGES)
    with pytest.raises(UserError, match=r"^a has weights"):
        freeze(prepared)
    prepared = prepared_two()
    with pytest.raises(UserError, match="not finite"):
        initialize(prepared, IMAGES * bad)


@pytest.mark.parametrize("step", [0.0, -1.0, 1e-30])
def test_steps_that_an_optimizer_spoiled_still_deploy(step: float) -> None:
    prepared = prepared_two()
    for holder in (prepared.weights, prepared.activations):
        learned(holder)[1].set_scale(step)
    assert_same_codes(finish(prepared), (IMAGES,))


def test_upscaled_codes_make_the_bias_grid_finer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without upscaling, biases of low-bit layers are rounded to a grid that shifts the outputs."""
    torch.manual_seed(3)
    prepared = prepared_two(norm_a__bias=torch.randn(8))
    step = float(freeze(prepared).layer(prepared.layers()[1]).scale.max())
    assert freeze(prepared).layer(prepared.layers()[1]).upscale == 8
    monkeypatch.setattr(TensorSpec, "upscale", property(lambda self: 1))
    coarse = float(freeze(prepared).layer(prepared.layers()[1]).scale.max())
    assert coarse == pytest.approx(8 * step)
