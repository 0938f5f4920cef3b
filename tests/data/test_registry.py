"""Names of data sets that stand for code."""

from __future__ import annotations

import pytest

from qkd_deploy.data.registry import is_own_code


@pytest.mark.parametrize("name", ["my.data:photos", "imagefolders:build", "C:data"])
def test_code_is_told_by_its_name(name: str) -> None:
    assert is_own_code(name)


@pytest.mark.parametrize(
    "name", ["digits", "imagefolder:a:b", "masks:x", "coco:x", "yolo:x", "voc:x", "hf:owner/name", "C:data.npz"]
)
def test_files_are_no_code(name: str) -> None:
    assert not is_own_code(name)
