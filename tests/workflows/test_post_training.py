"""The quantized checkpoint and the ONNX file are written together or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkd_deploy.atomic import all_or_nothing


def write_and_fail(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), all_or_nothing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")
        raise KeyboardInterrupt


def test_a_new_file_and_its_new_folders_are_removed(tmp_path: Path) -> None:
    write_and_fail(tmp_path / "a" / "b" / "file")
    assert not list(tmp_path.iterdir())


def test_an_old_file_gets_its_content_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    write_and_fail(tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_success_leaves_the_new_file(tmp_path: Path) -> None:
    with all_or_nothing(tmp_path / "file"):
        (tmp_path / "file").write_bytes(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
