"""A checkpoint with one flipped bit is refused by every command; one without a digest is read with a line about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

TRAIN = "train --model plaincnn --epochs 1 --out never"
QUANTIZED = [
    "export flipped.pt --output never.onnx",
    "verify model.onnx --dataset digits --checkpoint flipped.pt",
    "inspect flipped.pt",
    "bench model.onnx --against fp32 --checkpoint flipped.pt",
]
FLOAT = [
    f"{TRAIN} --method qat --init flipped-float.pt",
    f"{TRAIN} --method kd --teacher plaincnn:flipped-float.pt",
    "export flipped-float.pt --bits w8a8 --calibrate digits --output never.onnx",
]


def flip(source: Path, target: Path) -> None:
    """Change the last bit of a weight: nothing but a digest can tell."""
    content = bytearray(source.read_bytes())
    weight = next(value for name, value in state_dict(source).items() if name.endswith("weight"))
    content[content.index(weight.numpy().tobytes())] ^= 1
    target.write_bytes(content)


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def folder(trained: Path) -> Path:
    flip(trained / "model.pt", trained / "flipped.pt")
    flip(trained / "run/checkpoints/student-float.pt", trained / "flipped-float.pt")
    old = torch.load(trained / "model.pt", weights_only=True)
    del old["sealed"]
    torch.save(old, trained / "old.pt")
    return trained


@pytest.mark.parametrize("line", [*QUANTIZED, *FLOAT])
def test_one_flipped_bit_is_refused(folder: Path, warm_run: Any, line: str) -> None:
    done = warm_run(line, folder)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: flipped") and done.err.count("\n") == 1, done.err
    assert "is damaged: its content is not what its digest was made of" in done.err
    assert not (folder / "never").exists() and not (folder / "never.onnx").exists()


@pytest.mark.parametrize(
    "line", ["export old.pt", "verify old.onnx --dataset digits --checkpoint old.pt", "inspect old.pt"]
)
def test_a_checkpoint_without_a_digest_is_read_with_a_line_that_says_so(folder: Path, warm_run: Any, line: str) -> None:
    done = warm_run(line, folder)
    assert done.code == 0, done.err
    assert done.err.count("Warning: old.pt carries no digest") == 1


def test_a_checkpoint_with_its_digest_is_read_without_a_word(folder: Path, warm_run: Any) -> None:
    assert warm_run("inspect model.pt", folder).err == ""
