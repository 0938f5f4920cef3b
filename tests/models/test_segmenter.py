"""The segmenter: sizes of its logits, its backbones, and the whole way to an exact file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deployment import deploy, float_operations, noise, settle

from qkd_deploy import export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model
from qkd_deploy.tasks.segmentation import SEGMENTATION

SMALL = {"backbone": "resnet10", "backbone_args": {"width": 8}, "width": 8}


@pytest.mark.parametrize(
    ("args", "size", "expected"),
    [
        (SMALL, (32, 64), (8, 16)),
        ({**SMALL, "finest_stride": 8}, (32, 64), (4, 8)),
        (SMALL, (45, 50), (12, 13)),  # 12, 6, 3, 2 rows: maps are cut where they grow
        ({"backbone": "resnet8", "width": 8, "finest_stride": 1}, (9, 12), (9, 12)),
        ({"backbone": "mobilenetv2", "backbone_args": {"width_multiplier": 0.1}, "width": 8}, (64, 32), (16, 8)),
    ],
)
def test_logits_are_at_the_finest_stride(
    args: dict[str, Any], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    network = create_model("segmenter", 5, 3, args).eval()
    logits = network(noise(2, 3, *size))
    assert logits.shape == (2, 5, *expected)
    SEGMENTATION.check_answers(logits, 2, 5, "segmenter")


def test_every_level_of_the_pyramid_counts() -> None:
    network = create_model("segmenter", 5, 1, {**SMALL, "depthwise": False})
    network(noise(2, 1, 32, 32)).square().sum().backward()
    assert [name for name, own in network.named_parameters() if own.grad is None or not own.grad.any()] == []
    assert len(network.laterals) == 4


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_it_is_fully_integer_and_exact_in_a_file(bits: str, tmp_path: Path) -> None:
    network = settle(create_model("segmenter", 5, 3, SMALL))
    images = noise(2, 3, 44, 40)  # rows 11, 6, 3, 2
    prepared = prepare(network, bits, (images,))
    assert prepared.account.floats == ()
    initialize(prepared, images)
    path = tmp_path / "segmenter.onnx"
    export_onnx(prepared.eval(), path)
    report = verify_onnx(path, inputs={prepared.graph.inputs[0]: images.numpy()}, frozen=freeze(prepared))
    assert report.passed, report.verdict
    assert float_operations(deploy(network, (images,), bits).model) == []


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(
        UserError, match="resnet10 makes maps of strides 2, 4, 8, 16, 32, not of 3; give another finest"
    ):
        create_model("segmenter", 5, 3, {**SMALL, "finest_stride": 3})
    create_model("segmenter", 5, 3, {**SMALL, "finest_stride": 16})
    with pytest.raises(UserError, match="the width of a segmenter is 0; give 1 or more"):
        create_model("segmenter", 5, 3, {**SMALL, "width": 0})
    create_model("segmenter", 5, 3, {**SMALL, "width": 1})
