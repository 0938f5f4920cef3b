"""A detector's bundle holds the file that decodes behind it, which ``check.py`` runs on the model's outputs as well."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_checks import Check, one_line, program_of, rehash
from command_ways import command
from mutations import set_constant
from small_detector import prepared_detector

from qkd_deploy import export_onnx


@pytest.fixture(scope="module")
def handed_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    export_onnx(prepared_detector(normalization="centered"), folder / "m.onnx")
    assert command("handoff m.onnx --out bundle", folder).code == 0
    return folder


@pytest.fixture
def folder(handed_detector: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(handed_detector, tmp_path / "own"))


@pytest.fixture
def check(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    return program_of(folder / "bundle", monkeypatch, capsys)


def test_the_file_comes_along(folder: Path) -> None:
    bundle, decode = folder / "bundle", folder / "m.decode.onnx"
    assert (bundle / decode.name).read_bytes() == decode.read_bytes()
    assert f"`{decode.name}`" in (bundle / "MODEL_CARD.md").read_text()
    assert command("verify bundle", folder).code == 0
    decode.rename(folder / "elsewhere.onnx")
    done = command("handoff m.onnx --out bundle", folder)
    assert done.code == 2 and "which decodes its outputs, but that cannot be read (No such file" in done.err
    (folder / "elsewhere.onnx").rename(decode)
    assert command("handoff m.onnx --out bundle", folder).code == 0


def test_a_renamed_pair_stays_a_pair(folder: Path, check: Check) -> None:
    for suffix in (".onnx", ".decode.onnx"):
        (folder / f"m{suffix}").rename(folder / f"other{suffix}")
    assert command("handoff other.onnx --out bundle", folder).code == 0
    assert (folder / "bundle/other.decode.onnx").exists() and check()[0] == 0


def test_its_values_are_compared(folder: Path, check: Check) -> None:
    code, out, _ = check()
    assert code == 0 and "decoded   noise: " in out and "of their range (allowed: 0.0001)" in out
    bundle = folder / "bundle"
    file = bundle / "m.decode.onnx"
    model = onnx.load(file)
    floats = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    set_constant(model, max(floats), lambda values: values * 1.01 + 0.01)
    file.write_bytes(model.SerializeToString())
    rehash(bundle)
    code, out, _ = check()
    assert code == 1 and out.endswith("FAIL\n") and "files as they were packed" in out
    assert "noise: 0 of " in out  # the codes are right, what is made of them is not
    file.write_bytes(b"something else")
    code, _, err = check()
    assert code == 2
    one_line(err, "ONNX Runtime cannot load", "m.decode.onnx")
    file.unlink()
    code, _, err = check()
    assert code == 2
    one_line(err, "cannot read", "m.decode.onnx: No such file")


def test_decoded_values_may_differ_in_last_bits_alone(folder: Path) -> None:
    apart = runpy.run_path(str(folder / "bundle/check.py"))["apart"]
    values = np.array([0.0, 2.0, -4.0, np.nan], np.float32)
    assert apart(values, values) == 0
    assert apart(values[:3], np.array([0.0, 2.0, -3.0], np.float32)) == 0.25
    zero = np.zeros(1, np.float32)
    for other in (np.nan_to_num(values), values[:3], values.astype(np.float64)):
        assert apart(values, other) == float("inf")
    assert apart(zero, zero + 1) == apart(zero + 1, zero + np.float32(np.inf)) == float("inf")
