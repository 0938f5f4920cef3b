"""Names in a run's files are text, whatever is in them; and large networks and long runs make no large pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import read_html

from qkd_deploy.errors import printable
from qkd_deploy.provenance import provenance
from qkd_deploy.report.findings import Codes, Findings, Gap, Source
from qkd_deploy.report.page import page
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.observation import TensorObservation
from qkd_deploy.verification.findings import FirstDifference, Level
from qkd_deploy.verification.report import VerificationReport

_MARKUP = "</svg></code><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\"' $\\frac{a}{b}$ "
HOSTILE = _MARKUP + "\x1b[2J\u202e\ud800"
SEEN = _MARKUP + "\\x1b[2J\\u202e\\ud800"


def epochs(names: list[str], count: int, phase: str = "qat") -> list[EpochRecord]:
    random = np.random.default_rng(0)
    return [
        EpochRecord(
            stage="qat",
            phase=phase,
            epoch=number + 1,
            epochs=count,
            losses={"student": {phase: float(random.random())}},
            learning_rates={"student": 0.1},
            step_movement={},
            accuracy=float(random.random() * 100),
            seconds=1.0,
            steps={name: float(random.random() + 0.1) for name in names},
            measure="mIoU",
        )
        for number in range(count)
    ]


def tensor(name: str, bits: int = 8) -> TensorObservation:
    random = np.random.default_rng(len(name))
    counts = tuple(map(int, random.integers(0, 10**6, 2**bits)))
    kind = "weight" if name.endswith(".weight") else "activation"
    return TensorObservation(name, kind, bits, -(2 ** (bits - 1)), 0.1, 0.0, counts, 0.1, 0.0, 30.0)


def findings(records: list[EpochRecord], tensors: list[TensorObservation], folder: str = "run") -> Findings:
    machine = provenance("qkd-deploy report")
    return Findings(
        folder=Path(folder),
        config=TrainConfig(),
        records=records,
        training=None,
        start=None,
        file=None,
        codes=Codes(tuple(tensors), 0, 0) if tensors else None,
        inspection=None,
        verification=None,
        times=(),
        machine=machine,
    )


@pytest.mark.filterwarnings("error")
def test_names_are_text_everywhere() -> None:
    report = VerificationReport(HOSTILE, levels=[Level("codes", "failed", (HOSTILE,))], compared_codes=1)
    report.first_difference = FirstDifference(HOSTILE, HOSTILE, 1, HOSTILE)
    names = [HOSTILE, f"{HOSTILE}.weight"]
    found = replace(
        findings(epochs(names, 3, HOSTILE), [tensor(name, 4) for name in names], HOSTILE.replace("/", "|")),
        verification=report,
        gaps={"data": Gap(HOSTILE, HOSTILE), "times": Gap(HOSTILE)},
        sources={"training": Source(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)},
    )
    text = page(found)
    assert text.encode("utf-8") and printable(text) == text
    html = read_html(text)
    assert not html.all("script") and not html.all("img")
    cards = [card.one("code").text for card in html.all("li", "card")]
    assert cards == [f"{SEEN}.weight", SEEN, f"{SEEN}.weight", SEEN]
    assert html.one("span", "where").text == f"first in {SEEN}"
    assert html.one("h1").text == SEEN.replace("/", "|")


def test_large_networks_and_long_runs_make_no_large_page() -> None:
    names = [f"backbone.stages.{n}.blocks.conv{suffix}" for n in range(300) for suffix in (".weight", "")]
    text = page(findings(epochs(names, 400), [tensor(name) for name in names]))
    assert len(text.encode()) < 3_000_000
    html = read_html(text)
    assert len(html.all("li", "card")) == 4 * 120
    rows = [
        len(table.all("tr"))
        for table in html.all("table")
        if table.all("caption") and table.one("caption").text == "Codes of weights"
    ]
    assert rows == [301], "the table has all"


def test_what_would_be_too_large_has_fewer_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkd_deploy.report.page._DRAWINGS", (4, 2, 0))
    names = [f"{n}{suffix}" for n in range(5) for suffix in (".weight", "")]
    found = findings(epochs(names, 2), [tensor(name) for name in names])
    whole = page(found)
    assert len(read_html(whole).all("li", "card")) == 4 * 4
    for largest, drawn in ((len(whole.encode()), 2), (1, 0)):
        monkeypatch.setattr("qkd_deploy.report.page.LARGEST", largest)
        html = read_html(page(found))
        assert len(html.all("li", "card")) == 4 * drawn
        assert html.text.count(f"{5 - drawn} more are in the table.") == 4


def test_the_measure_has_the_name_of_its_task() -> None:
    html = read_html(page(findings(epochs(["a"], 2), [])))
    assert "Held-out mIoU" in [one.text for one in html.all("h3")]
    assert "accuracy" not in html.one("main").text.partition("Settings of the run")[0].replace("accuracy_", "")
