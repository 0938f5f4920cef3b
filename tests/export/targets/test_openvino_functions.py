"""Functions of single elements in OpenVINO: every code, whatever its scale, and a table only where nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deployment import noise
from torch import nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.export.targets.openvino import TARGET
from qkd_deploy.export.targets.target import Form

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'qkd-deploy[openvino]'")

_GAINS = (0.02, 1.0, 4.0, 300.0)
"""From where a sigmoid is a line to where its exponential is no float32."""


class Functions(nn.Module):
    """Functions of the same numbers in several scales."""

    def __init__(self, function: type[nn.Module]) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(1, 2, 1) for _ in _GAINS)
        self.function = function()
        self.last = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in _GAINS)
        for conv, gain in zip(self.first, _GAINS, strict=True):
            conv.weight.data = torch.tensor([gain, -gain]).view(2, 1, 1, 1)
            conv.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(last(self.function(first(x))) for first, last in zip(self.first, self.last, strict=True))


@pytest.mark.parametrize(
    ("function", "bits"),
    [
        (nn.SiLU, "w8a8"),
        (nn.SiLU, "w4a4"),
        (nn.Hardswish, "w8a8"),
        (nn.Hardswish, "w4a4"),
        (nn.GELU, "w8a8"),
        (nn.Sigmoid, "w8a8"),
        (nn.Tanh, "w8a8"),
        (nn.LeakyReLU, "w8a8"),
        (nn.ELU, "w8a8"),
    ],
)
def test_functions_give_every_code(function: type[nn.Module], bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = noise(2, 1, 32, 32)
    prepared = prepare(Functions(function), bits, (images[:1],))
    initialize(prepared, images)
    frozen = freeze(prepared)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), ""))
    ramp = torch.linspace(float(images.min()), float(images.max()), 1024).view(1, 1, 32, 32)
    for expected, got in zip(frozen(ramp), TARGET.load(path, 1).run([ramp.numpy()]), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max()))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("Gather" in operators) == (function is nn.ELU), "a table where an operator would do, or none"
    assert ("Exp" in operators) == (function is nn.SiLU)


class Products(nn.Module):
    """Every token with every other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y @ y.transpose(1, 2)


def test_a_transposition_stands_in_front_of_its_product(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 32, 16)
    prepared = prepare(Products(), "w8a8", (tokens[:1],))
    initialize(prepared, tokens)
    frozen = freeze(prepared)
    assert any(node.kind == "requantize" for node in frozen.graph.nodes)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), ""))
    graph = onnx.load(path).graph
    (transposed,) = (node.output[0] for node in graph.node if node.op_type == "Transpose")
    assert {node.op_type for node in graph.node if transposed in node.input} == {"MatMul"}
    got = TARGET.load(path, 1).run([tokens[:1].numpy()])[0]
    np.testing.assert_allclose(got, frozen(tokens[:1]).numpy(), rtol=0, atol=1e-6 * float(np.abs(got).max()))


@pytest.mark.parametrize("counts_borders", [True, False])
def test_averages_give_every_code(counts_borders: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = noise(2, 3, 32, 32)
    pool = nn.AvgPool2d(3, 2, 1, count_include_pad=counts_borders)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), pool, nn.Conv2d(8, 8, 1))
    prepared = prepare(network, "w8a8", (images[:1],))
    initialize(prepared, images)
    frozen = freeze(prepared)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), ""))
    got = TARGET.load(path, 1).run([images[:1].numpy()])[0]
    np.testing.assert_allclose(got, frozen(images[:1]).numpy(), rtol=0, atol=1e-6 * float(np.abs(got).max()))
