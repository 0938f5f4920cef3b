"""Files of other runtimes are handed over as well, also those of a target that another package registers."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from command_ways import command

from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.registry import target_named, target_names
from qkd_deploy.export.targets.target import Replayed
from qkd_deploy.handoff.bundle import check_script
from qkd_deploy.handoff.product import product_of
from qkd_deploy.workflows.targets import read_subject

OWN = [name for name in target_names()[1:] if name != "qnn"]  # it takes no activations of four bits


@pytest.mark.usefixtures("fake_is_installed")
@pytest.mark.parametrize("target", [*OWN, "fake"])
def test_a_file_is_exported_verified_and_handed_over(
    target: str, handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"m{target_named(target).suffix}"
    assert command(f"export {handed / 'model.pt'} --target {target} --output {file}", tmp_path).code == 0
    data = f"--dataset digits --limit 6 --images 4 --checkpoint {handed / 'model.pt'}"
    done = command(f"handoff {file} --target {target} --out bundle {data}", tmp_path)
    assert done.code == 0 and done.out.startswith("VERIFIED"), done.err
    assert str(handed) not in (tmp_path / "bundle/MODEL_CARD.md").read_text()
    further = {path.name for path in tmp_path.glob("m.*")} - {file.name}
    assert bool(further) == (target == "ort-mobile")
    for name in further:
        assert (tmp_path / "bundle" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert command("verify bundle", tmp_path).code == 0
    program = str(tmp_path / "bundle/check.py")
    monkeypatch.setattr(sys, "argv", [program, "--runs", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(program, run_name="__main__")
    out = capsys.readouterr().out
    assert ended.value.code == 0 and out.endswith("PASS\n") and "images: 0 of 40 outputs differ" in out


@pytest.mark.usefixtures("fake_is_installed")
def test_a_target_that_does_not_say_how_is_named(handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kind = tmp_path / "m.fake", type(target_named("fake"))
    assert command(f"export {handed / 'model.pt'} --target fake --output {file}", tmp_path).code == 0
    subject = read_subject(file)
    assert subject is not None
    assert isinstance(subject.target, Replayed)
    assert "Fake Runtime 0.1" in check_script(product_of(subject))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "check_session", "def load(")
        with pytest.raises(UserError, match=r"check_session of the target fake is no Python .* correct it"):
            check_script(product_of(subject))
    with monkeypatch.context() as patch:
        patch.delattr(kind, "check_session")
        with pytest.raises(UserError, match=r"does not say how check.py is to load its files; give it check_session"):
            product_of(subject)
