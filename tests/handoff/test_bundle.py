"""A bundle holds what it should, comes from a verified file alone, and is written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_ways import Answer, command
from exported import Network, exported
from mutations import set_constant

from qkd_deploy.errors import UserError
from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.handoff.bundle import bundle_files, check_script
from qkd_deploy.handoff.product import product_of
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.workflows.handoff import hand_over


@pytest.fixture
def folder(handed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(handed, tmp_path / "own"))


def handoff(folder: Path, words: str = "model.onnx --out new") -> Answer:
    return command(f"handoff {words} --dataset digits --limit 4 --images 2", folder)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_holds_everything(handed: Path) -> None:
    bundle = handed / "bundle"
    golden = {f"golden/{name}/{kind}_0.npy" for name in ("noise", "images") for kind in ("input", "output", "codes")}
    snippets = {f"snippets/{name}" for name in ("preprocess.py", "preprocess.cpp", "Preprocess.kt", "Preprocess.swift")}
    others = {"model.onnx", "labels.txt", "preprocessing.json", "MODEL_CARD.md", "check.py", "manifest.json"}
    assert files_in(bundle) == golden | snippets | others | {"manifest.sig"}
    assert (bundle / "model.onnx").read_bytes() == (handed / "model.onnx").read_bytes()
    assert (bundle / "labels.txt").read_text().split() == [*"0123456789"]
    described = json.loads((bundle / "preprocessing.json").read_text())
    assert described["normalization"] == {"mean": [128.0], "std": [64.0], "divisor": 1.0}
    assert (described["channels"], described["height"], described["fit"]) == ("grey", 8, "crop")
    card = (bundle / "MODEL_CARD.md").read_text()
    for said in (
        "| licence | Apache-2.0 |",
        "| bits | w4a4 (weights, activations), weights stored as int8 |",
        "| input | `x`: float32 [N, 1, 8, 8] |",
        "| accuracy, when it was trained | 50.00 % on 8 images of digits |",
        "**VERIFIED**",
        "codes differ",
        "% on 16 images of digits",
    ):
        assert said in card, said
    assert str(handed) not in card


def test_golden_outputs_are_those_of_the_runtime(handed: Path) -> None:
    bundle = handed / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    for name, count in (("noise", None), ("images", 3)):
        given, wanted, codes = (np.load(bundle / f"golden/{name}/{k}_0.npy") for k in ("input", "output", "codes"))
        assert count in (None, len(given))
        (got,) = session.run(None, {session.get_inputs()[0].name: given})
        np.testing.assert_array_equal(got, wanted)
        assert manifest["outputs"][0]["scale"] is None and len(np.unique(wanted)) > 9  # sums of codes: logits
        np.testing.assert_array_equal(codes, wanted)


def test_outputs_on_a_grid_become_codes(tmp_path: Path) -> None:
    exported(Network(lambda y: y), tmp_path / "map.onnx")
    assert command("handoff map.onnx --out bundle", tmp_path).code == 0
    (end,) = json.loads((tmp_path / "bundle/manifest.json").read_text())["outputs"]
    codes, wanted = (np.load(tmp_path / f"bundle/golden/noise/{kind}_0.npy") for kind in ("codes", "output"))
    assert codes.dtype == np.int32 and len(np.unique(codes)) > 9
    np.testing.assert_array_equal(codes.astype(np.float32) * np.float32(end["scale"]), wanted)
    call = [sys.executable, str(tmp_path / "bundle/check.py")]
    assert (
        f"noise: 0 of {codes.size} output codes differ" in subprocess.run(call, capture_output=True, text=True).stdout
    )


def test_without_a_checkpoint_the_card_says_consistent(folder: Path) -> None:
    done = handoff(folder)
    assert done.code == 0 and done.out.startswith("CONSISTENT"), done.err
    assert "**CONSISTENT** (the file by itself" in (folder / "new/MODEL_CARD.md").read_text()
    assert not (folder / "new/manifest.sig").exists()


def test_a_model_that_fails_is_not_handed_over(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    name = next(t.name for t in model.graph.initializer if t.name.endswith(".weight"))
    set_constant(model, name, lambda codes: -codes)
    (folder / "bad.onnx").write_bytes(model.SerializeToString(deterministic=True))
    done = handoff(folder, "bad.onnx --out new")
    assert done.code == 1 and "FAILED" in done.out and "nothing was written" in done.err
    assert not (folder / "new").exists()


def test_an_earlier_bundle_is_replaced_and_nothing_else(folder: Path) -> None:
    assert handoff(folder, "pixels.onnx --out bundle").code == 0
    assert (folder / "bundle/pixels.onnx").exists() and not (folder / "bundle/model.onnx").exists()
    (folder / "bundle/notes.txt").write_text("mine")
    done = handoff(folder, "model.onnx --out bundle")
    assert done.code == 2 and "is a bundle in which notes.txt lies, which would be lost" in done.err
    assert (folder / "bundle/notes.txt").read_text() == "mine"
    (folder / "bundle/notes.txt").unlink()
    assert handoff(folder, "model.onnx --out bundle").code == 0


def test_other_places_are_refused(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    done = handoff(folder, "model.onnx --out full")
    assert done.code == 2 and "holds files, and is no bundle that could be replaced" in done.err
    done = handoff(folder, "model.onnx --out model.pt")
    assert done.code == 2 and "it is a file; name a folder with --out" in done.err
    assert handoff(folder, "model.onnx --out another").code == 0


@pytest.mark.parametrize("where", ["a file", "the second move"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_bundle_that_cannot_be_finished_leaves_the_earlier_one(
    error: BaseException, where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (folder / "bundle" / name).read_bytes() for name in files_in(folder / "bundle")}
    wrote, moved = Path.write_bytes, os.replace

    def full(path: Path, data: bytes) -> int:
        if path.name == "labels.txt":
            raise error
        return wrote(path, data)

    def stopped(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            raise error
        moved(source, target)

    with monkeypatch.context() as patch:
        if where == "a file":
            patch.setattr(Path, "write_bytes", full)
        else:
            patch.setattr(os, "replace", stopped)
        with pytest.raises((UserError, KeyboardInterrupt)):
            hand_over(read_exported(folder / "model.onnx"), folder / "bundle")
    assert {name: (folder / "bundle" / name).read_bytes() for name in files_in(folder / "bundle")} == before
    assert not [path for path in folder.iterdir() if path.suffix in (".tmp", ".old")]


def test_options_of_data_belong_to_a_data_set(folder: Path) -> None:
    done = command("handoff model.onnx --out new --limit 4", folder)
    assert done.code == 2 and "belong to a data set; give --dataset too" in done.err
    assert command("handoff model.onnx --out new", folder).code == 0  # the golden noise of the file
    assert not (folder / "new/golden/images").exists()


def test_a_file_without_golden_inputs_asks_for_images(folder: Path) -> None:
    product = product_of(read_exported(folder / "model.onnx"))
    with pytest.raises(UserError, match="no golden inputs that a device could replay; give images, --dataset NAME"):
        bundle_files(product, VerificationReport("model.onnx"), {})
    assert handoff(folder).code == 0


def test_names_cannot_get_into_the_program(handed: Path) -> None:
    product = product_of(read_exported(handed / "model.onnx"))
    text = check_script(replace(product, name='x"""\nraise SystemExit(7)\n"""\\.onnx'))
    assert "\nraise SystemExit(7)" not in text and "raise SystemExit(7)" in text


def test_a_runtime_that_fails_afterwards_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def session(self, *arguments: object, **options: object) -> None:
            raise RuntimeFault("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("qkd_deploy.workflows.handoff.OnnxRuntime", Failing)
        done = command("handoff model.onnx --out new", folder)
    assert done.code == 2 and "ONNX Runtime cannot run model.onnx (out of memory); export it again" in done.err
    assert command("export model.pt --output model.onnx", folder).code == 0
    assert command("handoff model.onnx --out new", folder).code == 0
