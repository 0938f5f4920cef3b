"""The bounds on integer sums: no input exceeds them, some input reaches them, and overflows are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from deployment import Deployed, deploy, noise, settle
from frozen_sums import frozen_headroom
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from qkd_deploy import UserError, create_model, export_onnx, freeze, initialize, prepare
from qkd_deploy.graph.quantized import QuantizedTensor
from qkd_deploy.verification.overflow.bounds import Headroom, file_headroom, layer_headroom, product_headroom
from qkd_deploy.verification.overflow.code_ranges import StoredCodes
from qkd_deploy.workflows.inspect import inspect_onnx

GRIDS = [StoredCodes(0, 255, 0), StoredCodes(0, 255, 128), StoredCodes(0, 15, 8), StoredCodes(240, 255, 240)]
INT32 = np.iinfo(np.int32)


def within(values: np.ndarray, interval: tuple[int, int]) -> bool:
    return interval[0] <= values.min() and values.max() <= interval[1]


@given(st.data())
def test_random_codes_stay_inside_and_the_worst_ones_reach_the_ends(data: st.DataObject) -> None:
    codes = data.draw(st.sampled_from(GRIDS))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    channels, products = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    weight = rng.integers(-128, 128, (channels, products)).astype(np.int8)
    bias = rng.integers(INT32.min // 2, INT32.max // 2, channels).astype(np.int32)
    found = layer_headroom("layer", weight, bias, codes)
    wide = weight.astype(np.int64)
    x = rng.integers(codes.lo, codes.hi + 1, (200, 1, products))
    x[::2] = np.where(rng.random((100, 1, products)) < 0.2, codes.zero_point, x[::2])  # padding
    sums = ((x - codes.zero_point) * wide).sum(2)
    assert within(sums, found.accumulator) and within(sums + bias, found.total)
    stored = np.cumsum(x[:, :, rng.permutation(products)] * wide[:, rng.permutation(products)], axis=2)
    correction = -codes.zero_point * wide.sum(1)
    assert within(stored, found.running) and within(stored + correction[:, None], found.running)
    top = np.where(weight > 0, codes.hi, codes.lo) - codes.zero_point
    bottom = np.where(weight > 0, codes.lo, codes.hi) - codes.zero_point
    largest, least = (top * wide).sum(1), (bottom * wide).sum(1)
    assert found.accumulator == (least.min(), largest.max())
    assert found.total == ((least + bias).min(), (largest + bias).max())
    assert found.fits == all(INT32.min <= end <= INT32.max for end in (*found.total, *found.running))


@given(st.sampled_from(GRIDS), st.sampled_from(GRIDS), st.integers(1, 30), st.integers(0, 2**32))
def test_products_of_two_activations(left: StoredCodes, right: StoredCodes, products: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(g.lo, g.hi + 1, (300, products)) for g in (left, right))
    found = product_headroom("attention", products, left, right)
    terms = (a - left.zero_point) * (b - right.zero_point)
    assert within(terms.sum(1), found.accumulator)
    pairs = [(p - left.zero_point) * (q - right.zero_point) for p in (left.lo, left.hi) for q in (right.lo, right.hi)]
    assert found.accumulator == (products * min(pairs), products * max(pairs))
    stored = np.cumsum(a * b, axis=1)
    corrections = (
        -left.zero_point * b.sum(1) - right.zero_point * a.sum(1) + products * left.zero_point * (right.zero_point)
    )
    assert within(stored, found.running) and within(stored + corrections[:, None], found.running)


def deployed(name: str, size: int, bits: str, **options: Any) -> Deployed:
    channels = 1 if size == 8 else 3
    return deploy(settle(create_model(name, 10, channels)), (noise(4, channels, size, size),), bits, **options)


@pytest.mark.parametrize(
    ("name", "size", "bits", "options"),
    [
        ("resnet8", 8, "w4a4", {}),
        ("resnet8", 8, "w2a2", {"weights": "packed", "residual": "shared"}),
        ("plaincnn", 32, "w8a8", {"weight_range": "full"}),
    ],
)
def test_frozen_model_and_file_have_the_same_worst_cases(
    name: str, size: int, bits: str, options: dict[str, Any]
) -> None:
    both = deployed(name, size, bits, **options)
    frozen, file = frozen_headroom(both.frozen), file_headroom(both.model)
    assert frozen == file
    assert list(file) == [node.name for node in both.frozen.graph.nodes if node.is_layer]
    assert all(found.fits and found.bits > 8 for found in file.values())


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.conv(x).relu()).flatten(1))  # type: ignore[no-any-return]


def test_poolings_written_as_convolutions_count_too() -> None:
    both = deploy(Pools(), (noise(4, 2, 8, 8),), "w4a4")
    frozen, file = frozen_headroom(both.frozen), file_headroom(both.model)
    assert frozen == file and list(file) == ["conv", "pool", "head"]
    assert file["pool"].accumulator == (0, 4 * 64 * 255)


def test_the_frozen_model_reaches_its_own_bound() -> None:
    both = deploy(Pools(), (noise(4, 2, 8, 8),), "w4a4", first_last_bits=4)
    node = both.frozen.graph.node("conv")
    layer, grid = both.frozen.layer(node), both.frozen.grid(str(node.source))
    worst = torch.where(layer.codes > 0, float(grid.hi), float(grid.lo))  # each channel's own worst image
    sums = layer.accumulate(both.frozen.network.get_submodule("conv"), QuantizedTensor(worst, grid))
    middle = sums[:, :, 1, 1].diagonal()  # where the window meets no padding
    found = frozen_headroom(both.frozen)["conv"]
    assert int(middle.max()) == found.total[1]
    assert int(sums.max()) <= found.total[1] and int(sums.min()) >= found.total[0]


def test_an_overflow_is_refused_when_the_model_is_frozen() -> None:
    network = nn.Sequential(nn.Linear(300_000, 2))
    network[0].weight.data.fill_(1e-6)[:, 0] = 1.0  # all codes but one are zero
    prepared = prepare(network, "w8a8", (noise(1, 300_000),), weight_range="full")
    initialize(prepared, noise(1, 300_000))
    freeze(prepared)
    prepared.network.get_submodule("0").weight.data.fill_(1.0)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="an int32 accumulator could overflow; keep that module in float"):
        freeze(prepared)


def test_sums_of_stored_codes_count_where_the_centered_ones_fit() -> None:
    weight = np.full((1, 70_000), 127, np.int8)
    centered = layer_headroom("fc", weight, None, StoredCodes(240, 255, 240))
    assert centered.accumulator[1] < INT32.max < centered.running[1] and not centered.fits
    assert layer_headroom("fc", weight, None, StoredCodes(0, 15, 0)).fits


def test_the_graph_is_believed_and_not_its_metadata(tmp_path: Path) -> None:
    export_onnx(deployed("resnet8", 8, "w4a4").prepared, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    before = file_headroom(model)["layer1.0.conv2"]
    for node in model.graph.node:  # without its clip, the operand goes up to 255 instead of 15
        if node.op_type == "Clip" and node.name.startswith("layer1.0.conv1/"):
            node.input[2] = ""
    onnx.save(model, tmp_path / "m.onnx")
    after = {found.name: found for found in inspect_onnx(tmp_path / "m.onnx", build=False).sums}["layer1.0.conv2"]
    assert after.accumulator[1] == before.accumulator[1] * 17


def attention(depth: int | str) -> onnx.ModelProto:
    """Two uint8 inputs, dequantized, multiplied and quantized."""
    scale = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["da"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["db"]),
        helper.make_node("Transpose", ["db"], ["dbt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["da", "dbt"], ["p"], name="scores/MatMul"),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", 7, depth]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("q", TensorProto.UINT8, ["batch", 7, 7])]
    return helper.make_model(helper.make_graph(nodes, "attention", inputs, outputs, scale))


def test_products_of_activations_in_a_file() -> None:
    assert file_headroom(attention(16)) == {
        "scores": product_headroom("scores", 16, StoredCodes(0, 255, 128), StoredCodes(0, 255, 128))
    }
    unknown: Headroom = file_headroom(attention("depth"))["scores"]
    assert not unknown.fits  # a depth that only the input tells proves nothing
