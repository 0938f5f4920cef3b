"""Every published quantizer: its formulas, its gradients, its start, and that its range recovers."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qkd_deploy.bits import TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from qkd_deploy.quantizers.ewgs import EwgsActivation, EwgsQuantizer
from qkd_deploy.quantizers.learned_range import LearnedRange
from qkd_deploy.quantizers.lsq import LsqQuantizer
from qkd_deploy.quantizers.pact import DECAY, PactActivation
from qkd_deploy.quantizers.qil import QilActivation, QilWeight
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.quantizers.step import fake_quantize
from qkd_deploy.training.loop.steps_optimizer import RelativeAdam

ALL = [
    *((name, kind.weight, TensorSpec.weight(bits)) for name, kind in QUANTIZERS.items() for bits in (2, 4, 8)),
    *((name, kind.weight, TensorSpec.weight(4, "full")) for name, kind in QUANTIZERS.items()),
    *(
        (name, kind.activation, TensorSpec.activation(bits, signed=signed))
        for name, kind in QUANTIZERS.items()
        for bits in (2, 8)
        for signed in (False, True)
    ),
]
EVERY = pytest.mark.parametrize(("name", "build", "spec"), ALL, ids=[f"{a}-{b.__name__}-{c.bits}" for a, b, c in ALL])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def backward(quantizer: Quantizer, v: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Result and gradient of the tensor; gradients of the ranges are left in place."""
    v = v.clone().requires_grad_()
    result = quantizer(v)
    result.backward(torch.ones_like(v) if grad is None else grad)
    assert v.grad is not None
    return result.detach(), v.grad


SMALL = 1e-4
"""Factor on losses, so that the bound on the gradient of a range stays out of the way."""


def range_gradient(learned: LearnedRange) -> float:
    """The gradient by the range's value that its parameter, the logarithm of the movement, got; at its start."""
    assert learned.move.grad is not None
    return float(learned.move.grad / learned.start)


def derivative(quantizer: Quantizer, learned: LearnedRange, v: Tensor) -> list[float]:
    """dv_q / drange, element by element."""
    found = []
    for value in v:
        learned.move.grad = None
        (quantizer(value[None]).sum() * SMALL).backward()
        found.append(range_gradient(learned) / SMALL)
    return found


# -- every method ------------------------------------------------------------------------------------------------------


@EVERY
def test_the_forward_pass_is_codes_times_scale(name: str, build: type[Quantizer], spec: TensorSpec) -> None:
    quantizer = build(spec)
    for scale in (0.0371, 1 / 3, 1e-3, 20.0):
        quantizer.set_scale(scale)
        assert float(quantizer.scale().detach()) == pytest.approx(scale, rel=1e-6)
        v = torch.cat([normal(500), normal(500) * scale * spec.hi, torch.tensor([0.0, -0.0, 1e20, -1e20])])
        codes = quantizer.codes(v)
        assert torch.equal(quantizer(v).detach(), codes * quantizer.scale().detach())
        assert torch.equal(codes, codes.round()) and spec.lo <= codes.min() and codes.max() <= spec.hi
        assert not codes.requires_grad


@EVERY
def test_activations_have_the_codes_that_integer_kernels_compute(
    name: str, build: type[Quantizer], spec: TensorSpec
) -> None:
    if build is not QUANTIZERS[name].activation:
        pytest.skip("weights choose their codes as they like")
    quantizer = build(spec)
    quantizer.set_scale(0.0371)
    step = quantizer.scale().detach()
    ties = torch.arange(-300, 301) * 0.5 * step
    expected = torch.round(ties / step).clamp(spec.lo, spec.hi)
    assert torch.equal(quantizer.codes(ties), expected)


@EVERY
def test_copies_pickles_and_state_dicts_lose_nothing(name: str, build: type[Quantizer], spec: TensorSpec) -> None:
    quantizer = build(spec)
    quantizer.set_scale(0.123)
    fresh = build(spec)
    fresh.load_state_dict(quantizer.state_dict())
    v = normal(200)
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), fresh):
        assert torch.equal(twin(v), quantizer(v))
        assert (twin.spec, twin.fixed, len(twin.learned())) == (spec, False, len(quantizer.learned()))
    copy.deepcopy(quantizer).set_scale(9.0)
    assert float(quantizer.scale().detach()) == pytest.approx(0.123)
    assert f"{spec.bits} bits" in repr(quantizer) and "step 0.123" in repr(quantizer)


