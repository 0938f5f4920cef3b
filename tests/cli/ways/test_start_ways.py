"""Ways out of runs that cannot go on as they began: what was changed is put back, or another run is started."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_ways import Line, edits, follow, require_all, runs

from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors

TEST = "tests/cli/ways/test_start_ways.py::test_the_way_out_works"
RESUME = "train --resume --out run"
TRAIN = "train --dataset data.npz --method qat --epochs 1 --pretrain-epochs 1 --batch-size 20"
NEW = f"{TRAIN} --model plaincnn --out new"
SAME = "train --config run/config.toml --out new"
OWN = f"{TRAIN} --init net.pt --model plaincnn"
STATES = ("run/checkpoints/last.pt", "run/checkpoints/previous.pt")


def copied(folder: Path) -> None:
    """A copy of everything, as one keeps it elsewhere."""
    shutil.copytree(folder, folder.with_name("copy"))


def put_back(*names: str) -> Any:
    def put(folder: Path) -> None:
        for name in names:
            shutil.copy(folder.with_name("copy") / name, folder / name)

    return put


def other_pixel(folder: Path) -> None:
    copied(folder)
    arrays = dict(np.load(folder / "data.npz"))
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(folder / "data.npz", **arrays)


def other_weights(folder: Path) -> None:
    """A run of its own weights, which are another network's since."""
    shutil.copy(folder / "float.pt", folder / "net.pt")
    runs(f"{OWN} --out own")(folder)
    copied(folder)
    content = read_tensors(folder / "net.pt")
    content["state_dict"]["features.0.weight"][0] += 1
    save_tensors(folder / "net.pt", content)


def flipped(folder: Path) -> None:
    copied(folder)
    for name in STATES:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 16
        (folder / name).write_bytes(content)


def changed(entry: str, **values: Any) -> Any:
    """Change a part of both states, as it is in the states of other runs and machines."""

    def change(folder: Path) -> None:
        copied(folder)
        for name in STATES:
            content = read_tensors(folder / name)
            content[entry] |= values
            save_tensors(folder / name, content)

    return change


LATE, ELSEWHERE = changed("loop", epoch=99), changed("identity", device="cuda")
AGAIN = {
    "another rate": Line(
        RESUME,
        "says {} = {}, but the run was trained with {}",
        RESUME,
        before=edits("run/config.toml", "\nlr = 0.01", "\nlr = 0.02"),
        mend=edits("run/config.toml", "\nlr = 0.02", "\nlr = 0.01"),
    ),
    "another rate for another run": Line(
        RESUME,
        "says {} = {}, but the run was trained with {}",
        SAME,
        before=edits("run/config.toml", "\nlr = 0.01", "\nlr = 0.02"),
    ),
    "other weights": Line(
        "train --resume --out own",
        "put the old file back",
        "train --resume --out own",
        before=other_weights,
        mend=put_back("net.pt"),
    ),
    "other weights for another run": Line(
        "train --resume --out own", "put the old file back", f"{OWN} --out new", before=other_weights
    ),
    "other data": Line(RESUME, "put the old ones back", RESUME, before=other_pixel, mend=put_back("data.npz")),
    "other data for another run": Line(RESUME, "put the old ones back", SAME, before=other_pixel),
    "a device that is not here": Line(RESUME, "resume it there", SAME, before=ELSEWHERE),
    "two damaged states": Line(
        RESUME, "{}; put an undamaged copy back", RESUME, before=flipped, mend=put_back(STATES[0])
    ),
    "two damaged states, and no copy": Line(RESUME, "{}; put an undamaged copy back", SAME, before=flipped),
    "states that do not fit": Line(RESUME, "does not fit the run", RESUME, before=LATE, mend=put_back(*STATES)),
    "states that do not fit, and no copy": Line(RESUME, "does not fit the run", SAME, before=LATE),
}
WAYS = {
    **{name: replace(way, advice="or start again with another --out") for name, way in AGAIN.items()},
    "colours for grey images": Line(
        f"{TRAIN} --out new --model plaincnn --normalization imagenet",
        "give one mean and one deviation",
        f"{TRAIN} --out new --model plaincnn --normalization 0.5/0.5",
    ),
    **{
        f"a misspelt normalization for {right}": Line(
            f"{NEW} --normalization imagnet",
            "normalization {} is not known",
            f"{NEW} --normalization {right}",
            advice="did you mean 'imagenet'",
        )
        for right in ("half", "centered", "0.485/0.229")
    },
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)
