"""Several outputs: each is judged by itself, and named where it differs."""

from __future__ import annotations

import numpy as np

from qkd_deploy.verification.checks.outputs import FLIP_TOLERANCE, FLOAT_TOLERANCE, OutputsComparison

BOXES, SCORES = np.linspace(-2, 4, 24, dtype=np.float32).reshape(3, 2, 4), np.eye(3, dtype=np.float32)


def moved(array: np.ndarray, by: float) -> np.ndarray:
    changed = array.copy()
    changed[1] += np.float32(by)
    return changed


def compared(boxes: np.ndarray, scores: np.ndarray, *, exact: bool, tolerance: float) -> OutputsComparison:
    found = OutputsComparison({"boxes": exact, "scores": True}, tolerance)
    found.add([boxes, scores], [BOXES, SCORES], 3)
    found.add([BOXES, SCORES], [BOXES, SCORES], 3)
    return found


def test_equal_outputs_have_no_problems() -> None:
    found = compared(BOXES, SCORES, exact=True, tolerance=FLOAT_TOLERANCE)
    assert found.problems() == []
    assert found.summary() == "outputs of frozen model and ONNX Runtime on 6 inputs: boxes, scores equal"


def test_the_output_that_differs_is_named_with_how_much() -> None:
    found = compared(moved(BOXES, 1e-5), SCORES, exact=True, tolerance=FLOAT_TOLERANCE)
    (problem,) = found.problems()
    assert problem.startswith("output boxes differs between frozen model and ONNX Runtime on 1 of 6 inputs, by 2.5e-06")
    assert found.problems(exact_only=True) == [problem]


def test_outputs_behind_float_operators_may_be_close() -> None:
    found = compared(moved(BOXES, 1e-5), SCORES, exact=False, tolerance=FLOAT_TOLERANCE)
    assert found.problems() == []
    assert "scores equal, boxes within 2.5e-06 of its range" in found.summary()
    for tolerance, problems in ((FLOAT_TOLERANCE, 1), (FLIP_TOLERANCE, 0)):
        found = compared(moved(BOXES, 0.04), SCORES, exact=False, tolerance=tolerance)
        assert len(found.problems()) == problems and found.problems(exact_only=True) == []
    gross = compared(moved(BOXES, 0.4), moved(SCORES, 0.1), exact=False, tolerance=FLIP_TOLERANCE)
    assert [problem.split()[1] for problem in gross.problems()] == ["boxes", "scores"]


def test_scalars_and_values_that_are_not_finite_are_compared_too() -> None:
    found = OutputsComparison({"map": True, "total": True}, FLOAT_TOLERANCE)
    nan = np.full((2, 3), np.nan, np.float32)
    found.add([nan, np.float32(1.5)[()].reshape(())], [nan.copy(), np.array(2.5, np.float32)], 2)
    assert [problem.split()[1] for problem in found.problems()] == ["total"]
