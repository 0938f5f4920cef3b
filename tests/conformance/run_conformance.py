"""The full form of the conformance suite: every architecture at every width, and small ones of public libraries.

    python tests/conformance/run_conformance.py --json docs/results/conformance.json --page docs/operators.md

Rows of an earlier run stay in the file unless they are measured again, so that a part can be repeated with ``--only``.
The exit status is 1 where a code differs, or more stays in float than is expected.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

import dense_models  # noqa: E402
import hub_models  # noqa: E402
import timm_models  # noqa: E402
import torch  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from operators_page import page  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from torch import nn  # noqa: E402
from trial import WIDTHS, row  # noqa: E402

from qkd_deploy.atomic import atomic_write  # noqa: E402
from qkd_deploy.provenance import provenance  # noqa: E402

_SEEDS = 3
"""Attempts to draw weights with which no tensor is the same for all inputs."""


@dataclass(frozen=True)
class Case:
    """One network at one width; ``floats`` is what may stay in float, None where everything may."""

    network: str
    bits: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    floats: frozenset[str] | None


def cases(pattern: str, notes: Console) -> Iterator[Case]:
    """Those whose names match: the suite's own, then those of timm, torchvision and transformers."""
    for network, build, shape, floats in _networks(notes):
        if fnmatch(network, pattern):
            yield from (Case(network, bits, build, shape, floats) for bits in WIDTHS)


def _networks(notes: Console) -> Iterator[tuple[str, Callable[[], nn.Module], tuple[int, ...], frozenset[str] | None]]:
    """Name, factory, shape of an input, and what may stay in float."""
    for name, known in ARCHITECTURES.items():
        yield name, known.build, known.shape, known.floats
    reason = timm_models.missing()
    if reason:
        notes.print(f"networks of libraries are skipped: {escape(reason)}")
        return
    for name in timm_models.MODELS:
        yield f"timm: {name}", partial(timm_models.build, name), timm_models.input_shape(name), None
    for name, build, shape in (*hub_models.cases(), *dense_models.cases()):
        yield name, build, shape, None


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Its row; a network that cannot be prepared or exported has the reason in it.

    Two bits and three steps leave an unlucky network without a living channel, whose equal codes say nothing: other
    weights are drawn then.
    """
    try:
        for seed in range(_SEEDS):
            result = row(case.network, case.build, case.shape, case.bits, rounds, seed)
            if not _idle(case, result):
                break
        return result
    except Exception as error:  # noqa: BLE001  # one network must not end the run; the row says what happened
        lines = str(error).strip().splitlines() or [""]
        return {"network": case.network, "bits": case.bits, "error": f"{type(error).__name__}: {lines[0]}"}


def _idle(case: Case, result: dict[str, Any]) -> bool:
    """Whether the comparison says too little, as tensors are the same for all inputs."""
    # a network of a library may have tokens that meet the image later; after three steps some of its parts may be idle
    return not result["moving"] or bool(result["dead"] and case.floats is not None)


def failure(case: Case, result: dict[str, Any]) -> str:
    """What is wrong with a row, "" if nothing."""
    if "error" in result:
        return str(result["error"])
    if result["differing"]:
        return f"{result['differing']} of {result['compared']} codes differ, first in {result['first']}"
    if _idle(case, result):
        return f"tensors that do not depend on the input: {', '.join(result['dead'])}"
    if case.floats is not None and set(result["floats"]) != case.floats:
        return f"stays in float: {sorted(result['floats'])}; expected: {sorted(case.floats)}"
    return ""


def with_speed(row: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Keep the speed of an earlier run, and its commit, where it was not measured anew: a busy machine tells none."""
    if row.get("speed_over_fp32") or not before.get("speed_over_fp32"):
        return row
    commit = before.get("speed_commit", before["commit"])
    return row | {"speed_over_fp32": before["speed_over_fp32"], "speed_commit": commit}


def main() -> int:
    """Run, write after every network, and say what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="the rows, with their provenance")
    parser.add_argument("--page", type=Path, help="write the page of operators, with these results")
    parser.add_argument("--only", default="*", help="names of networks, with wildcards")
    parser.add_argument(
        "--rounds", type=int, default=20, help="samples for the speed over fp32; 0 keeps that of before"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    notes = Console(stderr=True, highlight=False)
    rows = {(r["network"], r["bits"]): r for r in _rows(options.json)}
    command = f"python tests/conformance/run_conformance.py {shlex.join(sys.argv[1:])}"
    source = provenance(command)
    failed = 0
    for case in cases(options.only, notes):
        result = measured(case, options.rounds)
        problem = failure(case, result)
        failed += bool(problem)
        notes.print(f"{case.network} {case.bits}: {escape(problem) or 'ok'}")
        rows[case.network, case.bits] = with_speed(
            result | {"commit": source["commit"]}, rows.get((case.network, case.bits), {})
        )
        report = {"provenance": source, "rows": list(rows.values())}
        _write(options.json, json.dumps(report, indent=1) + "\n")
    if options.page:
        _write(options.page, page(_rows(options.json)))
    notes.print(f"{failed} failed")
    return 1 if failed else 0


def _rows(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
