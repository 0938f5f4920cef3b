"""The house keeps its layers: no circles, no arrows that run back up, and rooms of a size that one can look over."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import house

ROOT = Path(__file__).resolve().parents[2]
LARGEST_ROOM = 17
LOOSE = 7

MODULES: dict[str, Path] = house.modules()
ARROWS: dict[str, set[str]] = house.arrows(MODULES)
"""Imports at run time and for types, those inside functions too."""


def test_no_files_import_each_other_in_a_circle() -> None:
    assert house.circles(ARROWS) == []


def test_no_arrow_runs_back_up() -> None:
    assert house.upward(ARROWS) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    packages: dict[str, set[str]] = {}
    for name, others in ARROWS.items():
        own = name.split(".")[0]
        packages.setdefault(own, set()).update(other.split(".")[0] for other in others)
        packages[own].discard(own)
    assert house.circles(packages) == []


def test_the_root_is_no_room_for_modules() -> None:
    loose = [path for path in (ROOT / "qkd_deploy").glob("*.py") if path.stem != "__init__"]
    assert len(loose) <= LOOSE


def test_folders_can_be_looked_over() -> None:
    sizes = Counter(path.parent for path in MODULES.values())
    assert {str(folder): size for folder, size in sizes.items() if size > LARGEST_ROOM} == {}


def test_the_documented_rooms_are_the_ones_that_are_checked() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.split("## The rooms")[1].split("## The way of a tensor")[0]
    documented = [line.split()[0] for line in block.splitlines() if line.startswith("    ")]
    assert documented == list(house.LAYERS)


def test_the_files_and_tests_that_the_page_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {word for word in re.findall(r"`([\w/.-]+)`", page) if "/" in word and "NAME" not in word}
    assert len(named) > 30
    homes = (ROOT, ROOT / "qkd_deploy")
    assert [word for word in sorted(named) if not any((home / word).exists() for home in homes)] == []


def test_circles_and_arrows_are_found() -> None:
    """The measure itself: a circle of three files, and a quantizer that would know the training."""
    graph = {"bits": {"errors"}, "errors": {"atomic"}, "atomic": {"bits"}, "quantizers.lsq": {"training.run"}}
    graph["training.run"] = {"bits"}
    assert house.circles(graph) == [["atomic", "bits", "errors"]]
    assert "quantizers.lsq -> training.run" in house.upward(graph)