@EVERY
def test_autocast_and_odd_values(name: str, build: type[Quantizer], spec: TensorSpec) -> None:
    quantizer = build(spec)
    v = normal(300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(v), quantizer(v))
        assert quantizer(v.bfloat16()).dtype == torch.float32
    zeros = torch.zeros(4, 3)
    result, grad = backward(quantizer, zeros)
    assert torch.equal(result, zeros) and bool(torch.isfinite(grad).all())
    quantizer.set_scale(0.0)
    assert bool(torch.isfinite(quantizer(torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30]))).all())


@EVERY
def test_start_is_the_named_one_and_refuses_what_is_not_finite(
    name: str, build: type[Quantizer], spec: TensorSpec
) -> None:
    quantizer = build(spec)
    v = normal(4000).abs() if not spec.signed else normal(4000)
    for method in ("auto", "mse", "lsq", "minmax"):
        quantizer.set_scale(quantizer.start(v, method))
        error = float((quantizer(v) - v).detach().norm() / v.norm())
        assert error < (0.1 if (spec.bits, method) == (8, "mse") and build is not DoReFaWeight else 1.0), method
    with pytest.raises(UserError, match="not finite"):
        quantizer.start(torch.tensor([1.0, math.nan]))
    with pytest.raises(UserError, match="unknown initialisation"):
        quantizer.start(v, "msr")
    assert quantizer.start(torch.zeros(7)) > 0


RECOVERING = [
    (kind.activation, TensorSpec.activation(bits, signed=signed))
    for name, kind in QUANTIZERS.items()
    for bits, signed in ((2, False), (4, True))
    if name != "dorefa"  # has no learned range, as published
] + [
    (QUANTIZERS[name].weight, TensorSpec.weight(bits)) for name in ("interval", "lsq", "ewgs", "qil") for bits in (2, 4)
]


@pytest.mark.parametrize(("build", "spec"), RECOVERING, ids=[f"{b.__name__}-{s.bits}" for b, s in RECOVERING])
def test_a_badly_started_range_recovers(build: type[Quantizer], spec: TensorSpec) -> None:
    quantizer = build(spec)
    v = normal(500) if spec.signed else normal(500).abs()

    def error() -> float:
        return float((quantizer(v) - v).detach().square().mean())

    def trained(start: float) -> tuple[float, float]:
        quantizer.set_scale(start)
        before = error()
        optimizer = RelativeAdam(quantizer.learned(), lr=0.1)
        for _ in range(250):
            optimizer.zero_grad()
            (quantizer(v) - v).square().mean().backward()
            optimizer.step()
        return before, error()

    best = quantizer.start(v, "mse")
    _, reached = trained(best)
    for factor in (0.1, 10.0):
        before, after = trained(best * factor)
        assert after < 0.6 * before, factor
        assert after < 1.2 * reached, factor


# -- LSQ ---------------------------------------------------------------------------------------------------------------


def test_lsq_on_the_unit_vector_of_the_formulas() -> None:
    spec = TensorSpec.weight(2, "full")
    quantizer = LsqQuantizer(spec, step=0.5)
    v = torch.tensor([-1.3, -0.3, 0.2, 0.9])
    result, grad = backward(quantizer, v)
    assert result.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert grad.tolist() == [0, 1, 1, 0]
    assert derivative(quantizer, quantizer.step, v) == pytest.approx([-2, -0.4, -0.4, 1], abs=1e-5)


def test_lsq_starts_as_published() -> None:
    v = torch.tensor([-3.0, 1.0, 2.0])
    assert LsqQuantizer(TensorSpec.weight(4)).start(v) == pytest.approx(2 * 2 / math.sqrt(7))
    assert LsqQuantizer(TensorSpec.activation(4, signed=False)).start(v) == pytest.approx(2 * 1 / math.sqrt(15))


# -- PACT --------------------------------------------------------------------------------------------------------------


