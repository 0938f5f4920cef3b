"""The commands of an entry say what its settings say."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from qkd_deploy.cli import export, verify
from qkd_deploy.sweep.entry import EntryResult, _export, _verify, finished
from qkd_deploy.sweep.plan import Entry
from qkd_deploy.training.config import make_config
from qkd_deploy.verification.settings import VerifyOptions

FOLDER = Path("runs/s/0123")


def test_verify_sees_the_images_that_training_saw() -> None:
    args = {"names": ["a b", 'c"é'], "options": {"depth": 2, "on": True}, "split": "all"}
    settings = {"dataset": "own:data", "data_dir": "D", "dataset_args": args, "image_size": 32, "model": "own:net"}
    config = make_config({**settings, "workers": 0, "strict": True})
    command = _verify(config, FOLDER, VerifyOptions(tolerance=2.5, require_integer=True), FOLDER / "verify.json")
    given = verify.command.make_context("verify", command[1:]).params
    assert (given["dataset"], str(given["data_dir"]), given["image_size"]) == ("own:data", "D", 32)
    assert (given["workers"], given["strict"], given["model"]) == (0, True, "own:net")
    assert dict(given["dataset_args"]) == args
    assert (given["tolerance"], given["require_integer"], given["file"]) == (2.5, True, FOLDER / "model.onnx")
    assert (given["checkpoint"], given["json_file"]) == (FOLDER / "model.pt", str(FOLDER / "verify.json"))


def test_networks_of_the_user_are_named_again_and_others_are_not() -> None:
    for model, named in (("own:net", "own:net"), ("resnet8", None)):
        command = _export(make_config({"model": model, "bits": "w2a2"}), FOLDER)
        given = export.command.make_context("export", command[1:]).params
        assert (given["model"], given["bits"], given["output"]) == (named, "w2a2", FOLDER / "model.onnx")


@pytest.mark.parametrize(
    ("change", "counts"),
    [({}, True), ({"verified": False}, False), ({"id": "other"}, False), ({"verify": {"tolerance": 9}}, False)],
)
def test_only_what_is_verified_in_the_same_way_is_finished(
    tmp_path: Path, change: dict[str, object], counts: bool
) -> None:
    start = tmp_path / "start.pt"
    entry, options = Entry({}, {}, make_config({"init": str(start)})), VerifyOptions()
    assert finished(entry, tmp_path, options, lambda config: "data") is None
    files = {str(start): b"start", "model.pt": b"model", "model.onnx": b"exported"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    digests = {name: sha256(content).hexdigest() for name, content in files.items()}
    result = EntryResult(entry.id, True, asdict(options), accuracy=90.0, files=digests, fingerprint="data")
    (tmp_path / "result.json").write_text(json.dumps({**asdict(result), **change}))
    assert finished(entry, tmp_path, options, lambda config: "data") == (result if counts else None)
    assert finished(entry, tmp_path, options, lambda config: "other data") is None
    for name, content in files.items():  # made, or trained from, since
        (tmp_path / name).write_bytes(b"another")
        assert finished(entry, tmp_path, options, lambda config: "data") is None
        (tmp_path / name).unlink()
        assert finished(entry, tmp_path, options, lambda config: "data") is None
        (tmp_path / name).write_bytes(content)
    for damaged in ("{", "[]", '{"id": 3}'):
        (tmp_path / "result.json").write_text(damaged)
        assert finished(entry, tmp_path, options, lambda config: "data") is None
