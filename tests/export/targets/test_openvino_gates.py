"""Tensors times a function of themselves, in OpenVINO: every code, whatever its scale, and no table."""

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


class Gates(nn.Module):
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


@pytest.mark.parametrize("function", [nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_gates_give_every_code_without_a_table(function: type[nn.Module], bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = noise(2, 1, 32, 32)
    prepared = prepare(Gates(function), bits, (images[:1],))
    initialize(prepared, images)
    frozen = freeze(prepared)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), ""))
    ramp = torch.linspace(float(images.min()), float(images.max()), 1024).view(1, 1, 32, 32)
    for expected, got in zip(frozen(ramp), TARGET.load(path, 1).run([ramp.numpy()]), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max()))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Gather" not in operators
    assert "Exp" in operators or function is nn.Hardswish
