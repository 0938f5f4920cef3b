"""``--replace`` from training to VERIFIED: the student gets other activation functions, and every file says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.training.config import read_config

MODULE = """
import torch
from torch import nn

class Gated(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.SiLU())
        self.gate = nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))
"""
REPLACE = "--replace silu=relu6 --replace sigmoid=hardsigmoid --replace 'stem.*:silu=hardswish'"
TABLE = {"silu": "relu6", "sigmoid": "hardsigmoid", "stem.*:silu": "hardswish"}
REPLACED = {"silu=hardswish": 1, "silu=relu6": 1, "sigmoid=hardsigmoid": 1}
MODEL = "--model gated:Gated"
TRAIN = f"train {MODEL} --teacher gated:Gated --method kd --pretrain-epochs 1 --teacher-pretrain-epochs 1 --epochs 1"


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, warm_run: Any) -> tuple[Path, str]:
    """A folder with the network's module and a finished run, and what the run said."""
    folder = tmp_path_factory.mktemp("replace")
    (folder / "gated.py").write_text(MODULE)
    done = warm_run(f"{TRAIN} {REPLACE} --out run", folder)
    ok(done)
    return folder, done.err


def test_training_says_what_it_replaced_and_its_files_keep_it(trained: tuple[Path, str]) -> None:
    folder, said = trained
    assert "replaced: silu=hardswish (1), silu=relu6 (1), sigmoid=hardsigmoid (1); networks in full precision" in said
    assert read_config(folder / "run/config.toml")["replace"] == TABLE
    quantization = load_checkpoint(folder / "run/model.pt").quantization
    assert quantization is not None and quantization.replace == TABLE


def test_the_file_is_verified_and_tells_what_was_replaced(trained: tuple[Path, str], warm_run: Any) -> None:
    folder, _ = trained
    line = "replaced: silu=hardswish (1), silu=relu6 (1), sigmoid=hardsigmoid (1)"
    assert line in ok(warm_run(f"export run/model.pt {MODEL} --bits w4a4", folder)).splitlines()
    verify = f"verify run/model.onnx --dataset digits --checkpoint run/model.pt {MODEL} --require-integer"
    assert ok(warm_run(verify, folder)).splitlines()[-1].startswith("VERIFIED ")
    assert read_metadata(onnx.load(folder / "run/model.onnx")).replaced == REPLACED
    for file in (f"run/model.pt {MODEL}", "run/model.onnx"):
        assert json.loads(ok(warm_run(f"inspect {file} --json", folder)))["replaced"] == REPLACED
        assert line in ok(warm_run(f"inspect {file}", folder)).splitlines()


def test_bench_says_what_replacing_gained(trained: tuple[Path, str], warm_run: Any) -> None:
    folder, _ = trained
    ok(warm_run(f"export run/model.pt {MODEL} --output bench.onnx", folder))
    measure = f"bench bench.onnx --rounds 1 --against unreplaced --checkpoint run/model.pt {MODEL}"
    assert ok(warm_run(measure, folder)).startswith("against unreplaced: ")
    ok(warm_run(f"{TRAIN.replace('--method kd', '--method qat')} --out plain", folder))
    ok(warm_run(f"export plain/model.pt {MODEL}", folder))
    done = warm_run(measure.replace("bench.onnx", "plain/model.onnx").replace("run/", "plain/"), folder)
    assert done.code == 2 and "no activation function of plain/model.pt was replaced; compare with fp32" in done.err


def test_a_run_goes_on_with_its_replacements(trained: tuple[Path, str], warm_run: Any, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    before = load_checkpoint(tmp_path / "run/model.pt")
    (tmp_path / "run/model.pt").unlink()
    ok(warm_run("train --out run --resume", tmp_path))
    after = load_checkpoint(tmp_path / "run/model.pt")
    assert after.quantization == before.quantization
    assert all(torch.equal(before.state_dict[name], value) for name, value in after.state_dict.items())


def test_calibration_replaces_and_the_float_accuracy_is_the_networks_own(
    trained: tuple[Path, str], warm_run: Any
) -> None:
    folder, _ = trained
    weights = "run/checkpoints/student-float.pt"
    measured = []
    for replace in ("", REPLACE):
        export = (
            f"export {weights} --output {len(replace)}.onnx --calibrate digits --bits w8a8 {MODEL} {replace} --json"
        )
        measured.append(json.loads(ok(warm_run(export, folder))))
    plain, other = measured
    assert (plain["replaced"], other["replaced"]) == ({}, REPLACED)
    assert plain["calibration"]["float_accuracy"] == other["calibration"]["float_accuracy"]
    verify = f"verify {len(REPLACE)}.onnx --dataset digits --checkpoint {len(REPLACE)}.quantized.pt {MODEL}"
    assert ok(warm_run(verify, folder)).splitlines()[-1].startswith("VERIFIED ")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--replace silu", "'silu'; write OLD=NEW, such as silu=relu6, or 'features.*:silu=relu6'"),
        ("--replace sillu=relu6", "names 'sillu', which is no function that it knows; did you mean 'silu'?"),
        ("--replace silu=relu66", "names 'relu66', which is no function that it knows; did you mean 'relu6'?"),
        ("--replace gelu=relu6", "the network computes no gelu; it has silu (2), sigmoid (1)"),
        ("--replace bdoy.*:silu=relu6", "no silu is in a module of that path; did you mean 'body.2'?"),
        ("--replace silu=silu", "silu=silu changes nothing"),
    ],
)
def test_mistakes_are_one_line(trained: tuple[Path, str], warm_run: Any, options: str, complaint: str) -> None:
    done = warm_run(f"train {MODEL} --method qat {options} --out refused", trained[0])
    assert done.code == 2, done.err
    assert complaint in done.err and len(done.err.strip().splitlines()) == 1
    assert not (trained[0] / "refused").exists()