def test_pact_forward_and_gradients() -> None:
    quantizer = PactActivation(TensorSpec.activation(2, signed=False))
    assert quantizer.alpha.value().item() == 6.0
    v = torch.tensor([-1.0, 0.0, 1.2, 2.9, 5.9, 6.0, 7.0])
    result, grad = backward(quantizer, v)
    assert result.tolist() == [0, 0, 2, 2, 6, 6, 6]
    assert grad.tolist() == [0, 1, 1, 1, 1, 0, 0]
    expected = [slope + DECAY / SMALL * 6 for slope in (0, 0, 0, 0, 0, 1, 1)]
    assert derivative(quantizer, quantizer.alpha, v) == pytest.approx(expected, abs=1e-5)


def test_pact_on_a_signed_grid_clips_at_both_ends() -> None:
    quantizer = PactActivation(TensorSpec.activation(2, signed=True))
    quantizer.set_scale(1.0)
    v = torch.tensor([-2.6, -2.0, -0.4, 0.9, 1.7])
    result, grad = backward(quantizer, v)
    assert result.tolist() == [-2, -2, 0, 1, 1]
    assert grad.tolist() == [0, 1, 1, 1, 0]
    expected = [slope + DECAY / SMALL for slope in (-2, 0, 0, 0, 1)]
    assert derivative(quantizer, quantizer.alpha, v) == pytest.approx(expected, abs=1e-5)


