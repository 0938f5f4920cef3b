"""Damaged files of every kind, given to every command that reads them.

No traceback, no file that takes over 60 seconds or 4 GB, and VERIFIED only what computes the same. ``make fuzz`` tries
thousands, and says how they ended.
"""

from __future__ import annotations

import io
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli_w
import torch
from damage import ENDS, FUZZ, Draw, damage_a_field, damaged_bytes, damaged_json
from forged import entries, with_digests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qkd_deploy.cli.main import main
from qkd_deploy.errors import UserError
from qkd_deploy.sweep.plan import read_plan
from qkd_deploy.training.config import make_config, read_config
from qkd_deploy.workflows.export import load_trained

LONGEST = 60.0
"""Seconds."""
MOST = 4 * 2**30
"""Bytes of a process."""
TRAINING = {"model": "plaincnn", "method": "qat", "epochs": 1, "pretrain_epochs": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, model.onnx, data.npz and a folder of images."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "config.toml").write_text(tomli_w.dumps(TRAINING), encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pixels, labels=np.arange(40) % 10)
    assert main(["train", *map(str, training(folder, folder / "run"))]) == 0
    (folder / "run" / "model.pt").rename(folder / "model.pt")
    assert main(["export", str(folder / "model.pt")]) == 0
    return folder


class Command:
    """Runs a command and looks at how it ends."""

    def __init__(self, kind: str, capture: pytest.CaptureFixture[str]) -> None:
        self.kind, self._capture = kind, capture

    def __call__(self, *args: str | Path) -> tuple[int, str]:
        """Its exit code, and the last line of its output."""
        self._capture.readouterr()
        started = time.monotonic()
        code = main([*map(str, args)])
        out, err = self._capture.readouterr()
        said = f"{args}: {code}\n{out[-2000:]}\n{err[-2000:]}"
        assert code in (0, 1, 2) and "Traceback" not in out + err, said
        if code == 2:
            assert [line.startswith("Error: ") for line in err.splitlines()][-1:] == [True] and not out, said
        assert time.monotonic() - started < LONGEST, said
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            assert resource.getrusage(who).ru_maxrss * 1024 < MOST, said
        last = out.strip().splitlines()[-1] if out.strip() else ""
        verdict = next((word for word in ("VERIFIED", "CONSISTENT", "FAILED") if last.startswith(word)), "done")
        ENDS[f"{self.kind}: {args[0]}", "refused" if code == 2 else verdict] += 1
        return code, last


def damaged_model(draw: Draw, content: bytes) -> bytes:
    """Bytes of a file with damage to bytes, fields, metadata or numbers, in half of all cases with digests that fit."""
    how = draw(st.sampled_from(["bytes", "fields", "metadata", "numbers"]))
    if how == "bytes":
        return damaged_bytes(draw, content)
    model = onnx.load_from_string(content)
    if how == "fields":
        damage_a_field(draw, model)
    elif how == "metadata":
        prop = draw(st.sampled_from(list(model.metadata_props)))
        prop.value = draw(st.text(max_size=20))
    else:
        tensor = draw(st.sampled_from([tensor for tensor in model.graph.initializer if tensor.raw_data]))
        at = draw(st.integers(0, len(tensor.raw_data) - 1))
        changed = tensor.raw_data[at] ^ draw(st.integers(1, 255))
        tensor.raw_data = tensor.raw_data[:at] + bytes([changed]) + tensor.raw_data[at + 1 :]
    return with_digests(model) if draw(st.booleans()) else model.SerializeToString(deterministic=True)


@FUZZ
@given(data=st.data())
def test_onnx_files(good: Path, capfd: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    content = (good / "model.onnx").read_bytes()
    file, command = good / "damaged.onnx", Command("ONNX file", capfd)
    file.write_bytes(damaged_model(data.draw, content))
    match data.draw(st.sampled_from(["inspect", "verify", "verify", "verify --checkpoint", "bench"])):
        case "inspect":
            command("inspect", file)
        case "bench":
            command("bench", file, "--rounds", "1")
        case "verify":
            command("verify", file)
        case _:
            _, verdict = command("verify", file, "--checkpoint", good / "model.pt")
            if verdict.startswith("VERIFIED"):
                model, original = onnx.load(file), onnx.load_from_string(content)
                assert model.graph.SerializeToString() == original.graph.SerializeToString()
                assert entries(model) == entries(original)


@FUZZ
@given(data=st.data())
def test_checkpoints(good: Path, capfd: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    """Bytes of a sealed file, or entries of one that was made without a seal."""
    file, command = good / "damaged.pt", Command("checkpoint", capfd)
    if data.draw(st.booleans()):
        file.write_bytes(damaged_bytes(data.draw, (good / "model.pt").read_bytes()))
    else:
        content: Any = torch.load(good / "model.pt", weights_only=True)
        del content["sealed"]
        key = data.draw(st.sampled_from([key for key in content if key != "state_dict"]))
        content[key] = damaged_json(data.draw, content[key])
        torch.save(content, file)
    match data.draw(st.sampled_from(["inspect", "export", "verify", "bench", "train"])):
        case "inspect":
            command("inspect", file)
        case "export":
            command("export", file, "--output", good / "other.onnx")
        case "bench":
            command("bench", good / "model.onnx", "--against", "fp32", "--checkpoint", file, "--rounds", "1")
        case "train":
            command("train", "--init", file, *training(good, good / "again"))
        case _:
            _, verdict = command("verify", good / "model.onnx", "--checkpoint", file)
            if verdict.startswith("VERIFIED"):
                same = load_trained(file).build().model.graph.SerializeToString()
                assert same == onnx.load(good / "model.onnx").graph.SerializeToString()


def training(good: Path, out: Path) -> tuple[str | Path, ...]:
    """Arguments of a short training on 20 images, in a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    return "--config", good / "config.toml", "--dataset", "data.npz", "--data-dir", good, "--out", out


@FUZZ
@given(data=st.data())
def test_data(good: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, data: st.DataObject) -> None:
    """An archive of arrays, or one image of a folder."""
    command, source = Command("data", capfd), "data.npz"
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    if data.draw(st.booleans()):
        (folder / "data.npz").write_bytes(damaged_bytes(data.draw, (good / "data.npz").read_bytes()))
    else:
        source = f"imagefolder:{image_folder(data.draw, folder)}"
    given_data = ("--dataset", source, "--data-dir", folder)
    if data.draw(st.booleans()):
        command("verify", good / "model.onnx", *given_data)
    else:
        command("train", *training(good, tmp_path / "run"), *given_data, "--image-size", "8")


def image_folder(draw: Draw, folder: Path) -> Path:
    """Ten classes with two images each in both splits, one of them damaged."""
    image = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image, "PNG")
    for split in ("train", "val"):
        for number in range(10):
            place = folder / split / str(number)
            place.mkdir(parents=True, exist_ok=True)
            for name in ("0.png", "1.png"):
                (place / name).write_bytes(image.getvalue())
    split, number = draw(st.sampled_from(["train", "val"])), draw(st.integers(0, 9))
    (folder / split / str(number) / "0.png").write_bytes(damaged_bytes(draw, image.getvalue()))
    return folder


CONFIGURATIONS: list[tuple[str, Callable[[Path], object], dict[str, Any]]] = [
    ("train", lambda path: make_config(read_config(path)), {**TRAINING, "bits_for": {"fc": "w8a8"}, "float": ["x"]}),
    ("sweep", read_plan, {"settings": TRAINING, "grid": {"seed": [0, 1], "method": ["qat", "kd"], "bits": ["w4a4"]}}),
]
"""Commands, what they read a file with, and a file that is right."""


@FUZZ
@given(data=st.data())
def test_configurations(capfd: pytest.CaptureFixture[str], tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of a file, or one of its values: it is read, or the command refuses it before anything is written."""
    file, command = tmp_path / "config.toml", Command("configuration", capfd)
    name, read, table = data.draw(st.sampled_from(CONFIGURATIONS))
    content = damaged_bytes(data.draw, tomli_w.dumps(table).encode())
    if data.draw(st.booleans()):
        try:
            content = tomli_w.dumps(damaged_json(data.draw, table)).encode()
        except (TypeError, ValueError, AttributeError):  # no TOML at all
            content = b"[[[]]]"
    file.write_bytes(content)
    try:
        read(file)
    except UserError:
        arguments = (file,) if name == "sweep" else ("--config", file)
        assert command(name, *arguments, "--out", tmp_path / "run")[0] == 2
        assert not (tmp_path / "run").exists()
    else:
        ENDS[f"configuration: {name}", "read"] += 1
