"""What others start: the exit codes of ``check.py`` as the system sees them, and a foreign target in all commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_checks import one_line, rehash
from changed_weight import change_a_weight
from fake_target import register

BIN = Path(sys.executable).parent


def ended(*call: object, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run([*map(str, call)], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_exit_codes_of_the_check(handed: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(handed / "bundle", tmp_path / "bundle"))
    call, model = (sys.executable, bundle / "check.py", "--runs", "1"), bundle / "model.onnx"
    code, out, _ = ended(*call, folder=tmp_path)
    assert code == 0 and out.endswith("PASS\n")
    change_a_weight(model)
    rehash(bundle)
    code, out, _ = ended(*call, folder=tmp_path)
    assert code == 1 and out.endswith("FAIL\n") and "files as they were packed" in out
    for change in (lambda: model.write_bytes(b"something else"), model.unlink):
        change()
        code, out, err = ended(*call, folder=tmp_path)
        assert code == 2 and not out
        one_line(err, "model.onnx")


@pytest.mark.slow
def test_a_target_of_another_package_goes_through_every_command(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one file and its entry point are all that there is of it."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", register(tmp_path / "site"))
    program, checkpoint = BIN / "qkd-deploy", handed / "model.pt"
    code, out, err = ended(program, "export", checkpoint, "--target", "fake", "--output", "m.fake", folder=tmp_path)
    assert code == 0 and "ran in Fake Runtime 0.1: 0 of 20 output codes differ" in out, err
    data = ("--dataset", "digits", "--limit", "8", "--checkpoint", checkpoint)
    code, out, err = ended(program, "verify", "m.fake", *data, folder=tmp_path)
    assert code == 0 and out.splitlines()[-1].startswith("VERIFIED") and "in Fake Runtime" in out, err
    code, out, err = ended(program, "handoff", "m.fake", *data, "--out", "bundle", folder=tmp_path)
    assert code == 0 and out.startswith("VERIFIED"), err
    code, out, err = ended(program, "bench", "m.fake", "--rounds", "1", folder=tmp_path)
    assert code == 0 and "Fake Runtime 0.1" in out, err
    code, out, err = ended(sys.executable, "bundle/check.py", "--runs", "1", folder=tmp_path)
    assert code == 0 and out.startswith("model     m.fake in Fake Runtime 0.1") and out.endswith("PASS\n"), err
