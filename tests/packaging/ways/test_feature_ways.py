"""Ways out of features that cannot be compared, and of teachers whose feature is quantized already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.training.config import make_config
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.methods.features import FeatureStudent, QuantizedFeatureTeacher
from qkd_deploy.training.methods.method_stage import method_networks

ROWS = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


class Remembers(nn.Module):
    """A module that makes several results, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.memory, self.head = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        rows, _ = self.memory(self.stem(x))
        return self.head(rows.mean(1))


def prepared() -> PreparedModel:
    model = qkd.prepare(Remembers().eval(), "w8a8", ROWS)
    qkd.initialize(model, ROWS)
    return model


def networks(teacher: nn.Module, **settings: Any) -> None:
    config = make_config({"teacher_checkpoint": "t.pt", **settings})
    method_networks(config, prepared(), teacher, ROWS, CLASSIFICATION, Processes(torch.device("cpu")))


def student(point: str) -> None:
    FeatureStudent(prepared(), point, torch.Size([8]), ROWS)


def teacher(point: str) -> None:
    QuantizedFeatureTeacher(Remembers(), point, 4, ROWS)


WAYS: dict[str, Way] = {
    "several results of the student": Way(
        lambda path: student("memory"), "name another --feature-point", lambda path: student("stem")
    ),
    "several results of the teacher": Way(
        lambda path: teacher("memory"), "name another --teacher-feature-point", lambda path: teacher("stem")
    ),
    "a quantized teacher": Way(
        lambda path: networks(prepared(), method="qfd"),
        "qfd quantizes a feature of a teacher in full precision, and t.pt is quantized already; give the teacher's "
        "full-precision weights, or use --method kd",
        lambda path: [networks(Remembers(), method="qfd"), networks(prepared(), method="kd")],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)
