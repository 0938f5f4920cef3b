"""Ways out of mistakes with sweeps: in their files, and with the folders of their results."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_ways import Line, command, follow, require_all, writes
from filelock import FileLock

from qkd_deploy.cli.main import main
from qkd_deploy.sweep.plan import read_plan
from qkd_deploy.sweep.processes import Processes

TEST = "tests/cli/ways/test_sweep_ways.py::test_the_way_out_works"
SWEEP = "sweep s.toml --out new"
SETTINGS = """
[settings]
dataset = "data.npz"
model = "plaincnn"
init = "float.pt"
batch_size = 20
epochs = 1
"""
CHECKS = "[verify]\ntolerance = 100\n"
QAT = '[grid]\nmethod = ["qat"]\n'
GOOD = SETTINGS + QAT + CHECKS


def sweep(said: str, wrong: str, right: str = GOOD, *, advice: str = "") -> Line:
    """A file that has to be corrected."""
    return Line(SWEEP, said, SWEEP, advice, before=writes("s.toml", wrong), mend=writes("s.toml", right))


WAYS = {
    "a misspelt table": sweep(
        "a sweep has the tables", GOOD.replace("[settings]", "[setings]"), advice="did you mean 'settings'?"
    ),
    "settings in no table": sweep(
        "a sweep has the tables", GOOD.replace("[settings]", ""), advice="the tables settings, grid, verify"
    ),
    "a value instead of a list": sweep(
        "give a list of values",
        SETTINGS + "method = 'qat'\n[grid]\nseed = 0\n" + CHECKS,
        SETTINGS + "method = 'qat'\n[grid]\nseed = [0, 1]\n" + CHECKS,
    ),
    "a misspelt axis": sweep("an axis of that name needs tables", GOOD.replace("method =", "metod =")),
    "an axis without tables": sweep(
        "an axis of that name needs tables",
        GOOD.replace('method = ["qat"]', 'kind = ["qat"]'),
        GOOD.replace('method = ["qat"]', 'kind = [{ method = "qat", lr = 0.1 }]'),
    ),
    "a misspelt setting": sweep("; correct it", GOOD.replace("epochs =", "epoch =")),
    "a setting in two places": sweep("; leave it in one of them", GOOD.replace("epochs =", 'method = "qat"\nepochs =')),
    "the same run twice": sweep("are the same run", GOOD.replace('["qat"]', '["qat", "qat"]')),
    "a misspelt check": sweep(
        "of verify{}; it has", GOOD.replace("tolerance", "tolerence"), advice="did you mean 'tolerance'?"
    ),
    "a folder that cannot be": Line(
        "sweep s.toml --out data.npz/new", "cannot write in", SWEEP, before=writes("s.toml", GOOD)
    ),
}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands of a sweep here: that they are processes is shown elsewhere, and takes seconds for each."""

    def run(self: Processes, arguments: list[str], log: Path, *, answer: Path | None = None) -> None:
        assert main(arguments) == 0

    monkeypatch.setattr(Processes, "run", run)


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)
    assert "verified" in (folder / "new" / "results.md").read_text()


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)


def test_a_folder_that_another_sweep_holds(folder: Path) -> None:
    (folder / "s.toml").write_text(GOOD)
    (folder / "held").mkdir()
    with FileLock(folder / "held" / ".lock"):
        done = command("sweep s.toml --out held", folder)
        assert done.err == "Error: another sweep is running in held; wait for it, or choose another --out\n"
        assert command(SWEEP, folder).code == 0
    assert command("sweep s.toml --out held", folder).code == 0


def test_a_file_in_the_place_of_an_entry(folder: Path) -> None:
    (folder / "s.toml").write_text(GOOD)
    (entry,) = read_plan(folder / "s.toml").entries
    (folder / "held").mkdir()
    (folder / "held" / entry.id).touch()
    done = command("sweep s.toml --out held", folder)
    assert done.err.endswith(f"Error: cannot write in held/{entry.id}: File exists; choose another --out\n")
    assert command(SWEEP, folder).code == 0
