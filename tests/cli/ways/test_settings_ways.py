"""Ways out of mistakes in files of settings, in values of settings, and in budgets."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_ways import Line, follow, require_all, runs, writes

TEST = "tests/cli/ways/test_settings_ways.py::test_the_way_out_works"
TRAIN = "train --model plaincnn --method qat --epochs 1 --pretrain-epochs 1 --batch-size 20 --out new"
RUN = f"{TRAIN} --dataset data.npz"
CONFIG = f"{TRAIN} --config c.toml"
OTHER = f"{TRAIN} --config other.toml"
GOOD = "dataset = 'data.npz'\n"
CHOOSE = "export float.pt --calibrate data.npz --calibrate-images 8 --output new.onnx"
TWO = "export new/checkpoints/student-float.pt --model own:Two --calibrate data.npz"
PACKED = f"{CHOOSE} --weights packed"


def config(said: str, wrong: str, right: str = GOOD, *, advice: str = "") -> Line:
    """A file of settings that has to be corrected."""
    return Line(CONFIG, said, CONFIG, advice, before=writes("c.toml", wrong), mend=writes("c.toml", right))


def another(said: str, name: str, content: str) -> Line:
    """A path to what is no file of settings."""
    return Line(f"{TRAIN} --config {name}", said, OTHER, before=writes(name, content), mend=writes("other.toml", GOOD))


WAYS = {
    "a zero byte": config("leave out the zero byte", 'dataset = "data\\u0000.npz"'),
    "too small a number": Line(
        f"{RUN} --lr 0", "it must be a number", f"{RUN} --lr 0.001", advice="above 0 and at most 1000"
    ),
    "too large a number": Line(
        f"{RUN} --first-last-bits 9",
        "it must be a number",
        f"{RUN} --first-last-bits 8",
        advice="at least 2 and at most 8",
    ),
    "a misspelt setting": config(
        "unknown setting", f"{GOOD}epoch = 1", f"{GOOD}epochs = 1", advice="did you mean 'epochs'?"
    ),
    "a setting that there is not": config("unknown setting", f"{GOOD}colour = 'red'", advice="remove it"),
    "no file": Line(f"{TRAIN} --config no.toml", "cannot read the", OTHER, mend=writes("other.toml", GOOD)),
    "a folder": Line(f"{TRAIN} --config run", "cannot read the", f"{RUN} --config run/config.toml"),
    "a large file": another("is larger than a megabyte", "large.toml", "# large\n" * 200_000),
    "a deep file": config("is nested too deep", f"{GOOD}data_dir = {'[' * 5000}"),
    "no TOML": config("is not a TOML file", "dataset: data.npz"),
    "no budget": Line(
        f"{PACKED} --auto-bits small", "is not of the form", f"{PACKED} --auto-bits 'size<=60%'", advice="size<=60%"
    ),
    "a budget in bytes": Line(
        f"{PACKED} --auto-bits size",
        "is not of the form",
        f"{PACKED} --auto-bits 'size<=2MB'",
        advice="write size<=2MB",
    ),
    "a budget in bytes of int8": Line(
        f"{CHOOSE} --auto-bits 'size<=60%'", "saves nothing as int8", f"{PACKED} --auto-bits 'size<=60%'"
    ),
    "a budget of time": Line(
        f"{CHOOSE} --auto-bits 'latency<=2'",
        "does not depend on bits",
        f"{CHOOSE} --auto-bits 'bitops<=1.5G'",
        advice="bitops<=1.5G",
    ),
    "a budget of another kind": Line(
        f"{CHOOSE} --auto-bits 'memory<=2MB'",
        "limits an unknown",
        f"{CHOOSE} --auto-bits 'bitops<=1.5G'",
        advice="bitops<=1.5G",
    ),
    "bytes of operations": Line(
        f"{CHOOSE} --auto-bits 'bitops<=1MB'",
        "has the unit",
        f"{CHOOSE} --auto-bits 'bitops<=15M'",
        advice="choose one of K, k, M, G, T, %",
    ),
    "a share instead of a unit": Line(
        f"{CHOOSE} --auto-bits 'bitops<=50percent'",
        "has the unit",
        f"{CHOOSE} --auto-bits 'bitops<=50%'",
        advice="T, %",
    ),
    "nothing at all": Line(
        f"{CHOOSE} --auto-bits 'bitops<=0'", "allows nothing", f"{CHOOSE} --auto-bits 'bitops<=15M'"
    ),
    "nothing to choose from": Line(
        f"{CHOOSE} --auto-bits 'bitops<=50%' --auto-bits-from w8a8",
        "there is nothing to choose from",
        f"{CHOOSE} --auto-bits 'bitops<=50%' --auto-bits-from w8a8,w4a4",
    ),
    "no layer to choose for": Line(
        f"{CHOOSE} --auto-bits 'bitops<=50%' --bits-for '*=w4a4'",
        "every layer has its bits already",
        f"{CHOOSE} --auto-bits 'bitops<=50%' --bits-for 'features.4=w4a4'",
    ),
    "a first and a last layer": Line(
        f"{TWO} --auto-bits 'bitops<=50%'",
        "every layer has its bits already",
        f"{TWO} --bits w4a4",
        before=runs(f"{RUN} --model own:Two"),
    ),
    "too small a budget": Line(
        f"{CHOOSE} --auto-bits 'bitops<=15%'", "cannot be met", f"{CHOOSE} --auto-bits 'bitops<=30%'"
    ),
    "bits that are too wide for the budget": Line(
        f"{CHOOSE} --auto-bits 'bitops<=15%'",
        "cannot be met",
        f"{CHOOSE} --auto-bits 'bitops<=15%' --auto-bits-from w8a8,w2a2",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)
