from __future__ import annotations

import pytest

from qkd_deploy.training.loop.schedule import Schedule


def test_cosine_with_warmup() -> None:
    assert Schedule().factor(0.0) == 1.0
    assert Schedule().factor(0.5) == pytest.approx(0.5)
    assert Schedule(warmup=0.1).factor(0.05) == pytest.approx(0.5)
    assert Schedule(warmup=0.1).factor(0.1) == 1.0
    assert Schedule(warmup=0.1).factor(0.999) < 1e-4


def test_steps_and_constant() -> None:
    step = Schedule("step", warmup=0.1)
    assert [step.factor(p) for p in (0.05, 0.2, 0.499, 0.5, 0.75, 0.99)] == pytest.approx([0.5, 1, 1, 0.1, 0.01, 0.01])
    assert [Schedule("constant").factor(p) for p in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]
