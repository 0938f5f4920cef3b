"""The tables of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qkd_deploy.sweep.entry import EntryResult
from qkd_deploy.sweep.plan import Plan, read_plan
from qkd_deploy.sweep.results import combinations, table, write_results

PROVENANCE = {"command": "qkd-deploy sweep s.toml", "date": "d", "commit": "c", "packages": {}, "cpu": {"model": "m"}}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "s.toml").write_text('[settings]\nepochs = 2\n[grid]\nmethod = ["qat", "kd"]\nseed = [0, 1, 2]\n')
    return read_plan(tmp_path / "s.toml")


def results(plan: Plan, *accuracies: float | str | None) -> dict[str, EntryResult]:
    """By entry: an accuracy, a reason why it failed, or None where it did not run."""
    found = {}
    for entry, value in zip(plan.entries, accuracies, strict=True):
        if isinstance(value, str):
            found[entry.id] = EntryResult(entry.id, False, {}, accuracy=99.0, failure=value)
        elif value is not None:
            found[entry.id] = EntryResult(
                entry.id, True, {}, accuracy=value, float_accuracy=90.0, float_operations=int(value) % 2
            )
    return found


def test_mean_and_spread_are_over_the_verified_seeds(plan: Plan) -> None:
    qat, kd = combinations(plan.entries, results(plan, 90.0, 92.0, 97.0, 80.0, "verify: FAILED", None))
    assert (qat.axes, qat.runs, qat.verified) == ({"method": "qat"}, 3, 3)
    assert (qat.mean, qat.low, qat.high) == (93.0, 90.0, 97.0)
    assert qat.deviation == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert (qat.float_accuracy, qat.float_operations) == (90.0, 1)
    assert (kd.runs, kd.verified, kd.mean, kd.deviation) == (3, 1, 80.0, None)


def test_the_table_leaves_out_what_is_not_known(plan: Plan) -> None:
    header, rows = table(combinations(plan.entries, results(plan, 90.0, 92.0, None, None, None, None)))
    assert header == ["method", "accuracy", "deviation", "min .. max", "verified", "float start", "float operations"]
    assert rows == [
        ["qat", "91.00", "1.41", "90.00 .. 92.00", "2 of 3", "90.00", "0"],
        ["kd", "", "", "", "0 of 3", "", ""],
    ]


def test_files_hold_every_entry_and_why_it_failed(plan: Plan, tmp_path: Path) -> None:
    found = results(plan, 90.0, 92.0, 97.0, 80.0, "train: a | b\nsecond line", None)
    write_results(tmp_path, plan, found, PROVENANCE)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [entry["axes"]["seed"] for entry in content["entries"]] == [0, 1, 2, 0, 1, 2]
    assert [entry["verified"] for entry in content["entries"]] == [True] * 4 + [False] * 2
    assert content["entries"][5]["failure"] == "not run yet"
    assert content["settings"]["epochs"] == [2] and "method" not in content["settings"]
    assert content["entries"][3]["settings"] == {"method": "kd", "seed": 0}
    assert content["combinations"][1]["mean"] == 80.0
    text = (tmp_path / "results.md").read_text()
    assert "| qat | 93.00 | 3.61 | 90.00 .. 97.00 | 3 of 3 | 90.00 | 1 |" in text
    assert f"- method kd, seed 1 (`{plan.entries[4].id}`): train: a | b second line" in text
    assert str(tmp_path) not in text
