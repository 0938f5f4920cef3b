"""The whole file against a fresh export: edits of what a file says of itself, with digests that were made to fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mutations import copy_of
from small_network import CLASSES, images, small_network

from qkd_deploy.data.dataset import ImageDataset, Split
from qkd_deploy.export.metadata import PREFIX, read_metadata, write_metadata
from qkd_deploy.verification.verify import verify_onnx


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    model = small_network()
    entries: dict[str, Any] = {
        "accuracy": {"dataset": "toy", "fingerprint": "ab", "images": 7, "integer": 75.0},
        "classes": list("abcde"),
        "quantizer": "lsq",
        "checkpoint_sha256": "ab" * 32,
    }
    for key, value in entries.items():
        model.metadata_props.add(key=PREFIX + key, value=value if isinstance(value, str) else json.dumps(value))
    write_metadata(model, read_metadata(model))
    return model


def edited(entry: str, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        prop = next(prop for prop in model.metadata_props if prop.key == PREFIX + entry)
        prop.value = json.dumps(change(json.loads(prop.value)))

    return edit


def removed(entry: str) -> Callable[[onnx.ModelProto], None]:
    def remove(model: onnx.ModelProto) -> None:
        kept = [prop for prop in model.metadata_props if prop.key != PREFIX + entry]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    return remove


def other_range(golden: dict[str, Any]) -> dict[str, Any]:
    golden["inputs"][0].update(lo=128, hi=128)
    return golden


def no_codes(golden: dict[str, Any]) -> dict[str, Any]:
    return {**golden, "codes": {}}


def other_quantizer(model: onnx.ModelProto) -> None:
    next(prop for prop in model.metadata_props if prop.key == PREFIX + "quantizer").value = "dorefa"


def other_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 9


def note_on_a_node(model: onnx.ModelProto) -> None:
    model.graph.node[3].metadata_props.add(key="scale", value="1.0")


def other_order(model: onnx.ModelProto) -> None:
    kept = list(reversed(model.graph.initializer))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


EDITS = {
    "accuracy": edited("accuracy", lambda entry: {**entry, "integer": 100.0}),
    "images": edited("accuracy", lambda entry: {**entry, "images": 10_000}),
    "classes": edited("classes", sorted),
    "reversed classes": edited("classes", lambda names: names[::-1]),
    "no accuracy": removed("accuracy"),
    "no golden": removed("golden"),
    "golden range": edited("golden", other_range),
    "golden codes": edited("golden", no_codes),
    "quantizer": other_quantizer,
    "checkpoint": removed("checkpoint_sha256"),
    "ir_version": other_ir_version,
    "note": note_on_a_node,
    "order": other_order,
}


@pytest.mark.parametrize("edit", [name for name in EDITS if name != "classes"])
def test_every_edit_of_what_the_file_says_is_found(edit: str, original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    EDITS[edit](model)
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", inputs=images(3), expected=original, threads=(1,))
    assert report.proven == "FAILED"
    assert {difference.kind for difference in report.identity} & {"metadata", "file"}


def test_an_edit_that_changes_nothing_is_none(original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    EDITS["classes"](model)
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", expected=original, checkpoint="m\n.pt", threads=(1,))
    assert report.verdict.startswith(f"VERIFIED against m\\n.pt: {tmp_path}/model.onnx: ")
    assert (report.as_dict()["proven"], report.as_dict()["checkpoint"]) == ("VERIFIED", "m\n.pt")


def test_another_version_of_the_writer_is_no_difference(original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    next(prop for prop in model.metadata_props if prop.key == PREFIX + "version").value = "0.0.9"
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    assert verify_onnx(tmp_path / "model.onnx", expected=original, threads=(1,)).proven == "VERIFIED"
    EDITS["accuracy"](model)
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    assert "qkd-deploy 0.0.9 wrote it" in verify_onnx(tmp_path / "model.onnx", expected=original).verdict


def test_the_recorded_accuracy_is_compared_where_the_same_images_are_given(tmp_path: Path) -> None:
    """Without a checkpoint, too: the file claims something about data that are at hand."""
    model, pixels = small_network(), images(40, seed=3)
    path = tmp_path / "model.onnx"
    labels = np.arange(40) % CLASSES
    split = Split(torch.from_numpy(pixels), torch.from_numpy(labels))
    data = ImageDataset("toy", split, split, tuple("abcde"))
    onnx.save(model, path)
    reached = verify_onnx(path, data=data, threads=(1,)).accuracy["runtime"]
    assert reached is not None
    for claimed, images_of_it, proven in (
        (reached, 40, "CONSISTENT"),
        (100.0, 40, "FAILED"),
        (100.0, 41, "CONSISTENT"),
    ):
        entry = {"dataset": "toy", "fingerprint": data.fingerprint, "images": images_of_it, "integer": claimed}
        changed = copy_of(model)
        changed.metadata_props.add(key=f"{PREFIX}accuracy", value=json.dumps(entry))
        write_metadata(changed, read_metadata(changed))
        onnx.save(changed, path)
        report = verify_onnx(path, data=data, threads=(1,))
        assert report.proven == proven, report.verdict
    assert "the file claims" not in report.verdict
