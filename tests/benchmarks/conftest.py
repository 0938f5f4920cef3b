"""Runs benchmarks as scripts, but in this process: in one of its own, each would import PyTorch first."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a benchmark with some arguments in ``tmp_path``, demand that it succeeds, and give what it printed."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)

    def call(program: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        try:
            runpy.run_path(str(BENCHMARKS / program), run_name="__main__")
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(threads)
