"""A run whose files were damaged or changed goes on to the same bits, which a line says, or is refused in one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors

LINE = "train --dataset data.npz --model plaincnn --method qat --epochs 2 --pretrain-epochs 2 --batch-size 20 --out run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm_run: Any) -> Path:
    """A folder with data.npz and run/, a finished run of two epochs of pre-training and two of its method."""
    folder = tmp_path_factory.mktemp("damaged")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3
    np.savez(folder / "data.npz", x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    done = warm_run(f"{LINE} --threads 0", folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "own"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def drop_lines(path: Path, count: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-count]))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def reseal(run: Path, **entries: Any) -> None:
    """Change entries of the loop's state, as somebody would who computes the digests again."""
    for name in ("last.pt", "previous.pt"):
        content = read_tensors(run / "checkpoints" / name)
        loop = {**content["loop"], **entries}
        content["loop"] = {key: value for key, value in loop.items() if value is not ...}
        save_tensors(run / "checkpoints" / name, content)


def other_pixel(folder: Path) -> None:
    arrays = dict(np.load(folder / "data.npz"))
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(folder / "data.npz", **arrays)


Damage = Callable[[Path], Any]

REPAIRED: dict[str, tuple[Damage, str]] = {
    "a flipped byte": (lambda f: flip(f / "run/checkpoints/last.pt"), "last.pt is damaged"),
    "a short state": (lambda f: cut(f / "run/checkpoints/last.pt", 0.6), "last.pt is damaged"),
    "no last state": (lambda f: (f / "run/checkpoints/last.pt").unlink(), "last.pt does not exist"),
    "a torn line": (lambda f: cut(f / "run/metrics.jsonl", 0.95), "metrics.jsonl lacks lines"),
    "a lost line": (lambda f: drop_lines(f / "run/metrics.jsonl", 1), "metrics.jsonl lacks lines"),
}

REFUSED: dict[str, tuple[Damage, str]] = {
    "no state": (lambda f: [path.unlink() for path in f.glob("run/checkpoints/*s*t.pt")], "start again"),
    "two damaged states": (lambda f: [flip(p) for p in f.glob("run/checkpoints/*.pt")], "put an undamaged copy back"),
    "no starting weights": (lambda f: (f / "run/checkpoints/student-float.pt").unlink(), "student-float.pt is missing"),
    "damaged starting weights": (lambda f: flip(f / "run/checkpoints/student-float.pt"), "student-float.pt is missing"),
    "short starting weights": (
        lambda f: cut(f / "run/checkpoints/student-float.pt", 0.5),
        "student-float.pt is missing",
    ),
    "fewer lines": (lambda f: drop_lines(f / "run/metrics.jsonl", 2), "metrics.jsonl lacks lines of its 4 epochs"),
    "no metrics": (lambda f: (f / "run/metrics.jsonl").unlink(), "metrics.jsonl lacks lines"),
    "another line": (lambda f: change(f / "run/metrics.jsonl", '"epoch": 1', '"epoch": 7'), "has others"),
    "another rate": (
        lambda f: change(f / "run/config.toml", "\nlr = 0.01", "\nlr = 0.02"),
        "config.toml says lr = 0.02",
    ),
    "another seed": (lambda f: change(f / "run/config.toml", "seed = 0", "seed = 1"), "config.toml says seed = 1"),
    "other data": (other_pixel, "the data have changed since the run in run began"),
    "a late epoch": (lambda f: reseal(f / "run", epoch=99), "does not fit the run (ValueError: epoch 99 of 2)"),
    "an early epoch": (lambda f: reseal(f / "run", epoch=-1), "does not fit the run (ValueError: epoch -1 of 2)"),
    "no optimizer": (lambda f: reseal(f / "run", optimizers=...), "does not fit the run (KeyError: 'optimizers')"),
    "an empty optimizer": (lambda f: reseal(f / "run", optimizers={"student": []}), "does not fit the run (ValueError"),
    "another network": (lambda f: reseal(f / "run", networks={"student": {}}), "does not fit the run (RuntimeError"),
    "another stage": (lambda f: reseal(f / "run", stage="kd"), "does not fit the run"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_a_damaged_run_goes_on_from_the_epoch_before(whole: Path, folder: Path, warm_run: Any, name: str) -> None:
    damage, says = REPAIRED[name]
    damage(folder)
    done = warm_run("train --resume --out run", folder)
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "going on from" in line]
    assert says in line and line.endswith("; going on from the epoch before it")
    weights, expected = (load_checkpoint(home / "run/model.pt").state_dict for home in (folder, whole))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert len((folder / "run/metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_is_another_one_is_refused(folder: Path, warm_run: Any, name: str) -> None:
    damage, says = REFUSED[name]
    damage(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = warm_run("train --resume --out run", folder)
    assert done.code == 2 and says in done.err
    assert re.fullmatch(r"(?:(?!Error|Traceback)[^\n]+\n)*Error: [^\n]+\n", done.err), done.err
    assert "start again with another --out" in done.err
    model = folder / "run/model.pt"
    assert model.read_bytes() == before[model]


def test_weights_that_changed_since_are_named(folder: Path, warm_run: Any) -> None:
    start = "run/checkpoints/student-float.pt"
    shutil.copy(folder / start, folder / "net.pt")
    other = f"{LINE.replace('--out run', '--out other')} --init net.pt"
    assert warm_run(other, folder).code == 0
    content = read_tensors(folder / "net.pt")
    content["state_dict"]["features.0.weight"][0] += 1
    save_tensors(folder / "net.pt", content)
    done = warm_run("train --resume --out other", folder)
    assert done.code == 2
    says = "Error: net.pt has changed since the run in other began; put the old file back, or start again with another "
    assert done.err == f"{says}--out\n"


def test_a_run_goes_on_with_the_threads_that_it_began_with(folder: Path, warm_run: Any) -> None:
    for name in ("last.pt", "previous.pt"):
        content = read_tensors(folder / "run/checkpoints" / name)
        content["identity"]["threads"] = 2
        save_tensors(folder / "run/checkpoints" / name, content)
    done = warm_run("train --resume --out run", folder)
    assert done.code == 0, done.err
    assert "going on with 2 threads, as the run began; here torch would take 1" in done.err


def test_a_run_without_its_settings_is_not_overwritten(folder: Path, warm_run: Any) -> None:
    (folder / "run/config.toml").unlink()
    done = warm_run(LINE, folder)
    assert done.code == 2
    assert done.err == "Error: run holds a run without its config.toml; put that back, or choose another --out\n"
    assert warm_run("train --resume --out run", folder).err.startswith("Error: run holds no run to resume")
