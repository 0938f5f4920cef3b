"""Bilinear upsampling by whole factors: a convolution with whole weights, equal in every code everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, deploy, noise
from placement import IMAGES, Small, check
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.lower import lower
from qkd_deploy.graph.ops import OPERATORS
from qkd_deploy.graph.ops.pooling import copies_of_windows, window_weights
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams
from qkd_deploy.graph.trace.trace import trace


def up(factor: Any, **options: Any) -> Small:
    return Small(lambda net, x: F.interpolate(x, scale_factor=factor, mode="bilinear", **options))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, (2, 5), (1, 4)])
def test_every_code_is_equal(factor: Any) -> None:
    deployed = check(up(factor))
    kinds = [node.kind for node in deployed.frozen.graph.nodes]
    assert kinds.count("bilinear") == 1 and "float_op" not in kinds


@pytest.mark.parametrize("bits", ["w8a8", "w2a2"])
def test_it_is_exact_at_all_widths_and_sizes(bits: str) -> None:
    deployed = deploy(up(2).eval(), (IMAGES,), bits)
    assert not assert_same_codes(deployed, (noise(1, *IMAGES.shape[1:], seed=4),), threads=2)


@pytest.mark.parametrize("factors", [(2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (2, 5), (1, 2)])
def test_codes_are_the_rounded_truth(factors: tuple[int, int]) -> None:
    """On one scale before and behind, codes are PyTorch's values in float64, to the nearest even one at ties."""
    grid = QuantParams(2.0**-4, 8, 128, -128, 127)
    codes = torch.randint(-128, 128, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0)).float()
    row, node = OPERATORS["bilinear"], Node("up", "bilinear", quantizer="up")
    frozen: Any = type("Frozen", (), {"grid": lambda self, key: grid})()
    made = row.integers(row, frozen, node, (QuantizedTensor(codes, grid),), {"factors": factors}).codes
    scales = [float(factor) for factor in factors]
    exact = F.interpolate(codes.double(), scale_factor=scales, mode="bilinear")
    if any(factor % 2 and factor > 1 for factor in factors):  # thirds are no floats
        assert float((made - exact).abs().max()) < 0.5 + 1e-9
    else:
        assert torch.equal(made.double(), exact.round())


def test_weights_are_safe_bytes_that_add_up() -> None:
    for factor in range(1, 9):
        weights, copies = window_weights((factor, factor)), copies_of_windows((factor, factor))
        assert weights.min() >= 0 and len({*weights.sum((1, 2)).tolist()}) == 1
        assert -(-weights.max() // copies) <= 64
    assert [copies_of_windows((f, f)) for f in (2, 4, 5, 6, 8)] == [1, 1, 1, 2, 4]


def test_copies_share_large_weights() -> None:
    deployed = deploy(up(8).eval(), (IMAGES,), "w8a8")
    (tensor,) = (t for t in deployed.model.graph.initializer if t.name == "interpolate.weight")
    weight = onnx.numpy_helper.to_array(tensor)
    assert weight.dtype == np.int8 and weight.shape == (64, 4, 2, 2) and weight.max() == 57
    np.testing.assert_array_equal(weight.astype(int).sum(1), window_weights((8, 8)))
    assert not assert_same_codes(deployed, (noise(2, *IMAGES.shape[1:], seed=4),))


class Decoder(nn.Module):
    """Maps of three sizes, brought to one and joined, as a decoder of SegFormer's does; answers at four times that."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 8), (8, 8)))
        self.fuse, self.head = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for layer in self.maps:
            x = torch.relu(layer(x))
            found.append(x)
        size = found[0].shape[2:]
        found = [F.interpolate(y, size=size, mode="bilinear", align_corners=False) for y in found]
        y = self.head(torch.relu(self.fuse(torch.cat(found, 1))))
        return F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False)


def test_maps_of_equal_size_are_left_alone_and_answers_are_a_tail() -> None:
    deployed = deploy(Decoder().eval(), (noise(3, 3, 16, 16),), "w8a8")
    account = deployed.prepared.account
    made = [entry for entry in account.entries if entry.operation == "bilinear"]
    assert [(entry.kernel, entry.tail) for entry in made] == [("QLinearConv", False)] * 2 + [("float", True)]
    assert account.floats == ()
    behind = assert_same_codes(deployed, (noise(2, 3, 16, 16, seed=3),))
    assert behind == {"output"}


OTHERS: tuple[dict[str, Any], ...] = (
    {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    {"size": (9, 12), "mode": "bilinear"},
    {"scale_factor": 2.1, "mode": "bilinear"},  # which doubles the size, but not every pixel
    {"scale_factor": 16, "mode": "bilinear"},
    {"scale_factor": 2, "mode": "bicubic"},
    {"scale_factor": 2, "mode": "bilinear", "antialias": True},
    {"scale_factor": 0.5, "mode": "bilinear"},
)


class Others(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.interpolate(x, **other) for other in OTHERS]


def test_other_upsampling_is_named() -> None:
    network = Others()
    traced = trace(network, (noise(1, 3, 8, 8),))
    lower(network, traced.graph, traced.mode_leaves)
    others = [node for node in traced.graph.nodes if node.kind != "input"]
    assert [node.kind for node in others] == ["float_op"] * len(OTHERS)
    assert {node.reason for node in others} == {
        "only nearest upsampling by whole factors, and bilinear by small ones without aligned corners, runs in integers"
    }


def test_one_file_for_all_sizes(tmp_path: Any) -> None:
    images = noise(2, 3, 16, 16)
    model = qkd.prepare(Decoder().eval(), "w8a8", images)
    qkd.initialize(model, images)
    qkd.export_onnx(model, tmp_path / "m.onnx", dynamic_size=True)
    frozen = qkd.freeze(model)
    for size in ((16, 16), (24, 40)):
        report = qkd.verify_onnx(tmp_path / "m.onnx", inputs=noise(2, 3, *size, seed=1).numpy(), frozen=frozen)
        assert report.passed, report.verdict
