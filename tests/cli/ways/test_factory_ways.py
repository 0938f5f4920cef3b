"""Ways out of mistakes with networks and data that somebody wrote himself."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_ways import Line, edits, follow, renames, require_all, writes

TEST = "tests/cli/ways/test_factory_ways.py::test_the_way_out_works"
TRAIN = "train --dataset data.npz --method qat --epochs 1 --pretrain-epochs 1 --batch-size 20 --out new"
OWN = f"{TRAIN} --model own"
CONFIG = f"{OWN}:deep --config c.toml"
BROKEN = f"{TRAIN} --dataset own:broken --model plaincnn"

WAYS = {
    "a factory that fails": Line(
        BROKEN,
        " failed with {}; ",
        BROKEN,
        before=edits("own.py", "def photos", "def broken():\n    raise OSError\n\n\ndef photos"),
        mend=edits("own.py", "raise OSError", "return photos()"),
        advice="correct that data set factory",
    ),
    "arguments that fail": Line(
        f"{OWN}:deep --model-arg depth=0",
        " failed with {}; ",
        f"{OWN}:deep --model-arg depth=1",
        advice="correct its arguments (depth = 0) or that model factory",
    ),
    "no factory": Line(f"{TRAIN} --model :net", "does not name a factory", f"{OWN}:net"),
    "no module": Line(
        f"{TRAIN} --model won:net",
        "cannot import {} for '{}'",
        f"{OWN}:net",
        advice="check the name and the folder you start from",
    ),
    "a module elsewhere": Line(
        f"{OWN}:net",
        "cannot import {} for '{}'",
        f"{OWN}:net",
        before=renames("own.py", "elsewhere/own.py"),
        mend=renames("elsewhere/own.py", "own.py"),
        advice="check the name and the folder you start from",
    ),
    "nothing of that name": Line(f"{OWN}:nett", "check the part after the colon", f"{OWN}:net"),
    "no function": Line(f"{OWN}:constant", "name a function or class that can be called", f"{OWN}:net"),
    "an unknown argument": Line(
        f"{OWN}:deep --model-arg dpth=1",
        "takes no argument",
        f"{OWN}:deep --model-arg depth=1",
        advice="(did you mean 'depth'?); it takes num_classes, in_channels, depth, day",
    ),
    "an argument for a factory without any": Line(
        f"{TRAIN} --dataset own:photos --dataset-arg size=8 --model plaincnn",
        "takes no argument",
        f"{TRAIN} --dataset own:photos --model plaincnn",
        advice="it takes none: leave the argument out",
    ),
    "an argument that is missing": Line(
        f"{OWN}:wide",
        "cannot be called",
        f"{OWN}:wide --model-arg width=3",
        advice="give the rest as arguments or as defaults",
    ),
    "an argument without a default": Line(
        f"{OWN}:wide",
        "cannot be called",
        f"{OWN}:wide",
        mend=edits("own.py", "in_channels, width)", "in_channels, width=3)"),
        advice="give the rest as arguments or as defaults",
    ),
    "a misspelt network": Line(
        f"{TRAIN} --model plaincn",
        "or package.module:factory",
        f"{TRAIN} --model plaincnn",
        advice="did you mean 'plaincnn'?",
    ),
    "a network without its module": Line(
        f"{TRAIN} --model net", "or package.module:factory", f"{OWN}:net", advice="or package.module:factory"
    ),
    "arguments in no table": Line(
        CONFIG,
        "it must map keywords to values",
        CONFIG,
        before=writes("c.toml", "model_args = 3"),
        mend=writes("c.toml", "model_args = { depth = 3 }"),
    ),
    "an argument that is no word": Line(
        CONFIG,
        "has the key {}; ",
        CONFIG,
        before=writes("c.toml", "model_args = { 3-depth = 3 }"),
        mend=writes("c.toml", "model_args = { depth = 3 }"),
    ),
    "an argument of another kind": Line(
        CONFIG,
        "a factory can be given only",
        CONFIG,
        before=writes("c.toml", "model_args = { day = 2026-01-01 }"),
        mend=writes("c.toml", "model_args = { day = '2026-01-01' }"),
        advice="text, numbers, true or false, lists and tables",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)
