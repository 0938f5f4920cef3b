from __future__ import annotations

import math

import pytest
import torch

from qkd_deploy.distill import MethodOptions, Outputs, cross_entropy, distillation_kl
from qkd_deploy.distill.qkd import qkd_phases


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # softmax: (3/4, 1/4), (1/2, 1/2)
    loss = cross_entropy(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_distillation_by_hand() -> None:
    # At T = 2 the student's softmax is (3/4, 1/4), the teacher's (1/2, 1/2).
    student = torch.tensor([[2 * math.log(3.0), 0.0]])
    teacher = torch.zeros(1, 2)
    expected = 4 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert distillation_kl(student, teacher, 2.0).item() == pytest.approx(expected)


def test_distillation_is_averaged_over_the_batch() -> None:
    student, teacher = torch.randn(1, 5), torch.randn(1, 5)
    once = distillation_kl(student, teacher, 2.0)
    thrice = distillation_kl(student.expand(3, 5), teacher.expand(3, 5), 2.0)
    torch.testing.assert_close(once, thrice)


def test_equal_logits_have_no_distance() -> None:
    logits = torch.randn(4, 7)
    assert distillation_kl(logits, logits, 3.0).item() == pytest.approx(0.0, abs=1e-6)


def test_gradient_at_high_temperature() -> None:
    # papers: for T -> infinity the gradient per sample is (z_S - mean z_S - z_T + mean z_T) / C
    student = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 6, dtype=torch.float64)
    distillation_kl(student, teacher, 1e4).backward()
    expected = (student - student.mean() - teacher + teacher.mean()) / 6
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-4, rtol=0)


def test_gradient_against_finite_differences() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: distillation_kl(z, teacher, 2.0), student)


def co_study_outputs() -> Outputs:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    return Outputs(torch.tensor([0, 1, 2]), {"student": student, "teacher": teacher})


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_co_study_losses_teach_only_their_own_network(role: str) -> None:
    torch.manual_seed(0)
    outputs = co_study_outputs()
    co_study = qkd_phases((1, 1, 1), MethodOptions())[1]
    sum(co_study.losses[role](outputs).values()).backward()
    assert (outputs.logits["student"].grad is not None) == (role == "student")
    assert (outputs.logits["teacher"].grad is not None) == (role == "teacher")


def test_one_backward_pass_of_both_equals_two_separate_ones() -> None:
    torch.manual_seed(0)
    outputs = co_study_outputs()
    co_study = qkd_phases((1, 1, 1), MethodOptions())[1]
    both = [value for loss in co_study.losses.values() for value in loss(outputs).values()]
    torch.stack(both).sum().backward()
    alone = torch.autograd.grad(sum(co_study.losses["student"](outputs).values()), outputs.logits["student"])[0]
    torch.testing.assert_close(outputs.logits["student"].grad, alone)


def test_co_study_weights_the_terms_one_to_one_both_ways() -> None:
    outputs = co_study_outputs()
    co_study = qkd_phases((1, 1, 1), MethodOptions(temperature=2.0))[1]
    student, teacher = co_study.losses["student"](outputs), co_study.losses["teacher"](outputs)
    torch.testing.assert_close(
        student["kl"], distillation_kl(outputs.logits["student"], outputs.logits["teacher"], 2.0)
    )
    torch.testing.assert_close(
        teacher["kl"], distillation_kl(outputs.logits["teacher"], outputs.logits["student"], 2.0)
    )
    torch.testing.assert_close(student["ce"], cross_entropy(outputs.logits["student"], outputs.labels))
    torch.testing.assert_close(teacher["ce"], cross_entropy(outputs.logits["teacher"], outputs.labels))
