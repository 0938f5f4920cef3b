"""What files record of their outputs for golden inputs: small ones whole, of maps some places and a digest of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deployment import deploy, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qkd_deploy as qkd
from qkd_deploy.export.metadata import PREFIX, GoldenOutput, read_metadata
from qkd_deploy.export.metadata.golden import every_nth
from qkd_deploy.verification.findings import Difference

SIZE = 64


@pytest.fixture(scope="module")
def segmenter() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3, 1, 1)]
    return deploy(nn.Sequential(*layers).eval(), (noise(4, 3, SIZE, SIZE),)).prepared


@pytest.fixture
def file(segmenter: nn.Module, tmp_path: Path) -> Path:
    qkd.export_onnx(segmenter, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_map_is_recorded_in_part(file: Path) -> None:
    model = onnx.load(file)
    golden = read_metadata(model).golden
    assert golden is not None
    (output,) = golden.outputs
    assert output.shape == (2, 5, SIZE, SIZE) and output.values.shape[:2] == (2, 5) and output.digest
    assert output.values.size <= 4096 and len(entry(model).value) < 40_000 < 2 * 5 * SIZE * SIZE


def test_every_place_of_it_is_held_to_what_was_recorded(file: Path) -> None:
    assert qkd.verify_onnx(file).passed
    model = onnx.load(file)
    table = json.loads(entry(model).value)
    table["outputs"][0]["digest"] = "0" * 64
    entry(model).value = json.dumps(table)
    onnx.save(model, file)
    found = [difference for difference in qkd.verify_onnx(file).identity if difference.kind == "golden"]
    assert {type(difference) for difference in found} == {Difference}
    assert [difference.message.partition(" gives")[0] for difference in found] == ["the reference", "ONNX Runtime"]


def entry(model: onnx.ModelProto) -> onnx.StringStringEntryProto:
    return next(prop for prop in model.metadata_props if prop.key == PREFIX + "golden")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(1, 3))
def test_what_is_recorded_fits_and_reaches_every_dimension(sizes: list[int], batch: int) -> None:
    shape = (batch, *sizes)
    array = np.broadcast_to(np.float32(1), shape)
    part = array[every_nth(shape)]
    assert part.shape[0] == batch and part.size <= max(4096, batch)
    assert all(kept > 1 or size == 1 or part.size > 600 for kept, size in zip(part.shape, shape, strict=True))


def test_a_value_that_no_place_records_is_told_by_the_digest() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 50, 50)).astype(np.float32)
    recorded = GoldenOutput.of(array)
    other = array.copy()
    other[1, 2, 1, 1] += 1
    np.testing.assert_array_equal(recorded.part_of(other), recorded.values)
    assert recorded.holds(array) and not recorded.holds(other) and not recorded.holds(array[:, :, :-1])
    assert GoldenOutput.of(np.zeros((2, 9000), np.float32)).holds(-np.zeros((2, 9000), np.float32))


def test_small_outputs_are_recorded_whole() -> None:
    array = np.arange(2000.0).reshape(2, 1000)
    recorded = GoldenOutput.of(array)
    assert recorded.values is array and recorded.digest == "" and recorded.part_of(array) is array
