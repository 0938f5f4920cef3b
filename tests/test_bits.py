"""Bit widths, the grids that they stand for, and patterns."""

from __future__ import annotations

import pytest

from qkd_deploy.bits import BitWidths, TensorSpec, bits_for
from qkd_deploy.errors import UserError


@pytest.mark.parametrize("text", [*(f"w{w}a{a}" for w in range(2, 9) for a in (2, 3, 4, 5, 6, 7, 8)), "w2a32", "w8a32"])
def test_all_widths_from_two_to_eight_and_float_activations(text: str) -> None:
    bits = BitWidths.parse(text)
    assert str(bits) == text
    assert bits.weights_only == text.endswith("a32")
    assert BitWidths.parse(bits) is bits


def test_spelling_is_forgiving_about_case_and_blanks() -> None:
    assert BitWidths.parse(" W4A8\n") == BitWidths(4, 8)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("w1a4", "w2a4"),
        ("w4a1", "w4a2"),
        ("w9a9", "w8a8"),
        ("w4a16", "w4a8"),
        ("w4a31", "w4a32"),
        ("w32a32", "w8a32"),
        ("w0a0", "w2a2"),
        ("4", "w4a4"),
        ("4,8", "w4a8"),
        ("a4w4", "w4a4"),
        ("int8", "w8a8"),
        ("w4", "w4a4"),
        ("w4a4b4", "w4a4"),
        ("w-4a4", "w4a4"),
        ("w4.5a4", "w4a4"),
        ("", "w4a4"),
        ("low", "w4a4"),
        ("w99999999999999999999a4", "w8a4"),
    ],
)
def test_anything_else_is_refused_with_a_suggestion(text: str, suggestion: str) -> None:
    with pytest.raises(UserError) as caught:
        BitWidths.parse(text)
    message = str(caught.value)
    assert f"did you mean {suggestion!r}?" in message
    assert "\n" not in message.replace(repr(text), "")
    BitWidths.parse(suggestion)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (TensorSpec.activation(8, signed=False), (0, 0, 255)),
        (TensorSpec.activation(8, signed=True), (128, -128, 127)),
        (TensorSpec.activation(4, signed=False), (0, 0, 15)),
        (TensorSpec.activation(2, signed=True), (2, -2, 1)),
        (TensorSpec.saturating(4), (240, 0, 15)),
        (TensorSpec.saturating(2), (252, 0, 3)),
        (TensorSpec.weight(8), (0, -63, 63)),
        (TensorSpec.weight(7), (0, -63, 63)),
        (TensorSpec.weight(4), (0, -7, 7)),
        (TensorSpec.weight(2), (0, -1, 1)),
        (TensorSpec.weight(8, "full"), (0, -127, 127)),
        (TensorSpec.weight(4, "full"), (0, -8, 7)),
        (TensorSpec.weight(2, "full"), (0, -2, 1)),
    ],
)
def test_grids(spec: TensorSpec, expected: tuple[int, int, int]) -> None:
    assert (spec.zero_point, spec.lo, spec.hi) == expected


@pytest.mark.parametrize("bits", range(2, 9))
def test_stored_activation_codes_fit_uint8_and_zero_points_are_even(bits: int) -> None:
    for spec in (
        TensorSpec.activation(bits, signed=False),
        TensorSpec.activation(bits, signed=True),
        TensorSpec.saturating(bits),
    ):
        assert spec.lo + spec.zero_point >= 0
        assert spec.hi + spec.zero_point <= 255
        assert spec.hi - spec.lo == 2**bits - 1
        assert spec.zero_point % 2 == 0


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("weight_range", ["safe", "narrow", "full"])
def test_upscaled_weights_fill_the_safe_part_of_int8(bits: int, weight_range: str) -> None:
    spec = TensorSpec.weight(bits, weight_range)
    largest = max(-spec.lo, spec.hi) * spec.upscale
    assert largest <= (127 if bits == 8 and weight_range == "full" else 64)
    assert largest * 2 > 63
    assert spec.upscale == {2: 32, 3: 16, 4: 8, 5: 4, 6: 2, 7: 1, 8: 1}[bits]


def test_the_last_matching_pattern_wins() -> None:
    wide, narrow = BitWidths(8, 8), BitWidths(2, 2)
    overrides = {"layer4.*": wide, "*.conv2": narrow}
    assert bits_for("layer4.0.conv1", overrides) == wide
    assert bits_for("layer4.0.conv2", overrides) == narrow
    assert bits_for("layer40.conv1", overrides) is None
    assert bits_for("Layer4.0.conv1", overrides) is None
