"""Sweep files: what they mean, and what is said about mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkd_deploy.errors import UserError
from qkd_deploy.sweep.plan import Plan, read_plan
from qkd_deploy.sweep.results import combinations

GOOD = """
[settings]
epochs = 4
[grid]
method = ["qat", "kd"]
seed = [0, 1, 2]
[[grid.network]]
model = "resnet8"
init = "a.pt"
[[grid.network]]
model = "plaincnn"
init = "b.pt"
[verify]
tolerance = 1
"""


def plan(folder: Path, text: str) -> Plan:
    (folder / "s.toml").write_text(text, encoding="utf-8")
    return read_plan(folder / "s.toml")


def test_every_combination_is_an_entry_with_resolved_settings(tmp_path: Path) -> None:
    found = plan(tmp_path, GOOD)
    assert found.axes == ("method", "seed", "network")
    places = [tuple(entry.axes.values()) for entry in found.entries]
    models = ("resnet8", "plaincnn")
    assert places == [(method, seed, model) for method in ("qat", "kd") for seed in (0, 1, 2) for model in models]
    last = found.entries[-1]
    assert (last.config.method, last.config.seed, last.config.model, last.config.init) == ("kd", 2, "plaincnn", "b.pt")
    assert (last.config.epochs, last.config.batch_size) == ((4,), 64)  # given, and from the recipe for digits
    assert last.label == "method kd, seed 2, network plaincnn"
    assert (found.verify.tolerance, found.verify.require_integer) == (1, False)


def test_entries_are_recognised_by_their_resolved_settings(tmp_path: Path) -> None:
    ids = {entry.label: entry.id for entry in plan(tmp_path, GOOD).entries}
    assert len(set(ids.values())) == 12
    # spelt out, in another order, with the recipe's batch size: the same runs
    other = GOOD.replace("epochs = 4", "batch_size = 64\nepochs = [4]").replace("[0, 1, 2]", "[2, 1]")
    again = {entry.label: entry.id for entry in plan(tmp_path, other).entries}
    assert again == {label: ids[label] for label in again}
    changed = {entry.id for entry in plan(tmp_path, GOOD.replace("epochs = 4", "epochs = 5")).entries}
    assert changed.isdisjoint(ids.values())


def test_settings_alone_are_one_entry(tmp_path: Path) -> None:
    (entry,) = plan(tmp_path, "[settings]\nmethod = 'qat'\n").entries
    assert (entry.label, entry.axes) == ("the only entry", {})


def test_values_that_are_lists_or_tables_can_be_axes(tmp_path: Path) -> None:
    text = "[grid]\nepochs = [3, [1, 2, 1]]\nbits_for = [{}, {fc = 'w4a4'}]\n"
    entries = plan(tmp_path, text).entries
    assert [(e.config.epochs, e.config.bits_for) for e in entries] == [
        (epochs, bits) for epochs in ((3,), (1, 2, 1)) for bits in ({}, {"fc": "w4a4"})
    ]


def test_replacements_can_be_an_axis(tmp_path: Path) -> None:
    entries = plan(tmp_path, "[grid]\nreplace = [{}, {silu = 'relu6', 'stem.*:silu' = 'hardswish'}]\n").entries
    assert [entry.config.replace for entry in entries] == [{}, {"silu": "relu6", "stem.*:silu": "hardswish"}]
    assert entries[0].id != entries[1].id


def test_tables_are_shown_whole_where_their_first_setting_does_not_tell_them_apart(tmp_path: Path) -> None:
    text = "[[grid.start]]\nmodel = 'resnet8'\n[[grid.start]]\nmodel = 'resnet8'\ninit = 'a.pt'\n"
    tables = [{"model": "resnet8"}, {"model": "resnet8", "init": "a.pt"}]
    found = plan(tmp_path, text)
    assert [entry.axes for entry in found.entries] == [{"start": table} for table in tables]
    assert len(combinations(found.entries, {})) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("epochs = 3", "'epochs'; a sweep has the tables settings, grid, verify"),
        ("[setings]", "'setings' (did you mean 'settings'?)"),
        ("[settings]\nepoch = 3", "unknown setting 'epoch' (did you mean 'epochs'?)"),
        ("[settings]\nepochs = -3", "epochs [-3] do not describe a training run"),
        ("[grid]\nmethod = 'qat'", "the axis 'method' is 'qat'; give a list"),
        ("[grid]\nseed = []", "the axis 'seed' is []; give a list"),
        ("[grid]\nmetod = ['qat']", "'metod' is no setting (did you mean 'method'?)"),
        ("[[grid.network]]\nmodle = 'resnet8'", "unknown setting 'modle' (did you mean 'model'?)"),
        ("[grid]\nmethod = ['qat', 'qdk']", "(method qdk): unknown method 'qdk'; did you mean 'qkd'?"),
        ("[settings]\nseed = 1\n[grid]\nseed = [0]", "sets 'seed' in two places"),
        ("[grid]\nmodel = ['resnet8']\n[[grid.network]]\nmodel = 'resnet20'", "sets 'model' in two places"),
        ("[grid]\nseed = [0, 1, 0]", "seed 0 and seed 0 are the same run"),
        ("[verify]\ntolerence = 1", "unknown setting 'tolerence' of verify (did you mean 'tolerance'?)"),
        ("[verify]\ntolerance = -1", "tolerance is -1; it must be"),
        ("[verify]\nrequire_integer = 1", "require_integer is 1; it must be true or false"),
        ("[grid\nseed = [0]", "is not a TOML file"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(tmp_path, text)
    assert complaint in str(caught.value) and "s.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the sweep .*none\.toml: No such file"):
        read_plan(tmp_path / "none.toml")
