"""The page that a report is: self-contained, readable without its drawings, and with the numbers of its sources."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from html_page import Element, read_html
from onnx import numpy_helper

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.workflows.inspect import inspect_onnx

LARGEST = 3_000_000


@pytest.fixture(scope="module")
def html(page: str) -> Element:
    return read_html(page)


def section(html: Element, name: str) -> Element:
    (found,) = [one for one in html.all("section") if one.attributes.get("id") == name]
    return found


def table(html: Element, name: str, caption: str) -> list[list[str]]:
    """The one table of a section with that caption; the same one may stand behind two drawings."""
    found = [
        one for one in section(html, name).all("table") if one.all("caption") and one.one("caption").text == caption
    ]
    assert found
    return found[0].rows()


def test_it_needs_nothing_from_elsewhere(page: str, html: Element) -> None:
    assert "http:" not in page and "https:" not in page
    assert not html.all("script") and not html.all("img") and not html.all("iframe")
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    targets = [one.attributes[name] for one in html.all() for name in ("href", "src") if name in one.attributes]
    assert targets and all(target.startswith("#") or target == "data:," for target in targets)
    policy = [one.attributes["content"] for one in html.all("meta") if "http-equiv" in one.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert len(page.encode()) < LARGEST


def test_names_inside_are_unique_and_found(html: Element) -> None:
    names = Counter(one.attributes["id"] for one in html.all() if "id" in one.attributes)
    assert {name: count for name, count in names.items() if count > 1} == {}
    wanted = {one.attributes["href"][1:] for one in html.all() if one.attributes.get("href", "").startswith("#")}
    wanted |= {name for one in html.all() for name in re.findall(r"url\(#([^)]*)\)", str(one.attributes))}
    assert wanted and wanted <= names.keys()


def test_every_drawing_has_a_label_and_a_table(html: Element) -> None:
    figures = [one for one in html.all("figure") if one.all("svg")]
    assert len(figures) >= 8
    for figure in figures:
        drawings = [svg for svg in figure.all("svg") if "aria-hidden" not in svg.attributes]
        assert drawings and all(svg.attributes["role"] == "img" and svg.attributes["aria-label"] for svg in drawings)
        assert figure.one("figcaption").text and figure.one("h3").text
        (numbers,) = figure.all("table")
        head, *rows = numbers.rows()
        assert rows and all(len(row) == len(head) for row in rows)
        assert all(one.attributes.get("scope") == "col" for one in numbers.one("thead").all("th"))


def test_axes_are_labelled_with_plain_numbers(html: Element) -> None:
    texts = [one.text for plot in html.all("figure", "plot")[:2] for one in plot.all("text")]
    assert len(texts) > 20 and all(re.fullmatch(r"[−\d.,]+|epoch|loss|%", text) for text in texts)


def test_both_widths_have_their_drawing(html: Element) -> None:
    plots = html.all("figure", "plot")
    assert plots
    for plot in plots:
        assert [len(plot.all("svg", kind)) for kind in ("wide", "narrow")] == [1, 1]


def test_headings_go_down_step_by_step(html: Element) -> None:
    levels = [int(one.tag[1]) for one in html.all() if re.fullmatch(r"h[1-6]", one.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert html.one("html").attributes["lang"] == "en" and "VERIFIED" in html.one("title").text


def test_the_verdict_comes_first(html: Element) -> None:
    verdict = html.all("section")[0]
    assert "good" in verdict.attributes["class"] and verdict.one("p", "word").text == "VERIFIED"
    tiles = {tile.one("dt").text: tile.one("dd", "value").text for tile in html.all("div", "tile")}
    assert tiles["codes that differ"] == "0" and tiles["bits"] == "W4A4"
    assert {"accuracy", "file", "integer kernels", "time of an image"} <= tiles.keys()


def test_figures_are_those_of_the_checkpoint(reported: Path, html: Element) -> None:
    reached = load_checkpoint(reported / "run" / "model.pt").training.accuracy
    start = load_checkpoint(reported / "run" / "checkpoints" / "student-float.pt").training.accuracy
    (tile,) = [tile for tile in html.all("div", "tile") if tile.one("dt").text == "accuracy"]
    assert tile.one("dd", "value").text == f"{reached:.2f} %"
    assert tile.one("dd", "remark").text == f"float: {start:.2f} %"
    assert f"{reached:.2f} % accuracy on 359 held-out images" in html.one("p", "lead").text


def test_epochs_are_those_of_the_metrics(reported: Path, html: Element) -> None:
    records = [json.loads(line) for line in (reported / "run/metrics.jsonl").read_text().splitlines()]
    head, *rows = table(html, "training", "Losses and held-out accuracy, every epoch")
    assert head == ["epoch", "phase", "student ce", "accuracy", "seconds"]
    assert len(rows) == len(records) == 4
    for number, (row, record) in enumerate(zip(rows, records, strict=True), start=1):
        loss = f"{record['losses']['student']['ce']:,.4g}"
        assert row[:4] == [str(number), record["phase"], loss, f"{record['accuracy']:.2f} %"]


def test_scales_are_those_of_the_metrics(reported: Path, html: Element) -> None:
    records = [json.loads(line) for line in (reported / "run/metrics.jsonl").read_text().splitlines()]
    first, last = records[2]["steps"], records[3]["steps"]
    rows = table(html, "scales", "Scales of weights")[1:] + table(html, "scales", "Scales of activations")[1:]
    assert {row[0]: row[1:3] for row in rows} == {name: [f"{first[name]:,.4g}", f"{last[name]:,.4g}"] for name in first}


def test_counts_of_codes_are_those_of_the_file(reported: Path, html: Element) -> None:
    model = onnx.load(reported / "run" / "model.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rows = {row[0]: row for row in table(html, "codes", "Codes of weights")[1:]}
    name = "features.4.weight"
    codes = stored[name].astype(int) // 8  # 4-bit codes are stored on the grid of 8 bits
    expected = [int(np.count_nonzero(codes == code)) for code in range(-7, 8)]
    assert rows[name][7] == " ".join(map(str, expected))
    assert rows[name][3] == f"{sum(map(bool, expected))} of 15"
    cards = {card.one("code").text: card.text for card in section(html, "codes").all("li", "card")}
    assert f"4 bits {rows[name][3]} levels used" in cards[name]


def test_sizes_add_up_to_the_file(reported: Path, html: Element) -> None:
    file = reported / "run" / "model.onnx"
    rows = table(html, "size", "Layers of the file")[1:]
    layers = inspect_onnx(file).layers
    assert [row[0] for row in rows] == [layer.name for layer in layers] + ["graph, records and golden results"]
    assert [row[7] for row in rows[:-1]] == [f"{layer.bytes / 1e3:,.1f} kB" for layer in layers]
    rest = len(read_exported(file).data) - sum(layer.bytes for layer in layers)
    assert rows[-1][7] == f"{rest / 1e3:,.1f} kB"


def test_every_number_has_its_command(reported: Path, html: Element) -> None:
    commands = [one.text for one in section(html, "sources").all("pre", "command")]
    training = "qkd-deploy train --model plaincnn --method qat --epochs 2 --pretrain-epochs 2 --out run"
    verify = "qkd-deploy verify run/model.onnx --dataset digits --checkpoint run/model.pt"
    assert commands[0] == training
    assert verify in commands and "qkd-deploy inspect run/model.onnx" in commands
    origin = json.loads((reported / "run" / "origin.jsonl").read_text())
    assert origin["command"] == training
    assert section(html, "sources").text.count(origin["commit"]) >= 1
