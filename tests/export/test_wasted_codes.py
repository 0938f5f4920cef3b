"""Parts of tensors whose codes say nothing are found, named, and mended by what the warning recommends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import qkd_deploy as qkd
from qkd_deploy.errors import QuantizationWarning
from qkd_deploy.export.information.entropy import kept_information
from qkd_deploy.export.information.wasted_codes import WastedCodes

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Parts(nn.Module):
    """Two convolutions of one body; ``end`` makes the answer of both."""

    def __init__(self, end: Callable[[Parts, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head, self.small, self.after = nn.Conv2d(8, 10, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(14, 6, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.end(self, self.body(x))


def unequal_head(factor: float = 640.0) -> nn.Module:
    """One convolution makes boxes in pixels and scores."""
    network = Parts(lambda net, y: net.head(y)).eval()
    with torch.no_grad():
        network.head.weight[:4] *= factor
    return network


def unequal_join(factor: float = 500.0) -> nn.Module:
    """A convolution reads large and small features, of which the small ones decide."""
    network = Parts(lambda net, y: net.after(torch.cat([net.head(y) * factor, net.small(y)], 1))).eval()
    with torch.no_grad():
        network.after.weight[:, :10] /= 1e4 * factor
    return network


def unequal_last_axis() -> nn.Module:
    """Points and confidences, stacked, and read by a layer."""

    def end(net: Parts, y: Tensor) -> Tensor:
        points, scores = net.small(y).mean((2, 3)), net.head(y).mean((2, 3))[:, :4]
        return F.linear(torch.stack([points * 900, scores], 2), torch.tensor([[1e-6, 1.0], [1e-7, -2.0]]))

    return Parts(end).eval()


def dead_channels() -> nn.Module:
    """Channels that training has left near zero are added to large ones: nobody misses them."""
    network = Parts(lambda net, y: net.after(torch.cat([net.head(y), net.small(y)], 1))).eval()
    with torch.no_grad():
        for parameter in (network.head.weight, network.head.bias):
            parameter[:3] *= 1e-5
    return network


def exported(network: nn.Module, path: Path, bits: str = "w8a8", **settings: object) -> tuple[WastedCodes, ...]:
    prepared = qkd.prepare(network, bits, (IMAGES,), **settings)  # type: ignore[arg-type]
    qkd.calibrate(prepared, [IMAGES])
    return qkd.export_onnx(prepared.eval(), path).wasted


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_small_outputs_beside_large_ones_are_named(tmp_path: Path, bits: str) -> None:
    with pytest.warns(QuantizationWarning, match=r"^head: on its one grid, 6 of 10 channels \(4, 5, 6, 7, 8, 9\) keep"):
        (found,) = exported(unequal_head(), tmp_path / "m.onnx", bits)
    assert (found.tensor, found.module, found.parts, found.axis, found.of) == (
        "head",
        "head",
        (4, 5, 6, 7, 8, 9),
        1,
        10,
    )
    assert found.share == 0 and found.effect > 0.5


def test_the_last_layer_in_float_is_a_way_out(tmp_path: Path) -> None:
    with pytest.warns(QuantizationWarning, match=r"--float 'head'\) or give each part a layer of its own$"):
        assert exported(unequal_head(), tmp_path / "m.onnx")
    assert exported(unequal_head(), tmp_path / "m.onnx", overrides={"head": "float"}) == ()


def test_a_layer_for_each_part_is_a_way_out(tmp_path: Path) -> None:
    whole = unequal_head()
    apart = Parts(lambda net, y: (net.head(y)[:, :4], net.small(y))).eval()
    apart.load_state_dict(whole.state_dict())
    apart.head = nn.Conv2d(8, 4, 1)
    with torch.no_grad():
        apart.head.weight.copy_(whole.head.weight[:4])
    assert exported(apart, tmp_path / "m.onnx") == ()


def test_small_features_that_a_layer_needs_are_named_and_like_sizes_are_a_way_out(tmp_path: Path) -> None:
    with pytest.warns(QuantizationWarning, match="bring its parts to like sizes in the network, by a factor on each$"):
        (found,) = exported(unequal_join(), tmp_path / "m.onnx")
    assert found.tensor == "cat" and found.parts == (10, 11, 12, 13) and found.effect > 0.5
    assert exported(unequal_join(1.0), tmp_path / "m.onnx") == ()


def test_channels_that_nothing_depends_on_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exported(dead_channels(), tmp_path / "m.onnx") == ()
    monkeypatch.setattr("qkd_deploy.export.information.wasted_codes.EFFECT", 0.0)
    with pytest.warns(QuantizationWarning):
        assert {found.parts for found in exported(dead_channels(), tmp_path / "m.onnx")} == {(0, 1, 2)}


def test_parts_along_the_last_axis_are_named(tmp_path: Path) -> None:
    network = unequal_last_axis()
    prepared = qkd.prepare(network, "w8a8", (IMAGES,))
    many = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    qkd.calibrate(prepared, [many])
    path = tmp_path / "m.onnx"
    qkd.export_onnx(prepared.eval(), path)
    report = qkd.verify_onnx(path, inputs=many.numpy())
    assert [(found.axis, found.parts) for found in report.wasted_codes] == [(2, (1,))]
    assert "1 of 2 places of axis 2 (1) keep" in str(report.wasted_codes[0])


def test_verify_warns_and_fails_where_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.warns(QuantizationWarning):
        exported(unequal_head(), path)
    report = qkd.verify_onnx(path, inputs=IMAGES.numpy())
    assert report.passed and [found.tensor for found in report.wasted_codes] == ["head"]
    assert json.loads(report.to_json())["wasted_codes"][0]["parts"] == [4, 5, 6, 7, 8, 9]
    strict = qkd.verify_onnx(path, inputs=IMAGES.numpy(), strict_codes=True)
    assert strict.failed("information") and "FAILED" in strict.verdict and "head: on its one grid" in strict.verdict


@pytest.mark.parametrize("form", [{"weights": "packed"}, {"opset": 13}, {"dynamic_size": True}])
def test_every_form_of_a_file_is_looked_at(tmp_path: Path, form: dict[str, object]) -> None:
    prepared = qkd.prepare(unequal_head(), "w4a4", (IMAGES,))
    qkd.calibrate(prepared, [IMAGES])
    with pytest.warns(QuantizationWarning, match="head: on its one grid"):
        qkd.export_onnx(prepared.eval(), tmp_path / "m.onnx", **form)  # type: ignore[arg-type]
    assert "Where" not in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


@given(st.integers(2, 8), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_a_row_on_a_grid_of_its_own_keeps_everything(bits: int, size: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(3, 200)) * size
    levels = 2**bits
    lowest, highest = values.min(1, keepdims=True), values.max(1, keepdims=True)
    codes = np.rint((values - lowest) / (highest - lowest) * (levels - 1)).astype(np.int64)
    assert kept_information(values, codes, levels).tolist() == [1.0, 1.0, 1.0]


def test_information_is_entropy() -> None:
    """Sixteen values, equally often, are four bits, and their halves one bit; constants and short rows cannot lose."""
    values = np.tile(np.arange(16.0), 4)[None]
    assert kept_information(values, (values > 7).astype(np.int64), 16).tolist() == [0.25]
    assert kept_information(values, np.zeros((1, 64), np.int64), 16).tolist() == [0.0]
    assert kept_information(np.full((1, 64), 3.0), np.zeros((1, 64), np.int64), 16).tolist() == [1.0]
    for odd in (np.inf, np.nan, -np.inf):
        broken = np.where(values == 3, odd, values)
        assert kept_information(broken, np.zeros((1, 64), np.int64), 16).tolist() == [1.0]
    huge = np.where(values > 7, np.float32(3e38), np.float32(-3e38)).astype(np.float32)
    assert kept_information(huge, np.zeros((1, 64), np.int64), 16).tolist() == [0.0]
    assert kept_information(values[:, :31], np.zeros((1, 31), np.int64), 16).tolist() == [1.0]