def test_the_penalty_alone_lowers_a_clipping_point_beyond_all_values() -> None:
    quantizer = PactActivation(TensorSpec.activation(8, signed=False))
    quantizer.set_scale(100.0)
    optimizer = RelativeAdam(quantizer.learned(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        quantizer(normal(50)).sum().backward()
        optimizer.step()
    assert float(quantizer.scale().detach()) < 50


# -- DoReFa ------------------------------------------------------------------------------------------------------------


def test_dorefa_weights_follow_tanh_over_the_largest() -> None:
    quantizer = DoReFaWeight(TensorSpec.weight(4))
    w = torch.tensor([-2.0, -0.3, 0.0, 0.1, 0.9])
    expected = torch.round(7 * torch.tanh(w) / math.tanh(2.0))
    assert quantizer.codes(w).tolist() == expected.tolist() == [-7, -2, 0, 1, 5]
    assert torch.equal(quantizer(w), expected / 7)


def test_dorefa_gradient_is_that_of_the_smooth_function() -> None:
    """With the rounding replaced by its offset the function is smooth; central differences are its gradient."""
    quantizer = DoReFaWeight(TensorSpec.weight(4))
    quantizer.set_scale(0.2)
    w, grad = normal(30).double(), normal(30, seed=1).double()
    offset = quantizer.codes(w.float()).double() - 7 * torch.tanh(w) / torch.tanh(w).abs().max()

    def smooth(w: Tensor) -> float:
        codes = 7 * torch.tanh(w) / torch.tanh(w).abs().max() + offset
        return float((codes * 0.2 * grad).sum())

    _, got = backward(quantizer, w.float(), grad.float())
    h = 1e-5
    for i in range(len(w)):
        unit = torch.zeros_like(w)
        unit[i] = h
        assert float(got[i]) == pytest.approx((smooth(w + unit) - smooth(w - unit)) / (2 * h), rel=1e-4, abs=1e-5)


def test_dorefa_activations_are_clipped_at_one_until_initialised() -> None:
    quantizer = DoReFaActivation(TensorSpec.activation(2, signed=False))
    v = torch.tensor([-0.5, 0.2, 0.4, 0.9, 1.7])
    result, grad = backward(quantizer, v)
    torch.testing.assert_close(result, torch.tensor([0, 1, 1, 3, 3]) / 3)
    assert grad.tolist() == [0, 1, 1, 1, 0]
    assert quantizer.learned() == []


def test_dorefa_weights_keep_their_size() -> None:
    w = normal(64, 27) * 0.05
    for bits in (2, 4, 8):
        quantizer = DoReFaWeight(TensorSpec.weight(bits))
        quantizer.set_scale(quantizer.start(w, "mse"))
        codes = quantizer.codes(w)
        error = (codes * quantizer.scale() - w).square().sum()
        for factor in (0.98, 1.02):
            assert error < (codes * quantizer.scale() * factor - w).square().sum()


# -- EWGS --------------------------------------------------------------------------------------------------------------


def test_ewgs_gradient_of_the_unit_example() -> None:
    """Four levels on [0, 1]: x_c = 0.4 becomes 1/3."""
    quantizer = EwgsQuantizer(TensorSpec.activation(2, signed=False))
    x = torch.tensor([0.4, 0.4])
    for delta, expected in ((0.5, [2.0667, -1.9333]), (0.0, [2.0, -2.0])):
        quantizer.delta.fill_(delta)
        result, grad = backward(quantizer, x, torch.tensor([2.0, -2.0]))
        torch.testing.assert_close(result, torch.tensor([1 / 3, 1 / 3]))
        assert grad.tolist() == pytest.approx(expected, abs=5e-5)


def test_ewgs_error_is_measured_in_units_of_the_whole_range() -> None:
    quantizer = EwgsQuantizer(TensorSpec.activation(2, signed=True))  # codes -2..1: three steps wide
    quantizer.set_scale(5.0)
    quantizer.delta.fill_(0.5)
    v = torch.tensor([1.0, -8.0, 100.0])
    _, grad = backward(quantizer, v, torch.tensor([2.0, -2.0, 1.0]))
    assert grad.tolist() == pytest.approx([2 + 0.5 * 2 * 1 / 15, -2 + 0.5 * 2 * 2 / 15, 0.0])


def test_ewgs_range_gradient_is_autograd_through_normalisation_and_back() -> None:
    """From the formulas at l = -1, u = 1, x = 0.2: dx_c/du = -0.3 and dx_c/dl = -0.2; here l = -u."""
    quantizer = EwgsQuantizer(TensorSpec.weight(2))
    quantizer.set_scale(1.0)
    x_q = 0.5  # code 0 of -1..1
    back = 2 * x_q - 1  # v_q = 2u * x_q - u
    assert derivative(quantizer, quantizer.upper, torch.tensor([0.2])) == pytest.approx([back + 2 * (-0.3 + 0.2)])
    # beyond the range dx_c/du = 0, so that only the way back counts: x_q = 1
    assert derivative(quantizer, quantizer.upper, torch.tensor([1.5])) == pytest.approx([2 * 1.0 - 1])


@pytest.mark.parametrize("spec", [TensorSpec.weight(4), TensorSpec.activation(2, signed=False)])
def test_ewgs_with_delta_zero_is_the_straight_through_estimator_bit_for_bit(spec: TensorSpec) -> None:
    v, grad = normal(4, 5, 6, 6), normal(4, 5, 6, 6, seed=1)
    quantizer = EwgsQuantizer(spec)
    quantizer.set_scale(0.25)
    result, got = backward(quantizer, v, grad)
    quantizer.zero_grad()
    plain, step = v.clone().requires_grad_(), torch.tensor(0.25, requires_grad=True)
    expected = fake_quantize(plain, quantizer.scale().detach(), spec.lo, spec.hi)
    expected.backward(grad)
    fake_quantize(v, step, spec.lo, spec.hi).backward(grad)
    assert plain.grad is not None and step.grad is not None
    assert torch.equal(result, expected.detach()) and torch.equal(got, plain.grad)
    backward(quantizer, v, grad * SMALL)
    assert range_gradient(quantizer.upper) * spec.hi / SMALL == pytest.approx(float(step.grad), rel=1e-3)
    quantizer.delta.fill_(1e-3)
    assert not torch.equal(backward(quantizer, v, grad)[1], got)


def test_ewgs_starts_at_three_standard_deviations() -> None:
    v = normal(20000)
    signed = EwgsActivation(TensorSpec.activation(4, signed=True))
    assert signed.start(v) * 7 == pytest.approx(3, rel=0.02)
    unsigned = EwgsActivation(TensorSpec.activation(4, signed=False))
    assert unsigned.start(v.abs()) * 15 == pytest.approx(3, rel=0.02)
    assert unsigned.start(v.abs(), "minmax") * 15 == pytest.approx(float(v.abs().max()))


# -- QIL ---------------------------------------------------------------------------------------------------------------


def test_qil_with_the_whole_interval_only_clips() -> None:
    quantizer = QilWeight(TensorSpec.weight(8))
    assert [float(value) for value in quantizer.ranges()] == [0.5, 0.5]
    w = torch.tensor([-1.5, -0.3, 0.0, 0.7, 2.0])
    expected = torch.round(w.abs().clamp(0, 1) * 63) / 63 * w.sign()
    torch.testing.assert_close(quantizer(w).detach(), expected)


def test_qil_prunes_below_and_clips_above() -> None:
    quantizer = QilWeight(TensorSpec.weight(4))
    quantizer.center.set(0.6)
    quantizer.half_width.set(0.4)  # prunes below 0.2, clips above 1.0
    w = torch.tensor([-1.2, -0.6, -0.1, 0.19, 0.21, 0.6, 0.99])
    t = ((w.abs() - 0.6) / 0.8 + 0.5).clamp(0, 1)  # A |w| + B
    assert quantizer.codes(w).tolist() == (torch.round(7 * t) * w.sign()).tolist() == [-7, -4, 0, 0, 0, 4, 7]
    assert float(quantizer.scale().detach()) == pytest.approx(1 / 7)


@pytest.mark.parametrize(("center", "half_width"), [(0.6, 0.4), (0.5, 0.7)])
def test_qil_gradient_is_that_of_the_smooth_function(center: float, half_width: float) -> None:
    quantizer = QilWeight(TensorSpec.weight(4))
    w, grad = normal(40).double(), normal(40, seed=1).double()
    prune, clip = max(center - half_width, 0.0), center + half_width
    w = w[((w.abs() - prune).abs() > 1e-2) & ((w.abs() - clip).abs() > 1e-2)]
    grad = grad[: len(w)]

    def transformed(w: Tensor, c: float, d: float) -> Tensor:
        p = max(c - d, 0.0)
        return 7 * ((w.abs() - p) / (c + d - p)).clamp(0, 1)

    offset = torch.round(transformed(w, center, half_width)) - transformed(w, center, half_width)

    def smooth(w: Tensor, c: float, d: float) -> float:
        return float(((transformed(w, c, d) + offset) * w.sign() * (c + d) / 7 * grad).sum())

    quantizer.center.set(center)
    quantizer.half_width.set(half_width)
    _, got = backward(quantizer, w.float(), grad.float())
    quantizer.zero_grad()
    backward(quantizer, w.float(), grad.float() * SMALL)
    h = 1e-6
    for learned, step in ((quantizer.center, (h, 0.0)), (quantizer.half_width, (0.0, h))):
        above = smooth(w, center + step[0], half_width + step[1])
        below = smooth(w, center - step[0], half_width - step[1])
        assert range_gradient(learned) / SMALL == pytest.approx((above - below) / (2 * h), rel=1e-3)
    inside = (w.abs() > prune) & (w.abs() < clip)
    slope = clip / (clip - prune)  # 1 where nothing is pruned
    torch.testing.assert_close(got, torch.where(inside, grad * slope, 0.0).float())


def test_qil_activations_have_the_gradient_of_a_learned_clipping_point() -> None:
    quantizer = QilActivation(TensorSpec.activation(2, signed=False))
    quantizer.set_scale(0.5)
    v = torch.tensor([-0.3, 0.2, 0.9, 1.9])
    assert float(quantizer.half_width.value()) == 0.75
    # by dv_q/ds = q - v/s inside, hi above, and ds/dd = 2/3
    expected = [slope * 2 / 3 for slope in (0, -0.4, 0.2, 3)]
    assert derivative(quantizer, quantizer.half_width, v) == pytest.approx(expected, abs=1e-5)


# -- registry and documentation ----------------------------------------------------------------------------------------


def test_every_difference_is_documented() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "quantizers.md").read_text().split())
    for name, kind in QUANTIZERS.items():
        assert f"`{name}`" in text
        for build in (kind.weight, kind.activation):
            assert build.difference in text
    assert [n for n, k in QUANTIZERS.items() if not k.weight.difference + k.activation.difference] == [
        "interval",
        "lsq",
    ]
