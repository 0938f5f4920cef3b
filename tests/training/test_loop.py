from __future__ import annotations

import io
import itertools

import pytest
import torch
from torch import nn

from qkd_deploy.data import CropAndFlip, Split
from qkd_deploy.distill import MethodOptions, method_named
from qkd_deploy.errors import UserError
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.batches import BatchStream
from qkd_deploy.training.loop.loop import PhaseLoop
from qkd_deploy.training.loop.optimizers import OptimizerSettings
from qkd_deploy.training.loop.stage import LoopOptions, Stage
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import NoProgress

ALONE = Processes(torch.device("cpu"))


def split(count: int = 40) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Split(images, images[:, 0, 0, 0].gt(127).long())


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def loop_for(method: str, epochs: tuple[int, ...], lr: float = 0.05) -> PhaseLoop:
    settings = OptimizerSettings(learning_rate=lr)
    stage = Stage(
        name=method,
        networks={"student": network(1), "teacher": network(2)},
        phases=method_named(method).phases(epochs, MethodOptions()),
        optimizers={"student": settings, "teacher": settings},
        evaluate=lambda role: 50.0,
        evaluate_every=2,
    )
    return PhaseLoop(stage, BatchStream(split(), 8, None, seed=5), ALONE, LoopOptions(), progress=NoProgress())


def weights(loop: PhaseLoop, role: str) -> dict[str, torch.Tensor]:
    networks = dict(loop.stage.networks.items())
    return {name: value.clone() for name, value in networks[role].state_dict().items()}  # type: ignore[index]


def unchanged(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


def test_the_teacher_learns_in_co_study_only() -> None:
    loop = loop_for("qkd", (1, 1, 1))
    teachers, students, modes = [weights(loop, "teacher")], [weights(loop, "student")], []

    def after(_: EpochRecord) -> None:
        teachers.append(weights(loop, "teacher"))
        students.append(weights(loop, "student"))
        modes.append(loop.stage.networks["teacher"].training)

    loop.run(after)
    # Weights and batch statistics alike: a frozen teacher is in evaluation mode.
    assert [unchanged(*pair) for pair in itertools.pairwise(teachers)] == [True, False, True]
    assert [unchanged(*pair) for pair in itertools.pairwise(students)] == [False, False, False]
    assert modes == [False, True, False]


def test_records_say_what_happened() -> None:
    records: list[EpochRecord] = []
    loop_for("qkd", (1, 1, 1)).run(records.append)
    assert [r.phase for r in records] == ["self-study", "co-study", "tutor"]
    assert [{role: set(terms) for role, terms in r.losses.items()} for r in records] == [
        {"student": {"ce"}},
        {"student": {"ce", "kl"}, "teacher": {"ce", "kl"}},
        {"student": {"ce", "kl"}},
    ]
    assert [r.accuracy for r in records] == [None, 50.0, 50.0]  # every second epoch, and the last
    assert records[1].learning_rates["teacher"] == pytest.approx(records[1].learning_rates["student"] / 10)
    assert records[0].learning_rates["student"] > records[2].learning_rates["student"] > 0


def test_a_student_learns() -> None:
    records: list[EpochRecord] = []
    loop_for("qat", (30,)).run(records.append)
    assert records[-1].losses["student"]["ce"] < 0.5 * records[0].losses["student"]["ce"]


def test_equal_runs_are_bit_identical_and_other_seeds_are_not() -> None:
    one, two = loop_for("qkd", (1, 2, 1)), loop_for("qkd", (1, 2, 1))
    for loop in (one, two):
        torch.manual_seed(0)
        loop.run(lambda record: None)
    assert unchanged(weights(one, "student"), weights(two, "student"))
    assert not unchanged(weights(one, "student"), weights(loop_for("qkd", (1, 2, 1)), "student"))


@pytest.mark.parametrize("epochs_before", [1, 2, 3, 4])
def test_a_continued_loop_ends_where_an_uninterrupted_one_does(epochs_before: int) -> None:
    states: list[bytes] = []
    whole = loop_for("qkd", (1, 2, 1))

    def keep(_: EpochRecord) -> None:
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        states.append(buffer.getvalue())

    whole.run(keep)
    second = loop_for("qkd", (1, 2, 1))
    second.load_state_dict(torch.load(io.BytesIO(states[epochs_before - 1]), weights_only=True))
    epochs: list[int] = []
    second.run(lambda record: epochs.append(record.epoch))
    assert epochs == list(range(epochs_before + 1, 5))
    for role in ("student", "teacher"):
        assert unchanged(weights(whole, role), weights(second, role))


def test_divergence_stops_with_advice() -> None:
    loop = loop_for("qkd", (1, 1, 1), lr=1e30)
    with pytest.raises(
        UserError, match=r"in qkd, phase self-study, epoch 1 .*; train in another --out with a lower --lr, or"
    ):
        loop.run(lambda record: None)


def test_batches_are_shuffled_complete_and_reproducible() -> None:
    data = split(20)
    first = list(BatchStream(data, 8, None, seed=1).epoch())
    again = list(BatchStream(data, 8, None, seed=1).epoch())
    assert [len(labels) for _, labels in first] == [8, 8]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    stream = BatchStream(data, 8, CropAndFlip(pad=1, flip=False), seed=1)
    assert not torch.equal(next(iter(stream.epoch()))[0], next(iter(stream.epoch()))[0])


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    stream = BatchStream(split(5), 8, None, seed=1)
    assert len(stream) == 1
    assert [len(labels) for _, labels in stream.epoch()] == [5]
