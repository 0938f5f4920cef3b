"""``prepare`` takes time in proportion to the nodes: counted in calls of functions, which no busy machine changes."""

from __future__ import annotations

import cProfile
import json
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import prepare


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.pool, self.relu = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.MaxPool2d(1), nn.ReLU()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.relu(self.pool(self.bn(self.conv(x)) + x)))  # type: ignore[no-any-return]


def calls(blocks: int) -> int:
    """Functions called to prepare a chain of blocks, each of which has work for several passes."""
    network = nn.Sequential(*(Block() for _ in range(blocks)))
    with cProfile.Profile() as profile:
        prepare(network, "w4a4", torch.randn(2, 2, 4, 4))
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_twice_the_nodes_take_twice_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QKD_DEPLOY_CHECK_GRAPHS", "0")
    calls(2)  # imports
    less, more = calls(20), calls(60)
    assert more / less < 3.2


def test_the_program_prints_a_line_for_every_size(run: Callable[..., str], tmp_path: Path) -> None:
    printed = run("prepare_time.py", "--sizes", "8", "16", "--json", "out.json")
    assert json.loads((tmp_path / "out.json").read_text()).keys() == {"8", "16"}
    assert [line.split()[0] for line in printed.splitlines()] == ["nodes", "8", "16"]
