"""A decode file is verified with its integer file: it belongs, it was not changed, and both answer as the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from small_detector import CLASSES, images, prepared_detector

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import PREFIX, read_decode_metadata, write_decode_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.report import VerificationReport


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepared_detector()


@pytest.fixture(scope="module")
def frozen(model: PreparedModel) -> FrozenModel:
    return qkd.freeze(model)


@pytest.fixture(scope="module")
def pair(model: PreparedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("pair")
    qkd.export_onnx(model, folder / "m.onnx")
    return (folder / "m.onnx").read_bytes(), (folder / "m.decode.onnx").read_bytes()


@pytest.fixture
def path(pair: tuple[bytes, bytes], tmp_path: Path) -> Path:
    for name, content in zip(("m.onnx", "m.decode.onnx"), pair, strict=True):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "m.onnx"


def verified(path: Path, **options: Any) -> VerificationReport:
    return qkd.verify_onnx(path, threads=(1,), **options)


def level(report: VerificationReport, name: str = "decode") -> Level:
    return next(level for level in report.levels if level.name == name)


def saved(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))


# -- both files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_chain_is_compared_with_the_float_head(
    count: int, path: Path, frozen: FrozenModel, model: PreparedModel
) -> None:
    report = verified(
        path, inputs=images(count, seed=count).numpy(), frozen=frozen, prepared=model, require_integer=True
    )
    assert report.passed and not report.differing_codes and not report.float_ops and not report.tail
    assert report.decode_difference is not None and report.decode_difference <= 1e-4
    assert f"the float head of the frozen model on {count} inputs (allowed: 0.0001)" in level(report).sentences[0]
    assert level(report, "accuracy").sentences[0].endswith("boxes.0, boxes.1, scores.0, scores.1 equal")


def test_without_a_model_the_chain_is_compared_with_what_was_recorded(path: Path) -> None:
    report = verified(path)
    assert report.proven == "CONSISTENT" and level(report).status == "passed"
    assert "the recorded ones" in level(report).sentences[0] and "decoded within" in report.verdict
    assert json.loads(report.to_json())["decode_difference"] == report.decode_difference


def test_against_a_fresh_export_both_files_are_verified(path: Path, frozen: FrozenModel, model: PreparedModel) -> None:
    expected, built = build_model(model, file="m.onnx")
    report = verified(path, frozen=frozen, prepared=model, expected=expected, expected_decode=built.decode)
    assert report.proven == "VERIFIED" and level(report).status == "passed", report.verdict


def test_an_integer_file_alone_is_verified_alone(path: Path, frozen: FrozenModel) -> None:
    path.with_name("m.decode.onnx").unlink()
    report = verified(path, frozen=frozen)
    assert report.passed and level(report).status == "skipped"
    assert level(report).sentences == ("m.decode.onnx does not lie beside the file, which was verified alone",)


def test_what_was_left_out_is_named(model: PreparedModel, frozen: FrozenModel, tmp_path: Path) -> None:
    qkd.export_onnx(model, tmp_path / "m.onnx", tail="none")
    report = verified(tmp_path / "m.onnx", frozen=frozen, prepared=model)
    assert report.passed and level(report).status == "skipped" and "mean.conv" in level(report).sentences[0]


def test_files_that_are_renamed_together_still_belong_together(path: Path, frozen: FrozenModel) -> None:
    other = path.rename(path.with_name("other.onnx"))
    assert level(verified(other, frozen=frozen)).status == "passed"  # by the name in the metadata
    path.with_name("m.decode.onnx").rename(path.with_name("other.decode.onnx"))
    assert level(verified(other, frozen=frozen)).sentences[0].startswith("other.decode.onnx belongs to the file")


def test_a_decode_file_alone_names_the_file_to_give(path: Path) -> None:
    with pytest.raises(UserError, match=r"a float tail .*; give m\.onnx$"):
        verified(path.with_name("m.decode.onnx"))
    assert verified(path).passed


def boxes_are_near(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """1 where all boxes are within a pixel of the targets, and all scores near theirs."""
    decoded, _, scores = outputs
    assert decoded.shape[1:] == targets.shape[1:] and scores.shape[1] == CLASSES
    return ((decoded - targets).abs().amax((1, 2)) < 1).float()


def test_labels_are_judged_on_decoded_outputs(tmp_path: Path) -> None:
    """A metric sees what the network returns, not the maps of the integer file; without the decode file it cannot."""
    model, pixels = prepared_detector(normalization="centered"), images(6, seed=3).mul(255).to(torch.uint8)
    with torch.no_grad():
        targets = model((pixels.float() - 128) / 64)[0]
    targets[4:] += 2
    split = Split(pixels, targets)
    data = ImageDataset("boxes", split, split, ("one",), metric=boxes_are_near, metric_name="near boxes")
    qkd.export_onnx(model, tmp_path / "m.onnx")
    sides = {"frozen": qkd.freeze(model), "prepared": model, "data": data}
    report = verified(tmp_path / "m.onnx", **sides)
    assert report.passed and report.accuracy["runtime"] == report.accuracy["frozen"] == pytest.approx(100 * 4 / 6)
    (tmp_path / "m.decode.onnx").unlink()
    report = verified(tmp_path / "m.onnx", **sides)
    assert report.passed and level(report, "accuracy").status == "skipped"


# -- files that do not belong, or were changed -------------------------------------------------------------------------


def other_export(path: Path) -> None:
    """The decode file of the same network with other weights."""
    qkd.export_onnx(prepared_detector(seed=1), path.with_name("other.onnx"))
    path.with_name("other.decode.onnx").replace(path)


def classifier(path: Path) -> None:
    """A file of ours that decodes nothing."""
    qkd.export_onnx(prepared_detector(), path, tail="inside")


def changed(change: Callable[[onnx.ModelProto], None], *, with_digests: bool) -> Callable[[Path], None]:
    """A change to the file, with digests that fit it or not."""

    def edit(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        metadata = read_decode_metadata(model)
        if with_digests and metadata is not None:
            write_decode_metadata(model, metadata)
        saved(model, path)

    return edit


def other_anchors(model: onnx.ModelProto) -> None:
    """Anchors half a place away."""
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1, 2, 320])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.5), tensor.name))


def other_maps(model: onnx.ModelProto) -> None:
    """Inputs of another name."""
    model.graph.input[0].name = "elsewhere"
    for node in model.graph.node:
        node.input[:] = ["elsewhere" if name == "boxes.0" else name for name in node.input]


def other_values(model: onnx.ModelProto) -> None:
    """Recorded values that the network never gave."""
    metadata = read_decode_metadata(model)
    assert metadata is not None
    entry = next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}golden")
    entry.value = json.dumps(json.loads(entry.value)[::-1])


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "another export": (other_export, "m.decode.onnx does not belong to m.onnx: it decodes another export"),
    "no decode file": (classifier, "m.decode.onnx is no decode file"),
    "other anchors": (changed(other_anchors, with_digests=False), "was changed: constant _tensor_constant"),
    "other anchors, digests": (
        changed(other_anchors, with_digests=True),
        "m.decode.onnx is not the tail that m.onnx was exported with",
    ),
    "other maps": (changed(other_maps, with_digests=True), "m.decode.onnx takes other maps than the file gives"),
    "other values": (changed(other_values, with_digests=True), "an output output_0 that differs from the network's"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_does_not_belong_fails_by_name(case: str, path: Path) -> None:
    change, said = FOREIGN[case]
    change(path.with_name("m.decode.onnx"))
    report = verified(path)
    assert not report.passed and level(report).status == "failed"
    assert any(said in sentence for sentence in level(report).sentences), level(report).sentences
    assert level(report, "codes").status == "passed" and report.verdict.startswith("FAILED")


@pytest.mark.parametrize("case", ["another export", "no decode file", "other anchors, digests", "other maps"])
def test_exported_again_it_belongs(case: str, path: Path, model: PreparedModel) -> None:
    FOREIGN[case][0](path.with_name("m.decode.onnx"))
    assert any("; export again" in sentence for sentence in level(verified(path)).sentences)
    qkd.export_onnx(model, path)
    assert verified(path).passed


def test_a_fresh_export_tells_what_digests_cannot(path: Path, frozen: FrozenModel, model: PreparedModel) -> None:
    """Recorded values that fit their digests, and no longer the checkpoint."""
    expected, built = build_model(model, file="m.onnx")
    decode = path.with_name("m.decode.onnx")

    def shorter(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}tail")
        entry.value = json.dumps(json.loads(entry.value)[1:])

    changed(shorter, with_digests=True)(decode)
    assert verified(path).passed
    report = verified(path, frozen=frozen, expected=expected, expected_decode=built.decode)
    assert level(report).sentences == ("m.decode.onnx was changed: metadata entry tail differs from the checkpoint",)


def test_an_integer_file_that_names_another_tail_fails(path: Path) -> None:
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}decode")
    entry.value = entry.value.replace("m.decode.onnx", "n.decode.onnx")
    saved(model, path)
    assert verified(path).failed("identity")


# -- crafted files -----------------------------------------------------------------------------------------------------


def crafted(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        return model.SerializeToString(deterministic=True)

    return edit


def two_nodes_of_one_name(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[-1])


def a_loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", [], ["endless"], "odd/Loop"))


def entry_of(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == PREFIX + key).value = value

    return change


CRAFTED: dict[str, Callable[[bytes], bytes]] = {
    "damage": lambda content: content[:-9],
    "nothing": lambda content: b"",
    "a second meaning": lambda content: content + b"\x00",
    "two nodes of one name": crafted(two_nodes_of_one_name),
    "a loop": crafted(a_loop),
    "a path": crafted(entry_of("decodes", json.dumps({"file": "../../m.onnx", "sha256": "0" * 64}))),
    "no digest": crafted(entry_of("decodes", json.dumps({"file": "m.onnx", "sha256": "no"}))),
    "no array": crafted(entry_of("golden", json.dumps(["bm8gYXJyYXk="]))),
    "no names": crafted(entry_of("tail", "7")),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_decode_files_are_refused_in_one_line(case: str, path: Path) -> None:
    decode = path.with_name("m.decode.onnx")
    decode.write_bytes(CRAFTED[case](decode.read_bytes()))
    with pytest.raises(UserError, match=r"^the decode file m\.decode\.onnx: ") as refused:
        verified(path)
    assert "\n" not in str(refused.value)
