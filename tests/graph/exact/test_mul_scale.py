"""Output scales of multiplications: all pairs of codes, every form, and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from additions import all_pairs, runtime_pairs, signed, unsigned
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.mul_scale import portable_mul_scale, product_forms


def forms_of(a: CodeRange, b: CodeRange, out: CodeRange) -> list[np.ndarray]:
    return product_forms(*all_pairs(a, b), a, b, out)


def assert_agreed(a: CodeRange, b: CodeRange, out: CodeRange) -> float:
    scale = portable_mul_scale(a, b, out, "mul")
    moved = CodeRange(scale, out.zero_point, out.lo, out.hi)
    definition, *others = forms_of(a, b, moved)
    assert all(np.array_equal(form, definition) for form in others)
    assert np.array_equal(runtime_pairs("Mul", a, b, moved), definition)
    return scale


TRIPLES = {
    "a gate of 256 steps": (signed(0.05), unsigned(1 / 256), CodeRange(0.025, 128, -128, 127)),
    "halves, odd zero point": (unsigned(0.1), unsigned(0.1), CodeRange(0.02, 7, -7, 248)),
    "quarters": (signed(0.5), signed(0.5), signed(1.0)),
    "tenths": (signed(0.7), unsigned(0.1), CodeRange(0.14, 10, -10, 245)),
}


@pytest.mark.parametrize("case", TRIPLES)
def test_round_ratios_of_scales_are_nudged_until_all_forms_agree(case: str) -> None:
    a, b, out = TRIPLES[case]
    definition, *others = forms_of(a, b, out)
    scale = assert_agreed(a, b, out)
    assert abs(scale / out.scale - 1) < 5e-4
    if any(not np.array_equal(form, definition) for form in others):
        assert scale != np.float32(out.scale)


def test_most_of_those_ratios_need_the_nudge() -> None:
    moved = [portable_mul_scale(a, b, out, "mul") != float(np.float32(out.scale)) for a, b, out in TRIPLES.values()]
    assert sum(moved) >= 2


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 400), st.booleans(), st.booleans(), st.integers(0, 255))
def test_agreed_scales_of_random_round_ratios(p: int, q: int, r: int, left: bool, right: bool, zero: int) -> None:
    kinds = {True: signed, False: unsigned}
    assert_agreed(kinds[left](p / 100), kinds[right](q / 100), CodeRange(r / 100, zero, -zero, 255 - zero))


def test_a_constant_operand_has_one_code() -> None:
    assert_agreed(signed(0.05), CodeRange(0.002, 0, 100, 100), signed(0.01))


def test_tiny_output_scales_are_raised() -> None:
    """Steps beyond 2^31 would turn into the lowest code in ONNX Runtime."""
    assert assert_agreed(signed(1.0), signed(1.0), signed(1e-7)) > 1e-4
