"""The command line recommends bfloat16 where the CPU has units for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkd_deploy.training.config import make_config
from qkd_deploy.training.monitoring.bfloat16 import bfloat16_remark

CIFAR = {"dataset": "cifar10"}


@pytest.fixture
def zen(tmp_path: Path) -> Path:
    file = tmp_path / "zen"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n")
    return file


def test_who_trains_in_float32_hears_of_it(zen: Path) -> None:
    assert bfloat16_remark(make_config(CIFAR), "cpu", zen).endswith("with --precision bf16 --compile")
    assert bfloat16_remark(make_config(CIFAR | {"compile": True}), "cpu", zen).endswith("with --precision bf16")


@pytest.mark.parametrize("given", [CIFAR | {"precision": "bf16"}, {"dataset": "digits"}])
def test_nothing_is_said_where_it_is_done_or_does_not_pay_off(given: dict[str, str], zen: Path) -> None:
    assert bfloat16_remark(make_config(given), "cpu", zen) == ""


def test_nothing_is_said_of_other_processors(zen: Path, tmp_path: Path) -> None:
    assert bfloat16_remark(make_config(CIFAR), "cuda", zen) == ""
    assert bfloat16_remark(make_config(CIFAR), "cpu", tmp_path / "missing") == ""
    zen.write_text("flags\t\t: fpu avx2\n")
    assert bfloat16_remark(make_config(CIFAR), "cpu", zen) == ""
