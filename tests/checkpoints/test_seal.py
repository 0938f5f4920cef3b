"""A sealed file differs from its digest after any change of its bytes."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from qkd_deploy.checkpoints.seal import digests
from qkd_deploy.checkpoints.torch_file import read_tensors, read_torch_file, save_tensors
from qkd_deploy.errors import UserError

CONTENT = {"weights": {"a": torch.arange(300.0), "b": torch.ones(3, 4, dtype=torch.int8)}, "epoch": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "state.pt", CONTENT)
    return tmp_path / "state.pt"


def test_what_was_saved_is_read_and_known_to_be_whole(path: Path) -> None:
    content, known = read_torch_file(path)
    assert known.sealed
    assert torch.equal(content["weights"]["a"], CONTENT["weights"]["a"]) and content["epoch"] == 3  # type: ignore[index]


def test_other_programs_read_sealed_files(path: Path) -> None:
    assert torch.load(path, weights_only=True)["epoch"] == 3
    assert torch.load(path, weights_only=True, mmap=True)["epoch"] == 3
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_files_without_a_seal_are_read_and_known_as_such(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "other.pt")
    assert not read_torch_file(tmp_path / "other.pt").digests.sealed


def test_every_flipped_bit_is_told(path: Path) -> None:
    good = path.read_bytes()
    places = [*random.Random(0).sample(range(len(good)), 150), *range(len(good) - 110, len(good))]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"state\.pt is (damaged|refused)"):
            read_tensors(path)


@pytest.mark.parametrize("change", ["cut", "longer", "resaved", "sealed twice"])
def test_other_changes_are_told(path: Path, change: str) -> None:
    good = path.read_bytes()
    if change == "cut":
        path.write_bytes(good[:-1])
    elif change == "longer":
        path.write_bytes(good + b"\0")
    elif change == "resaved":
        torch.save(torch.load(path, weights_only=True), path)
    else:
        path.write_bytes(good + good[-82:])
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        read_tensors(path)


@pytest.mark.parametrize("length", [0, 1, 81, 82, 83, (1 << 20) - 1, (1 << 20) + 1, (1 << 21) + 90])
def test_files_of_any_length_are_hashed_whole(length: int) -> None:
    content = random.Random(length).randbytes(length)
    assert digests(io.BytesIO(content), "x") == (hashlib.sha256(content).hexdigest(), False)
