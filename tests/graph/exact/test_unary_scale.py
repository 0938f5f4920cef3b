"""Output scales of functions: no table entry is so near to a rounding tie that a function's error could decide it."""

from __future__ import annotations

import numpy as np
import pytest
from additions import signed, unsigned
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.errors import UserError
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.unary_scale import Doubles, portable_unary_scale, table_values


def sigmoid(x: Doubles) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-x)))


def codes_of(values: Doubles, out: CodeRange) -> np.ndarray:
    steps = values.astype(np.float32) / np.float32(out.scale)
    inside = np.rint(steps + np.float32(out.zero_point)) - out.zero_point
    assert np.array_equal(np.clip(inside, out.lo, out.hi), np.clip(np.rint(steps), out.lo, out.hi))
    return np.clip(np.rint(steps), out.lo, out.hi)


@settings(max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from([0, 3, 128]), st.sampled_from([np.tanh, sigmoid, np.abs])
)
def test_errors_do_not_change_codes(p: int, q: int, zero: int, function: np.ufunc) -> None:
    source, error = signed(p / 1000), 1e-6
    start = CodeRange(q / 10000, zero, -zero, 255 - zero)
    out = CodeRange(portable_unary_scale(function, source, start, error, "act"), zero, -zero, 255 - zero)
    assert abs(out.scale / start.scale - 1) < 0.04
    values = table_values(function, source)
    expected = codes_of(values, out)
    for sign in (-1, 1):
        assert np.array_equal(codes_of(values + sign * error, out), expected)


def test_a_tie_is_moved_and_a_safe_scale_is_kept() -> None:
    """The identity from steps of 0.1 to steps of 0.2 has a tie at every odd code."""
    moved = portable_unary_scale(np.positive, unsigned(0.1), unsigned(0.2), 1e-6, "act")
    assert moved != np.float32(0.2)
    source, out = CodeRange(0.1, 0, 0, 255), CodeRange(moved, 0, 0, 255)
    values = table_values(np.positive, source)
    assert np.array_equal(codes_of(values + 1e-6, out), codes_of(values - 1e-6, out))
    assert portable_unary_scale(np.positive, unsigned(0.1), unsigned(0.1), 1e-6, "act") == np.float32(0.1)


def test_ties_beyond_the_range_of_codes_do_not_matter() -> None:
    out = CodeRange(0.2, 0, 0, 0)
    assert portable_unary_scale(np.positive, unsigned(0.1), CodeRange(0.2, 0, 0, 1), 1e-6, "act") != out.scale
    assert portable_unary_scale(lambda x: x + 5.1, unsigned(0.2), CodeRange(0.2, 0, 0, 3), 1e-6, "act") == np.float32(
        0.2
    )


def test_steps_as_small_as_the_error_are_refused() -> None:
    with pytest.raises(UserError, match="act has no output scale"):
        portable_unary_scale(np.positive, unsigned(1.1e-6), unsigned(1e-6), 1e-6, "act")
