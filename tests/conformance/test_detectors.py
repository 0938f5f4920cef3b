"""Detectors of ultralytics as they are, where the library is installed: both files, at several batch sizes."""

from __future__ import annotations

from pathlib import Path

import detectors
import hub_models
import pytest

NETWORKS = ("yolov8n", "yolov10n", "yolov8n-seg", "yolo11n-pose")
TRANSPOSED = {"yolov8n-seg": ["Clip", "ConvTranspose"]}
"""Kernels in float: ONNX Runtime has no integer one for the latter, and the former keeps it from being fused."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_is_in_integers_and_the_rest_is_split_off(name: str, tmp_path: Path) -> None:
    networks = hub_models.ultralytics_models()
    if not networks:
        pytest.skip("ultralytics is not installed")
    file = tmp_path / "m.onnx"
    model = detectors.deployed(networks[name], "w8a8", file)
    used, left = detectors.convolutions(model)
    assert used > 60 and left == [] and (tmp_path / "m.decode.onnx").exists()
    for found in detectors.verified(model, file):
        assert found["passed"] and not found["differing"] and found["compared"], found["verdict"]
        assert found["decoded_within"] <= 1e-4
        assert set(found["float_kernels"]) == set(TRANSPOSED.get(name, []))
