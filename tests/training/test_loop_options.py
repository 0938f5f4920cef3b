"""Accumulation, clipping, averaging, optimizers, schedules of a phase, features."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qkd_deploy.data import Split
from qkd_deploy.distill import Phase
from qkd_deploy.distill.losses import labels_only
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.batches import BatchStream
from qkd_deploy.training.loop.loop import PhaseLoop
from qkd_deploy.training.loop.optimizers import OptimizerSettings
from qkd_deploy.training.loop.schedule import Schedule
from qkd_deploy.training.loop.stage import LoopOptions, Stage
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import NoProgress

ALONE = Processes(torch.device("cpu"))
WHOLE, COSINE = LoopOptions(), Schedule()


def split() -> Split:
    images = torch.randint(0, 256, (48, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Split(images, images[:, 0, 0, 0].gt(127).long())


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def trained(
    *,
    options: LoopOptions = WHOLE,
    averaged: bool = False,
    phases: list[Phase] | None = None,
    records: list[EpochRecord] | None = None,
    schedule: Schedule = COSINE,
    **settings: Any,
) -> tuple[nn.Module, AveragedModel | None]:
    student = network()
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.5)) if averaged else None
    stage = Stage(
        name="qat",
        networks={"student": student},
        phases=phases or [Phase("labels", 2, {"student": labels_only("student")})],
        optimizers={"student": OptimizerSettings(**{"learning_rate": 0.05, **settings})},
        evaluate=lambda role: 0.0,
        averaged=average,
        schedule=schedule,
    )
    loop = PhaseLoop(stage, BatchStream(split(), 12, None, seed=5), ALONE, options, progress=NoProgress())
    loop.run((records if records is not None else []).append)
    return student, average


def vector(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(parts: int) -> None:
    whole, divided = trained()[0], trained(options=LoopOptions(accumulate=parts))[0]
    torch.testing.assert_close(vector(divided), vector(whole), atol=1e-6, rtol=1e-5)
    assert not torch.equal(vector(whole), vector(network()))


def test_channels_last_and_compilation_change_no_more_than_roundings() -> None:
    plain = vector(trained()[0])
    torch.testing.assert_close(vector(trained(options=LoopOptions(channels_last=True))[0]), plain, atol=1e-5, rtol=1e-4)


def test_clipping_bounds_what_one_step_moves() -> None:
    one_step = [Phase("labels", 1, {"student": labels_only("student")})]
    before = vector(network())
    settings = {"learning_rate": 1.0, "momentum": 0.0, "clip_norm": 1e-3}
    after = vector(trained(phases=one_step, schedule=Schedule("constant"), **settings)[0])
    assert 0 < (after - before).norm() <= 4 * 1e-3 * 1.001  # four batches
    assert (vector(trained(phases=one_step, **{**settings, "clip_norm": 0.0})[0]) - before).norm() > 0.1


def test_the_average_follows_the_student() -> None:
    student, average = trained(averaged=True)
    assert average is not None
    distance = (vector(average.module) - vector(student)).norm()
    assert 0 < distance < 0.2 * (vector(student) - vector(network())).norm()
    assert int(average.n_averaged) == 8


def test_optimizers_differ() -> None:
    results = [
        vector(trained(optimizer=name, weight_decay=0.1, learning_rate=0.01)[0]) for name in ("sgd", "adamw", "adam")
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(results, 2))


def test_a_phase_may_start_the_schedule_anew() -> None:
    records: list[EpochRecord] = []
    phases = [
        Phase("first", 2, {"student": labels_only("student")}),
        Phase("second", 2, {"student": labels_only("student")}, own_schedule=True),
    ]
    trained(phases=phases, records=records)
    rates = [record.learning_rates["student"] for record in records]
    assert rates[0] == rates[2] and rates[1] == rates[3] and rates[0] > rates[1]


def test_losses_know_how_far_their_phase_is() -> None:
    seen: list[float] = []

    def watching(outputs: Any) -> dict[str, torch.Tensor]:
        seen.append(outputs.progress)
        return labels_only("student")(outputs)

    trained(phases=[Phase("first", 1, {"student": labels_only("student")}), Phase("second", 2, {"student": watching})])
    assert seen == [index / 8 for index in range(8)]
