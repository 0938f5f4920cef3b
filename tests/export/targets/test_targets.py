"""Files for other runtimes: written after a run there, verified there, and refused with a reason."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from deployment import deploy, noise
from fake_target import BEHAVIOUR, register
from torch import nn

from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.registry import target_named, target_names
from qkd_deploy.pixels.normalization import CENTERED
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.workflows.export import export_checkpoint
from qkd_deploy.workflows.inspect import inspect_model
from qkd_deploy.workflows.targets import export_to_target, read_subject, verify_subject

FACTORY = "test_targets:small"
TARGETS = ("ort-mobile", "fake")


def small(classes: int = 5, in_channels: int = 3) -> nn.Module:
    layers = [nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


@pytest.fixture(autouse=True)
def _fake_is_installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.setenv("PYTHONPATH", register(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("run") / "model.pt")


def _saved(path: Path) -> Path:
    """A checkpoint of random weights."""
    deployed = deploy(small().eval(), (noise(8, 3, 16, 16),), normalization="centered")
    saved = Checkpoint(
        state_dict=dict(deployed.prepared.state_dict()),
        model=ModelRecord(FACTORY, 5, 3, [3, 16, 16]),
        dataset=DatasetRecord("noise", "noise", "0123456789abcdef", list("abcde"), CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 50.0, 8),
        quantization=deployed.prepared.settings,
    )
    save_checkpoint(path, saved)
    return path


def exported(checkpoint: Path, target: str, folder: Path, **options: str) -> Path:
    file = folder / f"m{target_named(target).suffix}"
    export_to_target(checkpoint, target, file, model=FACTORY, **options)
    return file


def verified(file: Path, checkpoint: Path | None, **options: object) -> tuple[bool, str]:
    subject = read_subject(file)
    assert subject is not None
    report = verify_subject(subject, checkpoint=checkpoint, model=FACTORY if checkpoint else None, **options)
    return report.passed, report.verdict


def cli(command: str, *arguments: object) -> Result:
    run = import_module(f"qkd_deploy.cli.{command}").command
    return CliRunner().invoke(run, [*map(str, arguments)], standalone_mode=False)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["float32", "uint8"])
def test_files_are_exact_and_verified(target: str, form: str, checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, target, tmp_path, input=form)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), np.uint8)
    passed, verdict = verified(file, checkpoint, inputs=pixels, require_integer=True)
    assert passed and verdict.startswith("VERIFIED") and "0 of 35 output codes differ" in verdict, verdict
    assert "every kernel in integers" in verdict
    passed, verdict = verified(file, None)
    assert passed and verdict.startswith("CONSISTENT"), verdict


def test_builders_of_a_reduced_runtime_get_its_operators(checkpoint: Path, tmp_path: Path) -> None:
    done = cli("export", checkpoint, "--target", "ort-mobile", "--model", FACTORY, "--output", tmp_path / "m.ort")
    config = tmp_path / "m.required_operators_and_types.config"
    assert f"wrote {config}" in done.output
    text = config.read_text()
    assert "ai.onnx;21;" in text and "com.microsoft;1;QGemm" in text and "#" not in text


def test_a_registered_target_is_listed_and_taken_by_the_commands(checkpoint: Path, tmp_path: Path) -> None:
    assert target_names() == ("ort", "ort-mobile", "openvino", "litert", "qnn", "fake")
    done = cli("export", checkpoint, "--target", "fake", "--model", FACTORY, "--output", tmp_path / "m.fake")
    assert done.exception is None and not done.return_value, done.output
    assert "ran in Fake Runtime 0.1: 0 of 10 output codes differ on golden inputs" in done.output
    done = cli("verify", tmp_path / "m.fake", "--checkpoint", checkpoint, "--model", FACTORY, "--json", "-")
    assert done.exception is None and not done.return_value, done.output
    report = json.loads(done.stdout)
    assert report["proven"] == "VERIFIED" and report["target"] == "Fake Runtime" and report["steps_off"] == 0
    assert [level["name"] for level in report["levels"]] == ["identity", "golden", "codes", "kernels"]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("abort", "Fake Runtime aborts (signal 6)"),
        ("refuse", "(no kernel for this); nothing was written"),
        ("off by one step", "10 of 10 output codes differ, by one step, where 0 steps are allowed"),
    ],
)
def test_nothing_is_written_where_the_runtime_fails(
    behaviour: str, said: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BEHAVIOUR, behaviour)
    with pytest.raises(UserError) as refused:
        exported(checkpoint, "fake", tmp_path)
    assert said in str(refused.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("behaviour", "level"), [("abort", "codes"), ("off by one step", "golden"), ("float", "kernels")]
)
def test_a_runtime_that_computes_otherwise_fails_verification(
    behaviour: str, level: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(checkpoint, "fake", tmp_path)
    monkeypatch.setenv(BEHAVIOUR, behaviour)
    passed, verdict = verified(file, checkpoint, require_integer=True)
    assert not passed and verdict.startswith(f"FAILED {file}: {level}: "), verdict


def test_a_runtime_that_hangs_is_ended(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported(checkpoint, "fake", tmp_path)
    monkeypatch.setenv(BEHAVIOUR, "hang")
    with TargetProcess(target_named("fake"), file) as running:
        running._seconds = 0.5
        with pytest.raises(RuntimeFault, match="takes longer than"):
            running.run([np.zeros((1, 3, 16, 16), np.float32)])


@pytest.mark.parametrize("target", TARGETS)
def test_changed_files_fail(target: str, checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, target, tmp_path)
    content = file.read_bytes()
    subject = read_subject(file)
    assert subject is not None
    text = subject.record.text.encode()
    rng = np.random.default_rng(0)
    start = content.index(text)
    places = [int(place) for place in rng.choice(len(content), 60) if not start <= place < start + len(text)][:3]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(changed))
        for against in (checkpoint, None):
            try:
                passed, verdict = verified(file, against)
            except (UserError, AssertionError):  # it is no such file any more
                continue
            assert not passed and "identity" in verdict, (place, verdict)


@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_record_is_refused_or_fails(target: str, checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, target, tmp_path)
    content, subject = file.read_bytes(), read_subject(file)
    assert subject is not None
    text = subject.record.text
    file.write_bytes(content.replace(text.encode(), ("!" * len(text)).encode()))
    with pytest.raises(UserError, match=r"what .* says of itself cannot be read.*; export it again"):
        read_subject(file)
    assert read_subject(exported(checkpoint, target, tmp_path)) is not None


def test_a_file_of_another_checkpoint_fails(checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, "ort-mobile", tmp_path)
    _saved(tmp_path / "other.pt")
    passed, verdict = verified(file, tmp_path / "other.pt")
    assert not passed and "identity" in verdict


def _export(checkpoint: Path, *options: object) -> Result:
    return cli("export", checkpoint, "--model", FACTORY, *options)


def _is_refused(done: Result, said: str) -> None:
    assert done.exception is not None and said in str(getattr(done.exception, "message", done.exception)), done.output


def test_the_ways_out_of_the_command_work(checkpoint: Path, tmp_path: Path) -> None:
    right = ("--output", tmp_path / "m.fake")
    _is_refused(_export(checkpoint, "--target", "fkae", *right), "'fkae' is not supported; did you mean 'fake'?")
    for wrong in (("--opset", "13"), ("--dynamic-size",), ("--strict-codes",)):
        said = f"{wrong[0]} is for ONNX files; leave it out with --target fake"
        _is_refused(_export(checkpoint, "--target", "fake", *wrong, *right), said)
    wrong_name = _export(checkpoint, "--target", "fake", "--output", tmp_path / "m.onnx")
    said = f"files for fake end in .fake, by which verify knows them; use --output {tmp_path / 'm.fake'}"
    _is_refused(wrong_name, said)
    packed = ("--target", "ort-mobile", "--output", tmp_path / "m.ort")
    _is_refused(_export(checkpoint, *packed, "--weights", "packed"), "use --weights int8 (weights='int8' in Python)")
    assert _export(checkpoint, "--target", "fake", *right).exception is None
    assert _export(checkpoint, *packed, "--weights", "int8").exception is None


def test_a_missing_runtime_names_its_extra(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = target_named("ort-mobile")
    monkeypatch.setattr(target, "modules", ("no_such_runtime",), raising=False)
    monkeypatch.setattr(target, "extra", "litert", raising=False)
    with pytest.raises(
        UserError, match=r"no module no_such_runtime\); install it with `pip install 'qkd-deploy\[litert\]'`"
    ):
        exported(checkpoint, "ort-mobile", tmp_path)


def test_verify_says_what_a_file_is_for(checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, "fake", tmp_path)
    with pytest.raises(UserError, match="was written for fake, not ort-mobile; use --target fake, or leave it out"):
        read_subject(file, "ort-mobile")
    assert read_subject(file, "fake") is not None and read_subject(file) is not None
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"is no file for fake; give the \.fake file"):
        read_subject(tmp_path / "x.onnx", "fake")
    assert read_subject(tmp_path / "x.onnx") is None


def test_inspect_shows_the_onnx_file_of_the_same_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    file = exported(checkpoint, "ort-mobile", tmp_path)
    with pytest.raises(UserError, match="was written for ort-mobile; give the ONNX file that `qkd-deploy export` wri"):
        inspect_model(file)
    onnx_file = export_checkpoint(checkpoint, tmp_path / "m.onnx", model=FACTORY).path
    assert inspect_model(onnx_file).kind == "onnx"


def test_a_registered_target_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qkd_deploy.targets]\nbroken = no_such_module:TARGET\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="registered as no_such_module:TARGET, cannot be imported"):
        target_named("broken")
    assert "broken" in target_names() and "no_such_module" not in sys.modules
    (info / "entry_points.txt").unlink()  # uninstalled
    with pytest.raises(
        UserError, match="there is no target 'broken'; choose one of ort, ort-mobile, openvino, litert, qnn, fake"
    ):
        target_named("broken")
