"""The page: all sections in one HTML file, from templates that escape whatever a run and its files say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qkd_deploy import __version__
from qkd_deploy.errors import printable
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.sections.codes import codes
from qkd_deploy.report.sections.proof import proof
from qkd_deploy.report.sections.scales import scales
from qkd_deploy.report.sections.size import size
from qkd_deploy.report.sections.speed import speed
from qkd_deploy.report.sections.summary import summary
from qkd_deploy.report.sections.training import training
from qkd_deploy.report.tables import Table, count, duration, kilobytes
from qkd_deploy.workflows.inspect import FloatPart

LARGEST = 3_000_000
"""Bytes of a report, of all but networks of many thousand tensors, whose tables alone take more."""
_DRAWINGS = (120, 40, 0)
"""Small drawings of one kind: of larger networks, those of what is most to be looked at; the tables have all."""
_TITLES = {
    "proof": "Proof",
    "training": "Training",
    "scales": "Scales",
    "codes": "Codes",
    "speed": "Time",
    "size": "Size",
    "floats": "Float parts",
    "sources": "Sources",
}


def page(findings: Findings) -> str:
    """Write a report as HTML that needs nothing beside itself, with as many drawings as keep it small."""
    text = ""
    for drawings in _DRAWINGS:
        text = _page(findings, drawings)
        if len(text.encode()) < LARGEST:
            break
    return text


def _page(findings: Findings, drawings: int) -> str:
    known: dict[str, Any] = {
        "proof": proof(findings),
        "training": training(findings) if findings.records else None,
        "scales": scales(findings, drawings),
        "codes": codes(findings, drawings),
        "speed": speed(findings),
        "size": size(findings),
    }
    text = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            **known,
            **_float_tables(findings),
            summary=summary(findings),
            inspection=findings.inspection,
            gaps=_Missing(findings.gaps),
            sources=_Missing(findings.sources),
            machine=findings.machine,
            software=_software(findings.machine),
            settings=_settings(findings),
            contents=list(_contents(findings, known)),
            name=Path(os.path.abspath(findings.folder)).name,
            version=__version__,
        )
    )
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


class _Missing(dict[str, Any]):
    """A table that has None for what it lacks."""

    def __missing__(self, key: str) -> None:
        return None


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qkd_deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["in_parts"] = _in_parts
    environment.globals |= {"duration": duration, "kilobytes": kilobytes}
    return environment


def _shown(value: Any) -> Any:
    """Text with its control characters made visible; drawings are made of such text already."""
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def _in_parts(name: str) -> Markup:
    """The path of a module, which may be broken behind its dots."""
    return Markup(".<wbr>").join(_shown(part) for part in name.split("."))


def _contents(findings: Findings, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The sections that the page has, with their titles."""
    always = {"proof", "training", "sources"}
    gaps = {"speed": "times", "size": "layers"}
    for name, title in _TITLES.items():
        there = name in always or known.get(name) is not None or gaps.get(name) in findings.gaps
        if there or (name == "floats" and findings.inspection is not None):
            yield name, title


def _float_tables(findings: Findings) -> dict[str, Table | None]:
    found = findings.inspection
    if found is None:
        return dict.fromkeys(("floats", "tail", "decode"))
    decode = found.decode
    return {
        "floats": _parts("In float between integer kernels", found.floats),
        "tail": _parts("Behind the last integer kernels", found.tail),
        "decode": None if decode is None else _parts("Cut off behind the file, to decode its outputs", decode.parts),
    }


def _parts(caption: str, parts: tuple[FloatPart, ...]) -> Table:
    """A row for each operator with its reason, and the layers that it stands in."""
    layers: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        layers.setdefault((part.op, part.reason), []).append(part.module)
    rows = [[op, reason, count(len(names), "place"), ", ".join(names)] for (op, reason), names in layers.items()]
    return Table(caption, ["operator", "why it is in float", "how often", "layers"], rows)


def _software(machine: Mapping[str, Any]) -> Table:
    flags = machine["cpu"]["flags"]
    known = ", ".join(name for name, there in flags.items() if there) if isinstance(flags, dict) else str(flags)
    rows = [["processor", machine["cpu"]["model"]], ["its instruction sets", known], ["system", machine["system"]]]
    rows += [["Python", machine["python"]], *([name, version] for name, version in machine["packages"].items())]
    return Table("Machine and software of this report", ["what", "which"], rows)


def _settings(findings: Findings) -> Table:
    rows = [[name, str(value)] for name, value in asdict(findings.config).items()]
    return Table("Settings of the run", ["setting", "value"], rows)
