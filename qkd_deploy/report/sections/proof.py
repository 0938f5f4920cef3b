"""The outcome of ``verify``, level by level and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qkd_deploy.report.findings import Findings
from qkd_deploy.report.tables import Table, number
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.report import VerificationReport

_QUESTIONS: Mapping[str, str] = {
    "identity": "Is the file the one that export writes, unchanged?",
    "codes": "Does every layer give the same whole numbers in an independent calculation and in ONNX Runtime?",
    "preview": "Does the network as it was trained see the same numbers?",
    "decode": "Does the second file, which decodes, give what the network gives?",
    "accuracy": "Do all of them predict the same on the held-out images?",
    "kernels": "Does ONNX Runtime really compute with whole numbers?",
    "information": "Do the codes still tell the values apart?",
}
_MOST = 12
Place = Literal["same", "differs", "behind"]


@dataclass(frozen=True)
class Tensor:
    """One tensor in the order of computation: its name, and whether its codes agree."""

    name: str
    place: Place


@dataclass(frozen=True)
class Proof:
    """The section.

    Attributes:
        report: of ``verify``.
        levels: each with its question.
        tensors: in graph order, where codes were compared.
        first: the first layer that differs; "" where none does.
        how: what is different about it, in a sentence.
        differences: what else differs, and how many further sentences there are.
        more: those.
        figures: the figures of all sides.
    """

    report: VerificationReport
    levels: Sequence[tuple[Level, str]]
    tensors: Sequence[Tensor]
    first: str
    how: str
    differences: Sequence[str]
    more: int
    figures: Table | None


def proof(findings: Findings) -> Proof | None:
    """Explain the outcome of ``verify``; None without a file."""
    report = findings.verification
    if report is None:
        return None
    first, how = first_difference(report)
    messages = [difference.message for difference in report.identity]
    return Proof(
        report=report,
        levels=[(level, _QUESTIONS.get(level.name, "")) for level in report.levels],
        tensors=_tensors(findings, report),
        first=first,
        how=how,
        differences=messages[:_MOST],
        more=max(0, len(messages) - _MOST),
        figures=_figures(report),
    )


def first_difference(report: VerificationReport) -> tuple[str, str]:
    """The first layer that differs, and how, in a sentence; empty where none is known."""
    found = report.first_difference
    if found is not None:
        what = f"{found.count:,} of its codes differ between {found.between} (tensor {found.tensor})"
        return found.module or found.tensor, what
    for difference in report.identity:
        if difference.module:
            return difference.module, difference.message
    return "", ""


def _tensors(findings: Findings, report: VerificationReport) -> list[Tensor]:
    """All quantized tensors; what comes behind the first difference follows from it."""
    if findings.inspection is None or not report.compared_codes:
        return []
    names = [(tensor.name, tensor.module) for tensor in findings.inspection.tensors]
    found, place = [], "same"
    first = report.first_difference
    for name, _ in names:
        here = first is not None and name == first.tensor
        found.append(Tensor(name, "differs" if here else "behind" if place == "behind" else "same"))
        place = "behind" if here else place
    return found


def _figures(report: VerificationReport) -> Table | None:
    """What each side reaches on the images."""
    sides = {"preview": "as trained, rounding simulated in floats", "frozen": "integer model in PyTorch"}
    sides["runtime"] = "the file in ONNX Runtime"
    known = {side: report.figures.get(side, {}) for side in sides}
    names = list(known["runtime"]) or [report.metric]
    rows = []
    for side, words in sides.items():
        first = report.accuracy[side]
        if first is not None:
            figures = known[side] or {report.metric: first}
            rows.append([words, *(f"{number(figures.get(name))} %" for name in names)])
    if not rows:
        return None
    return Table(f"On {report.images:,} held-out images", ["computed by", *(f"{name}#" for name in names)], rows)
