"""What a report says of runs that are not finished, not exported, of another kind, or not as they should be."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from command_ways import Answer, command
from html_page import Element, read_html


def report(folder: Path, line: str = "report run") -> tuple[int, Element, str]:
    done = command(line, folder)
    assert done.out == "report    run/report.html\n", done.err
    return done.code, read_html((folder / "run" / "report.html").read_text(encoding="utf-8")), done.err


def verdict(html: Element) -> str:
    return html.one("p", "word").text


def sections(html: Element) -> list[str]:
    return [one.attributes["id"] for one in html.one("main").all("section")]


def test_a_file_that_differs_names_the_first_layer(differing: tuple[Path, Answer]) -> None:
    path, answer = differing
    assert (answer.code, answer.out) == (1, "report    bad.html\n"), answer.err
    assert answer.err == "note: A file that differs is not timed.\n"
    html = read_html(path.read_text(encoding="utf-8"))
    assert verdict(html) == "DIFFERS first in features.4"
    assert "bad" in html.all("section")[0].attributes["class"]
    chain = html.one("figure", "chain").all("li")
    states = [one.attributes["class"] for one in chain]
    at = states.index("differs")
    assert chain[at].text.startswith("features.4 ") and states.count("differs") == 1
    assert set(states[:at]) == {"same"} and set(states[at + 1 :]) == {"behind"} and at > 0
    assert "first in features.4" in html.one("p", "outcome").text or "features.4" in html.one("ul", "differences").text
    (tile,) = [tile for tile in html.all("div", "tile") if tile.one("dt").text == "codes that differ"]
    assert tile.one("dd", "value").text != "0" and "bad" in tile.attributes["class"]
    assert "speed" in sections(html) and not html.all("figure", "plot")[-1].all("li", "integer")


def test_a_run_that_was_not_exported_says_how(folder: Path) -> None:
    (folder / "run/model.onnx").unlink()
    code, html, _ = report(folder)
    assert (code, verdict(html)) == (0, "NOT EXPORTED")
    assert sections(html) == ["proof", "training", "scales", "codes", "size", "floats", "sources"]
    export = html.all("pre", "command")[0].text
    assert export == "qkd-deploy export --output run/model.onnx run/model.pt"
    assert command(export.removeprefix("qkd-deploy "), folder).code == 0
    assert verdict(report(folder)[1]) == "VERIFIED"


def test_a_run_that_was_interrupted_shows_what_there_is(folder: Path) -> None:
    for name in ("model.pt", "model.onnx"):
        (folder / "run" / name).unlink()
    lines = (folder / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "run/metrics.jsonl").write_text("".join(lines[:3]))
    code, html, err = report(folder)
    assert (code, verdict(html)) == (0, "NOT FINISHED")
    assert sections(html) == ["proof", "training", "scales", "sources"]
    assert "3 epochs are recorded" in err
    assert "qkd-deploy train --out run --resume" in [one.text for one in html.all("pre", "command")]


def test_a_run_without_an_epoch_is_a_report_too(folder: Path) -> None:
    shutil.copy(folder / "run/config.toml", folder / "config.toml")
    shutil.rmtree(folder / "run")
    (folder / "run").mkdir()
    (folder / "config.toml").rename(folder / "run/config.toml")
    code, html, err = report(folder)
    assert (code, verdict(html), sections(html)) == (0, "NOT FINISHED", ["proof", "training", "sources"])
    assert "no epoch has ended yet" in err


def test_a_file_without_its_checkpoint_is_consistent_only(folder: Path) -> None:
    (folder / "run/model.pt").unlink()
    code, html, _ = report(folder)
    assert (code, verdict(html)) == (0, "CONSISTENT")
    assert "half" in html.all("section")[0].attributes["class"]


def test_images_that_are_gone_leave_the_rest(folder: Path) -> None:
    config = folder / "run/config.toml"
    config.write_text(config.read_text().replace('dataset = "digits"', 'dataset = "gone.npz"'))
    code, html, err = report(folder)
    assert (code, verdict(html)) == (0, "VERIFIED")
    assert "The images cannot be read: there is no file gone.npz" in err
    assert html.one("section", "verdict") and "gone.npz" in html.all("div", "gap")[0].text
    rows = [one.text for one in html.all("caption")]
    assert "Codes of weights" in rows and "Codes of activations" not in rows


def test_code_that_only_a_file_names_is_not_imported(folder: Path) -> None:
    (folder / "spy.py").write_text("open('imported', 'w')\n\n\ndef data(): ...\n")
    config = folder / "run/config.toml"
    config.write_text(config.read_text().replace('dataset = "digits"', 'dataset = "spy:data"'))
    _, _, err = report(folder)
    assert (
        "The images come from code, spy:data, which is imported only where you name it: add --dataset spy:data." in err
    )
    assert not (folder / "imported").exists()
    command("report run --dataset spy:data", folder)
    assert (folder / "imported").exists()
    code, html, _ = report(folder, "report run --dataset digits")
    assert (code, verdict(html)) == (0, "VERIFIED")


def test_fewer_images_are_said(folder: Path) -> None:
    code, html, _ = report(folder, "report run --limit 7")
    assert code == 0 and "on 7 images" in html.one("p", "outcome").text
    assert any("--dataset digits --limit 7 --checkpoint" in one.text for one in html.all("pre", "command"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml", "model.pt"])
def test_damaged_files_are_one_line(folder: Path, name: str) -> None:
    path = folder / "run" / name
    path.write_bytes(path.read_bytes()[:-20] + b"]}" * 10 + b"\n")
    done = command("report run", folder)
    assert done.code == 2 and re.fullmatch(r"Error: [^\n]+\n", done.err) and name in done.err
    assert not (folder / "run/report.html").exists()
