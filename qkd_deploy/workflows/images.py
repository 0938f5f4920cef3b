"""Data sets for files: pre-processed as the file says that its network expects it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.pixels.preprocessing import Preprocessing
from qkd_deploy.training.groups import DataSource
from qkd_deploy.training.run_data import dataset_of
from qkd_deploy.verification.on_target import Subject


def images_for_file(subject: OnnxFile | Subject, given: Mapping[str, Any]) -> ImageDataset:
    """Load the data set that options name.

    Args:
        subject: the file that it is for.
        given: the settings by name.

    Raises:
        UserError: it cannot be loaded.
    """
    metadata = read_metadata(subject.model) if isinstance(subject, OnnxFile) else subject.record.described()
    recorded = metadata.preprocessing or {}
    own = {"classes": len(metadata.classes or ()), "input_range": recorded.get("input_range", 0)}
    expected = Preprocessing(**{key: recorded.get(key) for key in ("interpolation", "crop_pct", "fit")})
    return dataset_of(DataSource(**{**own, **given}), expected=expected)
