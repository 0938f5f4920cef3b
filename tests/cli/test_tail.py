"""``export --tail``, and what ``verify``, ``inspect`` and ``bench`` say of both files."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_detector import CLASSES, PIXELS, prepared_detector

from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.errors import UserError
from qkd_deploy.pixels.normalization import CENTERED

FACTORY = "small_detector:small_detector"


def cli(command: str, *arguments: object) -> Result:
    """Run a command here; ``return_value`` is its exit code where it ends without an exception."""
    run = import_module(f"qkd_deploy.cli.{command}").command
    return CliRunner().invoke(run, [*map(str, arguments)], standalone_mode=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = prepared_detector(normalization="centered")
    names = [str(number) for number in range(CLASSES)]
    path = tmp_path_factory.mktemp("run") / "model.pt"
    saved = Checkpoint(
        state_dict=dict(model.state_dict()),
        model=ModelRecord(FACTORY, CLASSES, 3, [3, PIXELS, PIXELS]),
        dataset=DatasetRecord("boxes", "boxes", "0123456789abcdef", names, CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 97.5, 359),
        quantization=model.settings,
    )
    save_checkpoint(path, saved)
    return path


@pytest.fixture
def exported(checkpoint: Path, tmp_path: Path) -> Path:
    done = cli("export", checkpoint, "--model", FACTORY, "--output", tmp_path / "m.onnx")
    assert done.exception is None and not done.return_value, done.output
    assert f"wrote {tmp_path / 'm.decode.onnx'} (float32, " in done.output.replace("\n", "")
    assert "operations from cat to cat_4" in done.output
    return tmp_path / "m.onnx"


def test_the_pair_is_verified_against_its_checkpoint(checkpoint: Path, exported: Path) -> None:
    done = cli("verify", exported, "--checkpoint", checkpoint, "--model", FACTORY, "--require-integer")
    assert done.exception is None and not done.return_value, done.output
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("VERIFIED") and "every kernel in integers, decoded within " in last


@pytest.mark.parametrize("tail", ["inside", "none"])
def test_other_places_are_verified_too(tail: str, checkpoint: Path, exported: Path) -> None:
    done = cli("export", checkpoint, "--model", FACTORY, "--output", exported, "--tail", tail)
    assert done.exception is None and not done.return_value and not exported.with_name("m.decode.onnx").exists()
    assert ("left to your application: cat, " in done.output) is (tail == "none")
    done = cli("verify", exported, "--checkpoint", checkpoint, "--model", FACTORY)
    assert done.exception is None and not done.return_value and "VERIFIED" in done.output, done.output


def test_a_decode_file_of_another_export_fails(checkpoint: Path, exported: Path) -> None:
    other = exported.with_name("other.onnx")
    done = cli("export", checkpoint, "--model", FACTORY, "--output", other, "--weights", "packed")
    assert done.exception is None and not done.return_value
    other.with_name("other.decode.onnx").replace(exported.with_name("m.decode.onnx"))
    done = cli("verify", exported)
    assert done.return_value == 1 and "does not belong to m.onnx" in done.output.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["verify", "inspect", "bench"])
def test_a_decode_file_alone_is_refused_in_one_line(command: str, exported: Path) -> None:
    done = cli(command, exported.with_name("m.decode.onnx"))
    assert isinstance(done.exception, UserError) and "the decode file of m.onnx" in str(done.exception)


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_crafted_decode_file_is_refused_in_one_line(command: str, exported: Path) -> None:
    exported.with_name("m.decode.onnx").write_bytes(b"\x08\x00")
    done = cli(command, exported)
    assert isinstance(done.exception, UserError) and "\n" not in str(done.exception)
    assert str(done.exception).startswith("the decode file m.decode.onnx: ")


def test_inspect_shows_what_was_cut_off(exported: Path) -> None:
    done = cli("inspect", exported)
    assert "cut off: mean.softmax.softmax (Softmax): it decodes what the integer file gives\n" in done.output
    assert "decode file: m.decode.onnx, " in done.output
    assert "everything in front of the tail computes in integers" in done.output
    decode = json.loads(cli("inspect", exported, "--json").output)["decode"]
    assert decode["file"] == "m.decode.onnx" and {part["module"] for part in decode["parts"]} > {"sigmoid", "cat_4"}
    exported.with_name("m.decode.onnx").unlink()
    assert "m.decode.onnx, which does not lie beside the file" in cli("inspect", exported).output


def test_bench_measures_the_integer_file(exported: Path) -> None:
    done = cli("bench", exported, "--rounds", 1, "--json")
    assert json.loads(done.output)["models"]["integer"]["file_bytes"] == exported.stat().st_size
