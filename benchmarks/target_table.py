"""The results of ``targets.py`` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError

BEGIN, END = "<!-- target table: begin -->", "<!-- target table: end -->"
_NAMED = 4
"""Kernels in float that a cell names, the most frequent first."""
_COLUMNS = (
    *("target", "network", "bits", "worst step (allowed)", "codes that differ", "same class", "as in float"),
    *("kernels: integer, float", "MB", "of fp32", "speed over fp32"),
)


def markdown(cells: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], bits: Sequence[str]) -> str:
    """One line per cell, in the order of targets, networks and bits, and the reasons of refusals below."""
    targets = list(dict.fromkeys(key.split()[0] for key in cells))
    keys = [f"{target} {name} {width}" for target in targets for name in titles for width in bits]
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|---|---|" + "---:|" * (len(_COLUMNS) - 3)]
    reasons: dict[str, int] = {}
    for key in keys:
        if key in cells:
            target, name, width = key.split()
            lines.append(
                f"| {target} | {titles[name]} | {width.upper()} | {' | '.join(_values(cells[key], reasons))} |"
            )
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())] if reasons else []
    return "\n".join([*lines, "", _summary([cells[key] for key in keys if key in cells])])


def _values(cell: Mapping[str, Any], reasons: dict[str, int]) -> Iterator[str]:
    if "refused" in cell:
        number = reasons.setdefault(cell["refused"], len(reasons) + 1)
        yield f"refused, reason {number}"
        yield from [""] * (len(_COLUMNS) - 4)
        return
    yield f"{cell['worst']} ({cell['tolerance']})" + ("" if cell["passed"] else " **fails**")
    yield f"{cell['differing']:,} of {cell['codes']:,}"
    yield f"{cell['agreement']:.2f} %"
    yield f"{cell['agreement_with_float']:.2f} %"
    yield _kernels(cell["kernels"])
    yield f"{cell['bytes'] / 1e6:.2f}"
    yield f"{cell['size_of_fp32']:.2f}x"
    if "speed" not in cell:
        yield "simulated"
        return
    speed = cell["speed"]
    own, theirs = cell["runtime"], speed["fp32_runtime"]
    yield f"{speed['ratio']:.2f}x" + ("" if own == theirs else f" (fp32 in {theirs})")


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> str:
    if not kernels:
        return "not told"
    floats = [kernel for kernel in kernels if not kernel["integer"]]
    integers = sum(kernel["count"] for kernel in kernels if kernel["integer"])
    floats.sort(key=lambda kernel: -int(kernel["count"]))
    names = [f"{kernel['count']} {kernel['name']}" for kernel in floats[:_NAMED]] + ["..."] * (len(floats) > _NAMED)
    total = sum(kernel["count"] for kernel in floats)
    return f"{integers}, {total}" + (f" ({', '.join(names)})" if names else "")


def _summary(cells: Sequence[Mapping[str, Any]]) -> str:
    refused = sum("refused" in cell for cell in cells)
    passed = sum(bool(cell.get("passed")) for cell in cells)
    failed = len(cells) - refused - passed
    return f"{len(cells)} cells: {passed} pass within their tolerance, {refused} are refused, {failed} fail."


def insert(text: str, document: Path) -> None:
    """Put the table between the two markers of a document.

    Raises:
        UserError: the document has no markers.
    """
    before, found, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"{document} has no lines {BEGIN} and {END}; add them where the table belongs")
    with atomic_write(document) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
