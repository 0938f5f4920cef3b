"""The time of every kernel: all of them, with the layers that they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.nn.functional as F
from exported import Network, exported

from qkd_deploy.bench.layers import kernel_times
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.runtimes.limited_run import noise_for
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.profile import node_times
from qkd_deploy.verification.checks.kernels import list_all
from qkd_deploy.verification.runtime import optimized_graph


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    exported(Network(lambda y: y.sigmoid().mean((2, 3)).exp()), path)
    return read_exported(path)


def test_every_node_of_the_built_graph_is_timed_once(file: OnnxFile) -> None:
    feeds = noise_for(OnnxRuntime().session(file.data).inputs, 1)
    times = node_times(file.data, feeds, seconds=0.05)
    assert [(one.name, one.op) for one in times] == [
        (node.name, node.op_type) for node in optimized_graph(file.model).graph.node
    ]
    assert all(0 <= one.seconds < 1 for one in times) and sum(one.seconds for one in times) > 0


def test_kernels_are_those_of_verify_with_their_layers(file: OnnxFile) -> None:
    times = kernel_times(file, seconds=0.05)
    expected = list_all(file.model, optimized_graph(file.model), read_metadata(file.model))
    known = [(kernel.module, kernel.op, "integer" if kernel.integer else "float") for kernel in expected]
    found = [(one.module, one.op, one.arithmetic) for one in times if one.arithmetic != "moves"]
    assert sorted(found) == sorted(known)
    assert ("layer", "QLinearConv", "integer") in found and any(kind == "float" for *_, kind in found)
    assert all("token" not in one.module for one in times), "the runtime's own nodes belong to nobody"


def test_every_step_of_a_layer_norm_computes(tmp_path: Path) -> None:
    exported(Network(lambda y: F.layer_norm(y.flatten(2).transpose(1, 2), (4,)).mean(1)), tmp_path / "model.onnx")
    times = kernel_times(read_exported(tmp_path / "model.onnx"), seconds=0.05)
    found = {one.op: one.arithmetic for one in times}
    assert found["Sqrt"] == found["Div"] == "float" and found["ReduceSum"] != "moves"
    assert {one.op for one in times if one.arithmetic == "moves"} <= {
        *("Cast", "DequantizeLinear", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
    }
