"""``--float`` from training to VERIFIED: modules by path stay in float, and every file says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from qkd_deploy import create_model
from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.training.config import read_config

TRAIN = "train --model plaincnn --method qat --pretrain-epochs 1 --epochs 1 --bits w4a4"


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.out)


def last_module(model: str) -> str:
    """The path of the network's last layer."""
    return [path for path, module in create_model(model, 10).named_modules() if isinstance(module, torch.nn.Linear)][-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, warm_run: Any) -> Path:
    made = tmp_path_factory.mktemp("float")
    ok(warm_run(f"{TRAIN} --float {last_module('plaincnn')} --out run", made))
    return made


def test_training_keeps_the_module_and_its_files_say_so(folder: Path, warm_run: Any) -> None:
    head = last_module("plaincnn")
    assert read_config(folder / "run/config.toml")["float"] == [head]
    quantization = load_checkpoint(folder / "run/model.pt").quantization
    assert quantization is not None and {p: str(bits) for p, bits in quantization.overrides.items()} == {head: "float"}
    ok(warm_run("export run/model.pt", folder))
    assert head not in {record.name for record in read_metadata(onnx.load(folder / "run/model.onnx")).layers}
    for file in ("run/model.pt", "run/model.onnx"):
        assert head in json.dumps(json.loads(ok(warm_run(f"inspect {file} --json", folder)))), file
    assert "kept in float, as asked" in ok(warm_run("inspect run/model.pt", folder))
    said = ok(warm_run("verify run/model.onnx --dataset digits --checkpoint run/model.pt", folder))
    assert "VERIFIED" in said
    again = warm_run("train --config run/config.toml --out again", folder)
    assert ok(again) and load_checkpoint(folder / "again/model.pt").quantization == quantization


def test_post_training_quantization_keeps_modules_in_float(folder: Path, warm_run: Any) -> None:
    torch.save(create_model("plaincnn", 10, 1).state_dict(), folder / "float.pt")
    head = last_module("plaincnn")
    command = f"export --calibrate digits --bits w8a8 --model plaincnn --calibrate-images 16 --float {head} float.pt"
    ok(warm_run(command, folder))
    quantization = load_checkpoint(folder / "float.quantized.pt").quantization
    assert quantization is not None and list(quantization.overrides) == [head]
    assert "VERIFIED" in ok(warm_run("verify float.onnx --checkpoint float.quantized.pt", folder))


def test_a_pattern_that_matches_nothing_is_one_line(folder: Path, warm_run: Any) -> None:
    done = warm_run(f"{TRAIN} --float nothing --out other", folder)
    assert done.code == 2 and "'nothing' matches no module of the network; " in done.err
    assert not (folder / "other").exists()
    alone = warm_run("export run/model.pt --float fc", folder)
    assert alone.code == 2 and "--float belongs to --calibrate" in alone.err
