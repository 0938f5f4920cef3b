"""What ``inspect`` says about the worst cases of integer sums, and about the quantizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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
