"""Output scales of additions: fused multiply-adds, ties, and the scale on which every CPU agrees."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from additions import pairs, runtime_add, signed, unsigned
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.graph.exact.add_scale import CodeRange, _fixed_point, fma, portable_add_scale


def _single(value: float) -> np.ndarray:
    return np.array([value], np.float32)


@settings(max_examples=300)
@given(*[st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)] * 3)
def test_emulated_fused_multiply_add_rounds_once(x: float, y: float, z: float) -> None:
    got = fma(_single(x), _single(y), _single(z))[0]
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    below, above = np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))
    off = abs(Fraction(float(got)) - exact)
    assert off <= abs(Fraction(float(below)) - exact)
    assert off <= abs(Fraction(float(above)) - exact)


def test_emulated_fused_multiply_add_where_float64_is_not_enough() -> None:
    """4097 * 4097 is a tie between two float32 values; the addend decides it, but is lost in a float64 sum."""
    factor = _single(4097)
    for addend, expected in ((2.0**-40, 16785410.0), (-(2.0**-40), 16785408.0), (0.0, 16785408.0)):
        assert fma(factor, factor, _single(addend))[0] == expected
    assert np.float32(4097.0 * 4097.0 + 2.0**-40) == 16785408.0


TRIPLES = {
    "85/44": (unsigned(0.85), signed(0.85), unsigned(0.44)),
    "0.05 and 0.06": (signed(0.05), unsigned(0.06), signed(0.1)),
    "halves": (unsigned(0.1), unsigned(0.3), unsigned(0.2)),
    "thirds": (signed(0.1), signed(0.15), signed(0.3)),
    "tenths": (signed(0.7), signed(0.1), signed(0.2)),
}


@pytest.mark.parametrize("case", TRIPLES)
def test_round_ratios_of_scales_are_nudged_until_all_forms_agree(case: str) -> None:
    a, b, out = TRIPLES[case]
    before = pairs(a, b, out)
    scale = portable_add_scale(a, b, out, "add")
    assert abs(scale / out.scale - 1) < 1e-4
    moved = CodeRange(scale, out.zero_point, out.lo, out.hi)
    after = pairs(a, b, moved)
    for name, form in after.items():
        assert np.array_equal(form, after["definition"]), name
    assert np.array_equal(runtime_add(a, b, moved), after["definition"])
    differs = any(not np.array_equal(form, before["definition"]) for form in before.values())
    assert differs == (scale != out.scale)


def test_arm_adds_in_fixed_point_and_rounds_ties_away_from_zero() -> None:
    """Seen on ONNX Runtime for ARM, in all pairs of codes of 33 additions."""
    half = signed(0.5), signed(0.5), signed(1.0)
    codes = np.array([-3, -2, -1, 0, 1, 2, 3])
    (found,) = _fixed_point(codes, np.zeros(7, int), *half)
    assert found.tolist() == [-2, -1, -1, 0, 1, 1, 2]
    assert _fixed_point(codes, codes, signed(256.0), signed(1.0), signed(1.0)) == []  # in float beyond this ratio


def test_most_of_those_ratios_need_the_nudge() -> None:
    moved = [portable_add_scale(a, b, out, "add") != out.scale for a, b, out in TRIPLES.values()]
    assert sum(moved) >= 3


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.booleans(), st.booleans(), st.booleans())
def test_agreed_scales_of_random_round_ratios(
    p: int, q: int, r: int, a_signed: bool, b_signed: bool, o_signed: bool
) -> None:
    kinds = {True: signed, False: unsigned}
    a, b, out = kinds[a_signed](p / 100), kinds[b_signed](q / 100), kinds[o_signed](r / 100)
    scale = portable_add_scale(a, b, out, "add")
    moved = CodeRange(scale, out.zero_point, out.lo, out.hi)
    forms = pairs(a, b, moved)
    assert all(np.array_equal(form, forms["definition"]) for form in forms.values())
    assert np.array_equal(runtime_add(a, b, moved), forms["definition"])


@pytest.mark.parametrize(("left", "right"), [(1.0, 0.77), (1e-8, 0.00175518)])
def test_hopeless_ratios_of_additions_are_raised_first(left: float, right: float) -> None:
    """A step a million times too small cannot agree: float32 loses the zero points' offsets."""
    a, b, out = signed(left), signed(right), signed(1e-8)
    scale = portable_add_scale(a, b, out, "add")
    moved = CodeRange(scale, out.zero_point, out.lo, out.hi)
    assert np.array_equal(runtime_add(a, b, moved), pairs(a, b, moved)["definition"])
    assert scale > 100 * out.scale
