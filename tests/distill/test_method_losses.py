"""What each method minimises, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qkd_deploy.distill import MethodOptions, Outputs, method_named
from qkd_deploy.distill.phases import Phase


def outputs(progress: float = 0.0, *, labels: Tensor | None = None) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    student, teacher, one, two = (torch.randn(6, 5, generator=generator).requires_grad_() for _ in range(4))
    answers = torch.tensor([0, 1, 2, 3, 4, 0]) if labels is None else labels
    return Outputs(answers, {"student": student, "teacher": teacher}, {"student": one, "teacher": two}, progress)


def student_phase(method: str, **options: object) -> Phase:
    (phase,) = [
        phase
        for phase in method_named(method).phases((4,), MethodOptions(**options))  # type: ignore[arg-type]
        if "student" in phase.losses
    ]
    return phase


def kl(given: Outputs, temperature: float) -> Tensor:
    """T^2 KL(p_T || p_S), written out."""
    student = functional.softmax(given.logits["student"] / temperature, 1)
    teacher = functional.softmax(given.logits["teacher"] / temperature, 1)
    return temperature**2 * (teacher * (teacher.log() - student.log())).sum(1).mean()


@pytest.mark.parametrize(
    ("decay", "progress", "share"),
    [
        ("linear", 0.0, 1.0),
        ("linear", 0.25, 0.75),
        ("linear", 0.99, 0.01),
        ("cosine", 0.0, 1.0),
        ("cosine", 1 / 3, 0.75),
        ("cosine", 0.5, 0.5),
        ("step", 0.3, 1.0),
        ("step", 0.4, 0.5),
        ("step", 0.7, 0.0),
        ("step", 0.999, 0.0),
    ],
)
def test_the_soft_loss_of_gslr_decreases(decay: str, progress: float, share: float) -> None:
    given = outputs(progress)
    loss = student_phase("gslr", temperature=3.0, soft_loss=0.8, soft_loss_decay=decay).losses["student"]
    terms = loss(given)
    hard = functional.cross_entropy(given.logits["student"], given.labels)
    torch.testing.assert_close(terms["ce"], (1 - 0.8 * share) * hard)
    torch.testing.assert_close(terms["kl"], 0.8 * share * kl(given, 3.0), atol=1e-6, rtol=1e-5)


def test_sqakd_minimises_the_divergence_alone() -> None:
    phase = student_phase("sqakd", temperature=4.0, soft_loss=100.0)
    given = outputs()
    terms = phase.losses["student"](given)
    assert set(terms) == {"kl"}
    torch.testing.assert_close(terms["kl"], 100 * kl(given, 4.0))
    shuffled = outputs(labels=torch.tensor([4, 3, 2, 1, 0, 0]))
    assert torch.equal(phase.losses["student"](shuffled)["kl"], terms["kl"])


def test_sqakd_does_not_touch_labels() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"labels.{name} was read")

    student_phase("sqakd").losses["student"](outputs(labels=Untouchable()))  # type: ignore[arg-type]


def test_qfd_compares_features_with_the_quantized_ones_of_the_teacher() -> None:
    given = outputs()
    terms = student_phase("qfd", feature_weight=0.5).losses["student"](given)
    assert set(terms) == {"ce", "feature"}
    difference = given.features["student"] - given.features["teacher"]
    torch.testing.assert_close(terms["feature"], 0.5 * difference.square().mean())
    terms["feature"].backward()
    assert given.features["teacher"].grad is None
    assert given.features["student"].grad is not None


@pytest.mark.parametrize("method", ["qkd", "kd", "gslr", "sqakd"])
def test_the_target_is_detached(method: str) -> None:
    given = outputs()
    phase = method_named(method).phases((0, 0, 4) if method == "qkd" else (4,), MethodOptions())[-1]
    sum(phase.losses["student"](given).values(), torch.zeros(())).backward()
    assert given.logits["teacher"].grad is None
    assert given.logits["student"].grad is not None


def test_labels_may_be_probabilities() -> None:
    mixed = torch.full((6, 5), 0.2)
    given = outputs(labels=mixed)
    expected = -(functional.log_softmax(given.logits["student"], 1) * mixed).sum(1).mean()
    torch.testing.assert_close(student_phase("qat").losses["student"](given)["ce"], expected)


def test_label_smoothing() -> None:
    given = outputs()
    expected = functional.cross_entropy(given.logits["student"], given.labels, label_smoothing=0.1)
    torch.testing.assert_close(student_phase("kd", label_smoothing=0.1).losses["student"](given)["ce"], expected)
