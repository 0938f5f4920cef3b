from __future__ import annotations

import pytest

from qkd_deploy.distill import METHODS, MethodOptions, method_named, split_epochs
from qkd_deploy.errors import UserError


def test_qkd_has_the_three_phases_of_the_paper() -> None:
    phases = method_named("qkd").phases((30, 100, 70), MethodOptions(teacher_lr_ratio=0.25))
    assert [(p.name, p.epochs, set(p.losses), p.frozen) for p in phases] == [
        ("self-study", 30, {"student"}, ()),
        ("co-study", 100, {"student", "teacher"}, ()),
        ("tutor", 70, {"student"}, ("teacher",)),
    ]
    co_study = phases[1]
    assert co_study.learning_rate_factor("student") == 1.0
    assert co_study.learning_rate_factor("teacher") == 0.25
    assert phases[2].learning_rate_factor("teacher") == 0.0


def test_baselines_are_one_phase() -> None:
    (kd,) = method_named("kd").phases((30, 100, 70), MethodOptions())
    (qat,) = method_named("qat").phases((30, 100, 70), MethodOptions())
    assert (kd.epochs, set(kd.losses), kd.frozen) == (200, {"student"}, ("teacher",))
    assert (qat.epochs, set(qat.losses), qat.frozen) == (200, {"student"}, ())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epochs", [(20,), (30, 100, 70), (1, 0, 2)])
def test_all_methods_train_the_student_equally_long(method: str, epochs: tuple[int, ...]) -> None:
    phases = method_named(method).phases(epochs, MethodOptions())
    assert sum(p.epochs for p in phases if "student" in p.losses) == sum(epochs)
    assert all(p.epochs > 0 for p in phases)


@pytest.mark.parametrize(
    ("total", "parts"), [(200, (30, 100, 70)), (20, (3, 10, 7)), (2, (0, 1, 1)), (1, (0, 1, 0)), (7, (1, 4, 2))]
)
def test_a_total_is_split_in_the_ratio_of_the_paper(total: int, parts: tuple[int, ...]) -> None:
    assert split_epochs(total, (30, 100, 70)) == parts


def test_unknown_method_suggests() -> None:
    with pytest.raises(UserError, match="did you mean 'qkd'"):
        method_named("qkdd")


@pytest.mark.parametrize("epochs", [(), (0,), (0, 0, 0), (-1, 5, 5)])
def test_epochs_must_describe_a_run(epochs: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="epochs"):
        method_named("qkd").phases(epochs, MethodOptions())


@pytest.mark.parametrize(
    ("only", "epochs", "expected"),
    [
        (("self-study",), (30, 100, 70), [("self-study", 200)]),
        (("co-study",), (200,), [("co-study", 200)]),
        (("self-study", "tutor"), (30, 100, 70), [("self-study", 60), ("tutor", 140)]),
        (("tutor", "co-study"), (170,), [("co-study", 100), ("tutor", 70)]),
        (("self-study", "tutor"), (5, 6), [("self-study", 5), ("tutor", 6)]),
        ((), (30, 100, 70), [("self-study", 30), ("co-study", 100), ("tutor", 70)]),
    ],
)
def test_ablations_keep_the_total(
    only: tuple[str, ...], epochs: tuple[int, ...], expected: list[tuple[str, int]]
) -> None:
    phases = method_named("qkd").phases(epochs, MethodOptions(), only)
    assert [(phase.name, phase.epochs) for phase in phases] == expected


def test_unknown_phase_suggests() -> None:
    with pytest.raises(UserError, match="qkd has no phase 'tutr'; did you mean 'tutor'"):
        method_named("qkd").phases((3,), MethodOptions(), ("tutr",))


def test_only_sqakd_does_without_labels_and_from_the_teacher() -> None:
    labelled = {name: any(p.needs_labels for p in m.phases((2,), MethodOptions())) for name, m in METHODS.items()}
    assert [name for name, needs in labelled.items() if not needs] == ["sqakd"]
    assert [name for name, method in METHODS.items() if method.teacher_is_student] == ["sqakd"]


def test_the_teacher_of_qfd_learns_first_on_a_schedule_of_its_own() -> None:
    teacher, student = method_named("qfd").phases((20,), MethodOptions(teacher_feature_epochs=5))
    assert (teacher.epochs, set(teacher.losses), teacher.frozen) == (5, {"teacher"}, ())
    assert (student.epochs, set(student.losses), student.frozen) == (20, {"student"}, ("teacher",))
    assert student.features and student.own_schedule
