"""Differences of outputs are counted in steps of their grids; what is no number is as far off as can be."""

from __future__ import annotations

import numpy as np
import pytest

from qkd_deploy.export.targets.record import End, TargetRecord
from qkd_deploy.export.targets.steps import MOST, StepsOff

CODES = np.arange(12, dtype=np.float32).reshape(3, 4)


def compared(mine: np.ndarray, other: np.ndarray, scale: float | None) -> StepsOff:
    record = TargetRecord("any", "1", 0, (), (End("output", (0, 4), "float32", scale),))
    off = StepsOff(record)
    off.add([mine], [other])
    return off


@pytest.mark.parametrize(("steps", "words"), [(0, ""), (1, ", by one step"), (3, ", by 3 steps at most")])
def test_codes_are_counted(steps: int, words: str) -> None:
    mine = CODES * np.float32(0.25)
    other = mine.copy()
    other[1, 2] += 0.25 * steps
    off = compared(mine, other, 0.25)
    assert (off.worst, off.differing, off.compared) == (steps, int(steps > 0), 12)
    assert off.in_words() == f"{int(steps > 0)} of 12 output codes differ{words}"
    assert off.counts[0] == 12 - int(steps > 0) and off.counts.sum() == 12


def test_floats_may_differ_in_their_last_bits_and_no_more() -> None:
    assert compared(CODES, np.nextafter(CODES, np.float32(np.inf)), None).differing == 0
    off = compared(CODES, CODES * np.float32(1 + 1e-5), None)
    assert off.differing > 0 and off.worst == 0
    assert off.in_words() == f"{off.differing} of 12 output codes differ, by less than a step"


def test_what_is_no_number_or_has_another_shape_is_as_far_off_as_can_be() -> None:
    broken = CODES.copy()
    broken[0, 0], broken[0, 1] = np.nan, np.inf
    for scale in (0.25, None):
        off = compared(CODES, broken, scale)
        assert (off.worst, off.differing) == (MOST, 2)
        assert compared(broken, broken, scale).differing == 0
        assert compared(CODES, CODES[:2], scale).differing == 12


def test_classes_that_stay_the_same_are_counted() -> None:
    other = CODES.copy()
    other[0, 0] = 9  # the first of three samples is another class
    off = compared(CODES, other, 1.0)
    off.add([CODES], [CODES])
    assert (off.classified, off.agreeing) == (6, 5) and off.agreement == 100 * 5 / 6
    maps = StepsOff(off.record)
    maps.add([CODES[None]], [CODES[None]])
    assert maps.classified == 0 and maps.agreement is None
