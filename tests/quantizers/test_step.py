"""The learnable step quantizer against its formulas, finite differences and ONNX Runtime."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qkd_deploy.bits import TensorSpec
from qkd_deploy.quantizers.step import SCALE_FLOOR, StepQuantizer, fake_quantize
from qkd_deploy.verification.runtime import RuntimeModel

SCALES = [0.1, 0.05, 1 / 3, 0.7, 1 / 64, 0.0123, 0.0371, 0.917]


def gradients(v: Tensor, step: float, lo: int, hi: int) -> tuple[Tensor, Tensor, list[float]]:
    """Result, dv_q/dv and dv_q/ds, element by element."""
    per_element = []
    v = v.clone().requires_grad_()
    for i in range(v.numel()):
        s = torch.tensor(step, requires_grad=True)
        fake_quantize(v, s, lo, hi).flatten()[i].backward()  # type: ignore[no-untyped-call]
        assert s.grad is not None
        per_element.append(float(s.grad))
    assert v.grad is not None
    return fake_quantize(v, torch.tensor(step), lo, hi).detach(), v.grad, per_element


def test_unit_vector_of_the_formulas() -> None:
    v = torch.tensor([-1.3, -0.3, 0.2, 0.9])
    result, grad_v, grad_s = gradients(v, 0.5, -2, 1)
    assert result.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert grad_v.tolist() == [0, 1, 1, 0]
    assert grad_s == pytest.approx([-2, -0.4, -0.4, 1], abs=1e-6)


def test_values_at_the_ends_of_the_range_count_as_inside() -> None:
    _, grad_v, grad_s = gradients(torch.tensor([-1.0, 0.5, -1.0000002, 0.50000006]), 0.5, -2, 1)
    assert grad_v.tolist() == [1, 1, 0, 0]
    assert grad_s == pytest.approx([0, 0, -2, 1], abs=1e-6)


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=16),
    st.floats(0.05, 3),
    st.sampled_from([(-2, 1), (0, 3), (-7, 7), (0, 255), (-128, 127)]),
)
def test_step_gradient_is_the_surrogate_of_rounding(values: list[float], step: float, grid: tuple[int, int]) -> None:
    """With ``round`` replaced by ``x + constant`` the function is smooth; its finite difference is the gradient."""
    v = np.array(values)
    scaled = v / np.float32(step)
    lo, hi = grid
    # away from the ends of the range, where the function has kinks
    v = v[(np.abs(scaled - lo) > 1e-2) & (np.abs(scaled - hi) > 1e-2)]
    offsets = np.rint(v / step) - v / step

    def surrogate(s: float) -> float:
        inside = (v / step >= lo) & (v / step <= hi)
        return float(np.sum(np.where(inside, (v / s + offsets) * s, np.clip(v / step, lo, hi) * s)))

    s = torch.tensor(step, requires_grad=True)
    fake_quantize(torch.tensor(v, dtype=torch.float32), s, lo, hi).sum().backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None
    difference = (surrogate(step * 1.001) - surrogate(step * 0.999)) / (0.002 * step)
    assert float(s.grad) == pytest.approx(difference, rel=1e-3, abs=1e-3 * (1 + len(v) * max(-lo, hi)) * 0.02)


def test_the_error_of_the_quantizer_decreases_along_its_gradient() -> None:
    """Finite differences of the real loss: averaged over many values, rounding points do not matter."""
    v = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    for start in (0.05, 0.9):
        s = torch.tensor(start, requires_grad=True)
        (fake_quantize(v, s, -7, 7) - v).square().sum().backward()  # type: ignore[no-untyped-call]
        assert s.grad is not None
        h = 0.02 * start
        loss = [(fake_quantize(v, torch.tensor(start + d), -7, 7) - v).square().sum() for d in (-h, h)]
        numeric = float(loss[1] - loss[0]) / (2 * h)
        assert float(s.grad) == pytest.approx(numeric, rel=0.1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "scalar"])
def test_gradients_do_not_depend_on_the_memory_layout(layout: str) -> None:
    torch.manual_seed(0)
    v = torch.randn(2, 3, 4, 5)
    weights = torch.randn(2, 3, 4, 5)
    s = torch.tensor(0.3, requires_grad=True)
    plain = v.clone().requires_grad_()
    (fake_quantize(plain, s, -2, 1) * weights).sum().backward()  # type: ignore[no-untyped-call]
    other = v.clone()
    if layout == "channels_last":
        other = other.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        other = other.transpose(1, 3).contiguous().transpose(1, 3)
    t = torch.tensor([0.3] if layout == "scalar" else 0.3, requires_grad=True)
    other = other.requires_grad_()
    (fake_quantize(other, t, -2, 1) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert plain.grad is not None and other.grad is not None and s.grad is not None and t.grad is not None
    assert torch.equal(plain.grad, other.grad)
    torch.testing.assert_close(t.grad.reshape(()), s.grad)


def runtime_codes(v: np.ndarray, scale: np.float32, spec: TensorSpec) -> np.ndarray:
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"]),
        onnx.helper.make_node("Clip", ["q", "lo", "hi"], ["y"]),
    ]
    constants: dict[str, np.ndarray] = {"s": np.array(scale), "z": np.array(spec.zero_point, np.uint8)}
    constants |= {k: np.array(c + spec.zero_point, np.uint8) for k, c in (("lo", spec.lo), ("hi", spec.hi))}
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, v.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, v.shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return RuntimeModel(model).run({"v": v})["y"].astype(int) - spec.zero_point


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("signed", [False, True])
def test_codes_equal_quantize_linear_at_ties(scale: float, signed: bool) -> None:
    """Values at or beside rounding points: a multiplication by 1 / s, or rounding half away, gives other codes."""
    s = np.float32(scale)
    spec = TensorSpec.activation(8, signed=signed)
    ties = (np.arange(-300, 301, dtype=np.float32) * np.float32(0.5)) * s
    v = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
    expected = runtime_codes(v, s, spec)
    quantizer = StepQuantizer(spec, step=float(s))
    assert np.array_equal(quantizer.codes(torch.from_numpy(v)).numpy(), expected)
    assert np.array_equal(quantizer(torch.from_numpy(v)).detach().numpy(), expected.astype(np.float32) * s)


def test_the_ties_above_would_notice_a_reciprocal() -> None:
    steps = np.arange(-300, 301, dtype=np.float32) * np.float32(0.5)
    differ = []
    for s in np.array(SCALES, np.float32):
        differ.append(bool(np.any(np.rint(steps * s / s) != np.rint(steps * s * (np.float32(1) / s)))))
    assert sum(differ) >= 2
    assert not np.array_equal(np.rint(steps), np.floor(steps + np.float32(0.5)))


@pytest.mark.parametrize("step", [0.0, -3.0, 1e-30])
def test_a_step_is_never_below_its_floor(step: float) -> None:
    quantizer = StepQuantizer(TensorSpec.activation(4, signed=True), step=step)
    assert float(quantizer.scale().detach()) == pytest.approx(SCALE_FLOOR)
    result = quantizer(torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30]))
    assert bool(torch.isfinite(result).all())


def test_zeros_stay_zeros_and_leave_finite_gradients() -> None:
    quantizer = StepQuantizer(TensorSpec.weight(4))
    v = torch.zeros(3, 3, requires_grad=True)
    quantizer(v).sum().backward()
    assert v.grad is not None and quantizer.step.move.grad is not None
    assert v.grad.tolist() == torch.ones(3, 3).tolist()
    assert float(quantizer.step.move.grad) == 0


def test_autocast_does_not_touch_codes() -> None:
    quantizer = StepQuantizer(TensorSpec.activation(8, signed=True), step=0.0371)
    v = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    plain = quantizer(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(v), plain)
        assert quantizer(v.bfloat16()).dtype == torch.float32


def test_a_fixed_step_is_not_trained() -> None:
    quantizer = StepQuantizer(TensorSpec.activation(8, signed=True), step=1 / 64, learnable=False)
    v = torch.randn(8, requires_grad=True)
    quantizer(v).sum().backward()
    assert quantizer.step.move.grad is None
    assert not quantizer.step.move.requires_grad


def test_copies_and_state_dicts_keep_the_step() -> None:
    quantizer = StepQuantizer(TensorSpec.activation(3, signed=False), step=0.123)
    twin = copy.deepcopy(quantizer)
    twin.set_scale(9)
    assert float(quantizer.scale()) == pytest.approx(0.123)
    fresh = StepQuantizer(TensorSpec.activation(3, signed=False))
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh.scale(), quantizer.scale())
    assert twin.spec == quantizer.spec
    assert "3 bits unsigned, codes 0..7, step 0.123" in repr(fresh)
