"""Takes a network with steps in float all the way: a step of training, a file, and its verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployment import settle
from placement import assert_trains
from torch import Tensor, nn

from qkd_deploy import export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.graph.prepared import PreparedModel


def go_all_the_way(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path, **options: Any) -> PreparedModel:
    """Prepare, train a step, export and verify, with the checkpoint's own models."""
    settle(model)
    prepared = prepare(model, "w8a8", inputs, **options)
    initialize(prepared, *inputs)
    assert_trains(prepared, model, inputs, idle_steps=100)
    path = folder / "model.onnx"
    export_onnx(prepared.eval(), path)
    arrays = {name: tensor.numpy() for name, tensor in zip(prepared.graph.inputs, inputs, strict=True)}
    report = verify_onnx(path, inputs=arrays, frozen=freeze(prepared), prepared=prepared)
    assert report.passed, report.verdict
    return prepared
