"""Damaged labels end in data, in what is left out, or in one sentence; never in anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from box_files import coco_content, voc_text, yolo_rows
from damage import FUZZ, damaged_bytes, damaged_json
from hypothesis import given
from hypothesis import strategies as st

from qkd_deploy.data.sets.detection.boxes import Boxes
from qkd_deploy.data.sets.detection.coco_json import read_coco
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.data.sets.detection.voc_xml import read_voc
from qkd_deploy.data.sets.detection.yolo_labels import read_rows
from qkd_deploy.data.sets.detection.yolo_names import read_yolo
from qkd_deploy.errors import UserError

DATA_YAML = b"path: .\ntrain: images/train\nval: [images/val]\nnc: 2\nnames: {0: cat, 1: 'dog'}\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "labels"


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let pass what is refused as it should be."""
    with suppress(UserError):
        try:
            yield
        except UserError as error:
            assert "\n" not in str(error) and "; " in str(error)
            raise


@FUZZ
@given(data=st.data())
def test_damaged_coco_json(data: st.DataObject, file: Path) -> None:
    content = coco_content("abcde")
    for _ in range(data.draw(st.integers(0, 3))):
        content = damaged_json(data.draw, content)
    whole = json.dumps(content).encode()
    file.write_bytes(damaged_bytes(data.draw, whole) if data.draw(st.booleans()) else whole)
    with one_sentence():
        problems = Problems("coco:x", data.draw(st.booleans()))
        found = read_coco(file, problems)
        boxes = Boxes.of(found.rows)
        assert len(found.names) == len(found.declared)
        assert not len(boxes) or (boxes.image.max() < len(found.names) and boxes.label.max() < len(found.categories))
        assert all(note.isprintable() for note in problems.notes)


@FUZZ
@given(data=st.data())
def test_damaged_yolo_rows(data: st.DataObject, file: Path) -> None:
    file.write_bytes(damaged_bytes(data.draw, "\n".join([*yolo_rows("a"), *yolo_rows("e")]).encode()))
    with one_sentence():
        rows = read_rows(file, 0, "a.txt", Problems("yolo:x", data.draw(st.booleans())))
        assert rows is not None
        assert Boxes.of(list(rows)).corners.shape[1] == 4


@FUZZ
@given(data=st.data())
def test_a_damaged_data_yaml(data: st.DataObject, file: Path) -> None:
    file.write_bytes(damaged_bytes(data.draw, DATA_YAML))
    with one_sentence():
        found = read_yolo(file)
        assert all(isinstance(name, str) for name in found.names)


@FUZZ
@given(data=st.data())
def test_a_damaged_voc_annotation(data: st.DataObject, file: Path) -> None:
    file.write_bytes(damaged_bytes(data.draw, voc_text("a").encode()))
    with one_sentence():
        found = read_voc(file, "a.png", Problems("voc:x", data.draw(st.booleans())))
        assert found is None or all(len(item.corners) == 4 for item in found.objects)
