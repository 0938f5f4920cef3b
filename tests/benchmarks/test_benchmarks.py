"""The benchmark programs run and write what their readers expect; nothing here asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from qkd_deploy.training.config import make_config
from qkd_deploy.training.progress import NoProgress
from qkd_deploy.training.run import train

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(program: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inference_compares_three_models_without_float_kernels(tmp_path: Path) -> None:
    run("inference.py", "--models", "resnet20", "--rounds", "2", "--json", "out.json", folder=tmp_path)
    report = json.loads((tmp_path / "out.json").read_text())
    result = report["results"]["resnet20"]
    assert result["speedup"]["over_fp32"]["median"] > 0 < result["speedup"]["over_quantize_static"]["median"]
    assert result["size_of_fp32"]["packed"] < result["size_of_fp32"]["ours"] < 1
    assert not {"Conv", "FusedConv", "Gemm", "Add"} & result["kernels"]["ours"].keys()
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()


def test_accuracy_counts_only_verified_files(tmp_path: Path) -> None:
    start = {"method": "qat", "epochs": 1, "pretrain_epochs": 2, "threads": 1}
    train(make_config(start), tmp_path / "start", progress=NoProgress())
    weights = tmp_path / "start" / "checkpoints" / "student-float.pt"
    arguments = ["--dataset", "digits", "--model", "resnet8", "--init", str(weights), "--teacher", f"resnet8:{weights}"]
    arguments += ["--epochs", "1", "--methods", "qat,kd", "--bits", "w4a4", "--json", "out.json"]
    table = run("accuracy.py", *arguments, folder=tmp_path)
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["method"] for row in report["results"]] == ["qat", "kd"]
    assert all(row["verified"] and row["differing_codes"] == 0 for row in report["results"])
    assert str(tmp_path) not in json.dumps(report)
    assert len(table.splitlines()) == 2
