"""Trained-like networks through prepare, freeze, export and verify: every side agrees in every code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scales import learned, multiply

from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.data import load_dataset
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.prepare import prepare
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.models import create_model
from qkd_deploy.verification.verify import verify_onnx

DESCRIPTION = {"normalization": {"mean": 128, "std": 64}}


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset("digits")


def prepared_model(bits: str, digits: ImageDataset, seed: int = 0, placement: str = "integer") -> PreparedModel:
    """ResNet-8 with batch statistics of real images and calibrated steps, which are moved a little as training does.

    Steps fresh from initialisation can have round ratios, and round ratios make many exact ties.
    """
    torch.manual_seed(seed)
    network = create_model("resnet8", 10, in_channels=1)
    images = (digits.train.images[:64].float() - 128) / 64
    network.train()
    network(images)
    network.eval()
    prepared = prepare(network, bits, (images[:2],), input_quantization=(1 / 64, 128), placement=placement)
    initialize(prepared, images)
    with torch.no_grad():
        for quantizer in learned(prepared.activations):
            multiply(quantizer, 1 + 0.01 * torch.rand(()).item())
    prepared.eval()
    return prepared


@pytest.mark.parametrize(
    ("bits", "weights", "input_type"),
    [
        ("w8a8", "int8", "float32"),
        ("w4a4", "packed", "uint8"),
        ("w3a3", "int8", "float32"),
        ("w2a2", "packed", "float32"),
    ],
)
def test_every_side_agrees(bits: str, weights: str, input_type: str, digits: ImageDataset, tmp_path: Path) -> None:
    prepared = prepared_model(bits, digits)
    options = {"weights": weights, "input": input_type, "metadata": DESCRIPTION}
    model, _ = build_model(prepared, **options)
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(
        tmp_path / "model.onnx",
        data=digits,
        frozen=freeze(prepared),
        prepared=prepared,
        expected=build_model(prepared, **options)[0],
        require_integer=True,
        tolerance=None,  # an untrained network has many nearly equal logits
    )
    assert report.passed, report.verdict
    assert report.differing_codes == 0 < report.compared_codes
    assert {level.status for level in report.levels} == {"passed"}


@pytest.mark.parametrize(("bits", "placement", "codes"), [("w2a32", "integer", "skipped"), ("w4a4", "paper", "passed")])
def test_models_with_float_operators(
    bits: str, placement: str, codes: str, digits: ImageDataset, tmp_path: Path
) -> None:
    """Weight-only models are compared by outputs, mixed ones by codes within a step; integers cannot be required."""
    prepared = prepared_model(bits, digits, placement=placement)
    model, _ = build_model(prepared, metadata=DESCRIPTION)
    onnx.save(model, tmp_path / "model.onnx")
    sides = {"frozen": freeze(prepared), "prepared": prepared, "expected": model}
    report = verify_onnx(tmp_path / "model.onnx", data=digits, tolerance=None, **sides)
    assert report.passed, report.verdict
    assert {level.name: level.status for level in report.levels}["preview"] == codes
    assert report.float_ops
    assert all(kernel.reason for kernel in report.float_ops)
    assert "integer accuracy" not in report.verdict
    assert not verify_onnx(tmp_path / "model.onnx", data=digits, limit=8, require_integer=True).passed


def test_another_checkpoint_is_noticed(digits: ImageDataset, tmp_path: Path) -> None:
    model, _ = build_model(prepared_model("w4a4", digits), metadata=DESCRIPTION)
    other, _ = build_model(prepared_model("w4a4", digits, seed=1), metadata=DESCRIPTION)
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", expected=other)
    assert not report.passed
    changed = {difference.module for difference in report.identity if difference.kind == "constant"}
    assert {record.module for record in read_metadata(model).layers} <= changed


def test_one_weight_of_a_real_export_is_found_without_digests(digits: ImageDataset, tmp_path: Path) -> None:
    prepared = prepared_model("w4a4", digits)
    model, expected = (build_model(prepared, metadata=DESCRIPTION)[0] for _ in range(2))
    tensor = next(t for t in model.graph.initializer if t.name.endswith(".weight"))
    codes = onnx.numpy_helper.to_array(tensor).copy()
    codes.flat[0] -= np.sign(codes.flat[0]) or 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
    kept = [prop for prop in model.metadata_props if not prop.key.endswith(("digests", "golden"))]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", data=digits, limit=8, expected=expected)
    assert not report.passed
    missing = [f"qkd_deploy.{entry}" for entry in ("golden", "digests")]
    assert [difference.name for difference in report.identity] == [tensor.name, *missing]


def test_models_in_train_mode_are_left_as_they_are(digits: ImageDataset, tmp_path: Path) -> None:
    prepared = prepared_model("w4a4", digits).train()
    prepared.network.get_submodule("bn1").eval()
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    modes = [module.training for module in prepared.modules()]
    onnx.save(build_model(prepared, metadata=DESCRIPTION)[0], tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", frozen=freeze(prepared), prepared=prepared)
    assert report.passed, report.verdict
    assert all(torch.equal(before[name], value) for name, value in prepared.state_dict().items())
    assert [module.training for module in prepared.modules()] == modes
