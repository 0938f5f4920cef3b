"""Linear layers on tokens: convolutions in the runtime with nothing moved around them, matrix products in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from deployment import assert_same_codes, finish, noise
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.verification.runtime import optimized_graph


def perceptron(rank: int) -> tuple[nn.Module, Tensor]:
    """Three layers on the last dimension of a tensor of that rank."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8), nn.ReLU())
    return layers.eval(), noise(3, *(5, 4, 2)[: rank - 2], 16)


class BatchSecond(nn.Module):
    """Tokens [T, N, C], as PyTorch's transformers have them by default."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x.transpose(0, 1))))
        return torch.relu(x).transpose(0, 1)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_they_run_as_convolutions_without_transpositions(rank: int, bits: str) -> None:
    network, x = perceptron(rank)
    prepared = prepare(network, bits, x)
    initialize(prepared, x)
    deployed = finish(prepared.eval())
    for batch in (1, 3):
        assert not assert_same_codes(deployed, (x[:batch],))
    kernels = Counter(node.op_type for node in optimized_graph(deployed.model).graph.node)
    assert (kernels["QLinearConv"], kernels["QGemm"], kernels["Transpose"]) == (3, 0, 0)
    entries = [entry.kernel for entry in prepared.account.entries if entry.operation == "linear"]
    assert entries == ["QLinearConv"] * 3


def test_matrices_and_float_results_stay_products() -> None:
    network, x = perceptron(2)
    deployed = prepare(network[:-1], "w4a4", x)
    initialize(deployed, x)
    model = finish(deployed.eval())
    assert not assert_same_codes(model, (x,))
    kernels = Counter(node.op_type for node in optimized_graph(model.model).graph.node)
    assert (kernels["QLinearConv"], kernels["QGemm"]) == (0, 3)


def test_the_batch_may_be_any_dimension() -> None:
    torch.manual_seed(0)
    x = noise(3, 5, 16)
    prepared = prepare(BatchSecond().eval(), "w4a4", x)
    initialize(prepared, x)
    deployed = finish(prepared.eval())
    for batch in (1, 2, 3):
        assert not assert_same_codes(deployed, (x[:batch],))


def test_the_float_network_multiplies_matrices(tmp_path: Path) -> None:
    network, x = perceptron(4)
    prepared = prepare(network, "w8a8", x)
    initialize(prepared, x)
    model = build_float_model(prepared.eval())
    assert Counter(node.op_type for node in model.graph.node)["Gemm"] == 3
    assert not {"Conv", "Transpose"} & {node.op_type for node in model.graph.node}
    onnx.save(model, tmp_path / "float.onnx")
    session = ort.InferenceSession(tmp_path / "float.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = network(x).detach().numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
