"""``check.py``: PASS, FAIL or one line, wherever it runs with NumPy and the runtime alone."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_checks import Check, one_line, program_of, rehash
from mutations import set_constant


@pytest.fixture
def bundle(handed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(handed / "bundle", tmp_path / "bundle"))


@pytest.fixture
def check(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    return program_of(bundle, monkeypatch, capsys)


def bare(folder: Path) -> dict[str, str]:
    """An environment in which Python finds NumPy and ONNX Runtime, and nothing else that was installed."""
    folder.mkdir()
    for name in ("numpy", "onnxruntime"):
        package = Path(str(importlib.import_module(name).__file__)).parent
        for path in (package, package.with_name(f"{name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": str(folder)}


def flip_a_weight(file: Path) -> None:
    """Give the largest weight of the last layer the other sign."""
    model = onnx.load(file)
    weights = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")]

    def flipped(codes: np.ndarray) -> np.ndarray:
        at = np.unravel_index(np.abs(codes.astype(np.int64)).argmax(), codes.shape)
        codes[at] = -codes[at]
        return codes

    set_constant(model, weights[-1], flipped)
    file.write_bytes(model.SerializeToString())


def test_a_bare_environment_suffices(bundle: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-S", str(bundle / "check.py"), "--runs", "3"]
    done = subprocess.run(call, env=bare(tmp_path / "bare"), cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "PASS", done.stderr
    assert "golden    images: 0 of 30 outputs differ" in lines and "golden    noise: 0 of 20 outputs differ" in lines
    for label in ("model", "cpu", "bundle", "latency"):
        assert any(line.startswith(label) for line in lines)


def test_a_flipped_weight_fails_by_its_digest_and_by_its_codes(bundle: Path, check: Check) -> None:
    flip_a_weight(bundle / "model.onnx")
    code, out, _ = check()
    assert code == 1 and out.endswith("FAIL\n") and "model.onnx is not the file that was packed" in out
    rehash(bundle)
    code, out, _ = check()
    assert code == 1 and out.endswith("FAIL\n") and "files as they were packed" in out
    assert "images: 0 of" not in out and "steps at most, 0 allowed" in out


def test_missing_and_foreign_models_get_one_line(bundle: Path, check: Check) -> None:
    model = bundle / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    code, _, err = check()
    assert code == 2
    one_line(err, "cannot read", "model.onnx: No such file")
    model.write_text("something else")
    code, _, err = check()
    assert code == 2
    one_line(err, "ONNX Runtime cannot load", "model.onnx")
    other = onnx.ModelProto.FromString(content)
    other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    model.write_bytes(other.SerializeToString())
    code, _, err = check()
    assert code == 2
    one_line(err)
    model.write_bytes(content)
    assert check()[0] == 0


def test_foreign_bundles_get_one_line(bundle: Path, check: Check, tmp_path: Path) -> None:
    for text in ("no json", "[]", '{"format": "qkd-deploy bundle 2"}'):
        (bundle / "manifest.json").write_text(text)
        code, _, err = check()
        assert code == 2
        one_line(err, "is no manifest of a bundle for ONNX Runtime")
    code, _, err = check(tmp_path / "nowhere")
    assert code == 2
    one_line(err, "manifest.json: No such file")


def test_damaged_bundles_get_one_line(bundle: Path, check: Check) -> None:
    """Exit code 1 is for a model that computes something else."""
    array, manifest = bundle / "golden/noise/input_0.npy", bundle / "manifest.json"
    content, text = array.read_bytes(), manifest.read_text()
    for damaged in (b"", content[:40], content[:-4]):
        array.write_bytes(damaged)
        code, _, err = check()
        assert code == 2
        one_line(err, "the arrays golden/noise/input_*.npy cannot be read")
    array.write_bytes(content)
    for old, new in (('"batch": null', '"batch": "many"'), ('"tolerance": 0', '"tolerance": null')):
        assert old in text
        manifest.write_text(text.replace(old, new))
        code, _, err = check()
        assert code == 2
        one_line(err, "nothing could be checked: ")
    manifest.write_text(text)
    assert check()[0] == 0


def test_names_that_lead_out_of_the_bundle_are_refused(bundle: Path, check: Check) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../model.pt"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = check()
    assert code == 2
    one_line(err, "is no manifest of a bundle")


def test_another_signer_fails(handed: Path, bundle: Path, check: Check) -> None:
    code, out, _ = check("--key", handed / "own.pem")
    assert code == 0 and f"signed by the owner of {handed / 'own.pem'}" in out
    code, out, _ = check("--key", handed / "other.pem")
    assert code == 1 and "not signed by the owner" in out and out.endswith("FAIL\n")
    code, _, err = check("--key", handed / "own.key")
    assert code == 2
    one_line(err, "is no public key of ed25519")
    (bundle / "manifest.sig").unlink()
    code, out, _ = check("--key", handed / "own.pem")
    assert code == 1 and "not signed by the owner" in out


def test_other_content_than_was_signed_fails(handed: Path, bundle: Path, check: Check) -> None:
    (bundle / "more.txt").write_text("a stowaway")
    code, out, _ = check("--key", handed / "own.pem")
    assert code == 1 and "more.txt was not packed" in out
    assert check()[0] == 0
    (bundle / "more.txt").unlink()
    flip_a_weight(bundle / "model.onnx")
    rehash(bundle)
    trusted = handed / "bundle/check.py"
    code, out, _ = check(bundle, "--key", handed / "own.pem", program=trusted)
    assert code == 1 and "not signed by the owner" in out
    assert check("--key", handed / "own.pem", program=trusted)[0] == 0  # its own bundle


def test_a_missing_package_is_named(handed: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    code, _, err = check("--key", handed / "own.pem")
    assert code == 2
    one_line(err, "--key needs a package: pip install cryptography")
    assert check()[0] == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = check()
    assert code == 2
    one_line(err, "the runtime is not installed")


def test_outputs_on_no_grid_may_differ_in_last_bits_alone(handed: Path) -> None:
    steps = runpy.run_path(str(handed / "bundle/check.py"))["steps_off"]
    values = np.array([0.0, 1.0, -2.0, np.nan], np.float32)
    assert not steps(values, values * np.float32(1 + 2e-7), None).any()
    assert steps(values, values + np.float32(0.02), None).tolist() == [2, 2, 2, 0]
    assert steps(values, np.array([0, 1, -2, 0], np.float32), None).tolist() == [0, 0, 0, 255]
    codes = np.array([0, 2, -4], np.int32)
    assert steps(codes, np.array([0, 1.5, np.inf], np.float32), 0.5).tolist() == [0, 1, 255]
