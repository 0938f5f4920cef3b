"""The benchmark programs run and write what their readers expect; nothing here asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from qkd_deploy.sweep.plan import read_plan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_inference_compares_three_models_without_float_kernels(run: Callable[..., str], tmp_path: Path) -> None:
    run("inference.py", "--models", "resnet8", "--rounds", "2", "--json", "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    result = report["results"]["resnet8"]
    assert result["speedup"]["over_fp32"]["median"] > 0 < result["speedup"]["over_quantize_static"]["median"]
    assert result["size_of_fp32"]["packed"] < result["size_of_fp32"]["ours"] < 1
    assert not {"Conv", "FusedConv", "Gemm", "Add"} & result["kernels"]["ours"].keys()
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()


def test_the_sweep_of_the_results_page_is_one() -> None:
    plan = read_plan(BENCHMARKS / "cifar10.toml")
    assert len(plan.entries) == 12 and plan.verify.require_integer
    assert {entry.config.epochs for entry in plan.entries} == {(4,)}


def test_input_pipeline_measures_its_share_of_a_step(run: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--dataset", "digits", "--model", "resnet8", "--batch", "16", "--rounds", "2", "--json", "out.json"]
    run("input_pipeline.py", *arguments, "--threads", "1", "--augmentations", "auto,randaugment")
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["augmentation"] for row in report["results"]] == ["auto", "randaugment"]
    assert all(0 < row["share_percent"]["median"] < 100 for row in report["results"])
    assert report["settings"]["dataset"] == "digits"
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()


def test_forms_of_activation_functions_are_measured_in_the_kernels_they_claim(
    run: Callable[..., str], tmp_path: Path
) -> None:
    run("unary_forms.py", "--shapes", "197x768", "--rounds", "1", "--json", "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["results"]["197x768"]
    kernels = {row["form"]: row["kernels"] for row in rows}
    assert kernels["Q(Sigmoid)"] == ["QLinearSigmoid"] and "Softmax" in kernels["Q(Softmax)"]
    assert "GatherElements" in kernels["table: GatherElements"]
    assert all(row["ns_per_element"] > 0 for row in rows)


def test_replacements_are_measured_against_the_networks_own_functions(run: Callable[..., str], tmp_path: Path) -> None:
    run("replacements.py", "--size", "32", "--rounds", "1", "--json", "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    both = "silu=relu6 (49), sigmoid=hardsigmoid (16)"
    assert list(report["results"]) == ["fp32", "own functions", "silu=hardswish (49)", "silu=relu6 (49)", both]
    assert report["results"]["fp32"]["over_fp32"] == 1
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()
