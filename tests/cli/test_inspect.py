"""What ``inspect`` says about the worst cases of integer sums, and about the quantizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from qkd_deploy.export.metadata import read_metadata

INT32 = np.iinfo(np.int32)


def overflowing(model: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """The same graph with a bias that leaves the accumulator no room."""
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == f"{layer}.bias")
    values = numpy_helper.to_array(bias).copy()
    values[3] = INT32.max - 100
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return model


def test_a_changed_file_can_overflow_and_the_exit_code_says_so(trained: Path, warm_run: Any, tmp_path: Path) -> None:
    assert "no input can overflow int32: " in warm_run("inspect model.onnx", trained).out
    onnx.save(overflowing(onnx.load(trained / "model.onnx"), "features.4"), tmp_path / "m.onnx")
    done = warm_run("inspect m.onnx", tmp_path)
    assert done.code == 1 and "OVERFLOWS" in done.out
    assert "int32 overflows: features.4 can reach" in done.out and "in channel 3" in done.out
    done = warm_run("inspect m.onnx --json", tmp_path)
    worst = {found["name"]: found["free"] for found in json.loads(done.out)["sums"]}
    assert done.code == 1 and [name for name, free in worst.items() if free < 0] == ["features.4"]


def test_every_integer_layer_has_its_worst_case(trained: Path, warm_run: Any) -> None:
    for file in ("model.pt", "model.onnx"):
        shown = json.loads(warm_run(f"inspect {file} --json", trained).out)
        assert [found["name"] for found in shown["sums"]] == [layer["name"] for layer in shown["layers"]]
        assert all(found["free"] == 31 - found["bits"] > 0 for found in shown["sums"])


def test_the_quantizer_has_a_name_also_in_the_file_but_not_in_older_ones(
    trained: Path, warm_run: Any, tmp_path: Path
) -> None:
    assert json.loads(warm_run("inspect model.pt --json", trained).out)["quantizer"] == "interval"
    assert ", quantizer interval, " in warm_run("inspect model.onnx", trained).out
    model = onnx.load(trained / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "qkd_deploy.quantizer"]
    assert len(kept) == len(model.metadata_props) - 1
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "old.onnx")
    assert read_metadata(model).quantizer == ""
    done = warm_run("inspect old.onnx", tmp_path)
    assert done.code == 0 and "quantizer" not in done.out


@pytest.mark.parametrize(
    ("file", "which", "bits"),
    [("model.pt", "the weights before rounding of a network trained at w4a4", "w4a4"), ("float.pt", "full-", "w2a2")],
)
def test_sensitivity_ranks_layers_and_says_on_which_weights(
    trained: Path, warm_run: Any, tmp_path: Path, file: str, which: str, bits: str
) -> None:
    (tmp_path / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    (tmp_path / "float.pt").write_bytes((trained / "run/checkpoints/student-float.pt").read_bytes())
    line = f"inspect --sensitivity --bits {bits} --limit 64 {file}"
    done = warm_run(f"{line} --json", tmp_path)
    assert done.code == 0, done.err
    assert f"each layer alone at {bits}, on {which}" in done.err
    found = json.loads(done.out)
    assert (found["measure"], found["images"]) == ("cross entropy", 64)
    losses = [layer["loss"] for layer in found["layers"]]
    assert losses == sorted(losses, reverse=True) and len(losses) == 4
    shown = warm_run(line, tmp_path).out
    assert [row for layer in found["layers"] if (row := layer["module"]) not in shown] == []
    assert shown.splitlines()[-1].startswith("cross entropy ") and "on 64 training images" in shown


def test_sensitivity_of_weights_alone_needs_the_network_and_images(
    trained: Path, warm_run: Any, tmp_path: Path
) -> None:
    weights = torch.load(trained / "run/checkpoints/student-float.pt", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "weights.pt")
    done = warm_run("inspect --sensitivity weights.pt --model plaincnn --dataset digits --limit 20 --json", tmp_path)
    assert done.code == 0 and len(json.loads(done.out)["layers"]) == 4
    for line, says in (
        ("weights.pt --model plaincnn", "say on which images to measure"),
        ("weights.pt --dataset digits", "name the network they belong to"),
        ("weights.pt --model plaincnn --dataset digts", "did you mean 'digits'?"),
        ("weights.pt --model plaincnn --dataset digits --bits w9a9", "did you mean 'w8a8'?"),
        ("model.onnx --dataset digits", "needs the checkpoint that it was exported from"),
        ("missing.pt", "missing.pt does not exist"),
    ):
        done = warm_run(f"inspect --sensitivity {line}", tmp_path)
        assert (done.code, done.out) == (2, "") and says in done.err.splitlines()[-1]
    done = warm_run("inspect weights.pt --limit 3", tmp_path)
    assert done.code == 2 and "--limit belongs to --sensitivity; give --sensitivity too" in done.err
