"""The result of a verification, for people and for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from qkd_deploy.verification.checks.identity import Difference
from qkd_deploy.verification.checks.kernels import Kernel
from qkd_deploy.verification.overflow.saturation import Saturation

if TYPE_CHECKING:
    from rich.console import Console

Status = Literal["passed", "failed", "skipped"]
_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_SHOWN = 12


@dataclass(frozen=True)
class Level:
    """One level of the verification; the first sentence of ``sentences`` is the summary."""

    name: str
    status: Status
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class FirstDifference:
    """The first quantized tensor, in graph order, whose codes differ between two ways of computing them."""

    module: str
    tensor: str
    count: int
    between: str


@dataclass
class VerificationReport:
    """Everything that ``verify`` found out.

    ``accuracy`` is in percent (of right classes, or of the score that ``metric`` names where the data set has its own),
    by "preview" (float fake-quantized), "frozen" and "runtime"; None where not measured.
    ``compared_codes`` and ``differing_codes`` add up all comparisons of the codes level that demand equality.
    ``saturation`` is None until the file could be read; its ``layers`` are empty for a file that is exact on every CPU.
    ``latency_seconds`` of one image on one thread: "integer" is the file, "fp32" the same network in float.
    """

    path: str
    levels: list[Level] = field(default_factory=list)
    accuracy: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(("preview", "frozen", "runtime")))
    metric: str = "accuracy"
    dataset: dict[str, str | int] | None = None
    images: int = 0
    compared_codes: int = 0
    differing_codes: int = 0
    first_difference: FirstDifference | None = None
    kernels: list[Kernel] = field(default_factory=list)
    identity: list[Difference] = field(default_factory=list)
    cpu: dict[str, str | bool] = field(default_factory=dict)
    saturation: Saturation | None = None
    file_bytes: int = 0
    latency_seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """No level failed, and at least one ran."""
        return all(level.status != "failed" for level in self.levels) and any(
            level.status == "passed" for level in self.levels
        )

    @property
    def float_ops(self) -> list[Kernel]:
        """Operators that the runtime computes in float, with the reasons."""
        return [kernel for kernel in self.kernels if not kernel.integer]

    @property
    def verdict(self) -> str:
        """The last line: VERIFIED or FAILED with the reason."""
        if not self.passed:
            failed = next((level for level in self.levels if level.status == "failed"), None)
            reason = f"{failed.name}: {failed.sentences[0]}" if failed else "nothing was compared"
            cause = f"; {self.saturation.cause}" if self.saturation is not None and self.saturation.cause else ""
            return f"FAILED {self.path}: {reason}{cause}"
        parts = []
        if self.accuracy["runtime"] is not None:
            kind = self.metric if self.float_ops else f"integer {self.metric}"
            parts.append(f"{kind} {self.accuracy['runtime']:.2f} % on {self.images} images")
        parts.append(f"0 of {self.compared_codes:,} codes differ" if self.compared_codes else "outputs agree")
        floats = len(self.float_ops)
        parts.append(f"{floats} float operators" if floats else "every kernel in integers")
        return f"VERIFIED {self.path}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines; ``passed``, ``float_ops`` and ``verdict`` are included."""
        table = {name: value for name, value in asdict(self).items() if name != "kernels"}
        table["kernels"] = [asdict(kernel) for kernel in self.kernels if kernel.integer]
        table["float_ops"] = [asdict(kernel) for kernel in self.float_ops]
        return {"passed": self.passed, "verdict": self.verdict, **table}

    def to_json(self) -> str:
        """:meth:`as_dict` as indented JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def render(self, console: Console) -> None:
        """Print a table of the levels, what differs, float operators and the verdict."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"Verification of {self.path}", show_lines=False)
        for column in ("level", "result", "findings"):
            table.add_column(column, overflow="fold")
        for level in self.levels:
            colour = _COLOURS[level.status]
            table.add_row(level.name, Text(level.status, style=colour), Text("\n".join(level.sentences)))
        console.print(table)
        self._list(console, "Differences", [difference.message for difference in self.identity])
        self._list(
            console, "In float", [f"{kernel.module} ({kernel.op}): {kernel.reason}" for kernel in self.float_ops]
        )
        if self.saturation is not None and self.saturation.prediction:
            console.print(Text(f"Saturation: {self.saturation.prediction}"), soft_wrap=True)
        console.print(Text(f"{self._machine()}; file {self.file_bytes / 1000:,.1f} kB{self._speed()}"))
        console.print(Text(self.verdict, style="bold green" if self.passed else "bold red"), soft_wrap=True)

    def _speed(self) -> str:
        if not self.latency_seconds:
            return ""
        integer, other = self.latency_seconds["integer"], self.latency_seconds["fp32"]
        return f"; {integer * 1e3:.2f} ms an image, {other / integer:.2f}x the speed of fp32 (one thread)"

    def _machine(self) -> str:
        features = [name for name, present in self.cpu.items() if present is True]
        known = self.cpu.get("model", self.cpu.get("architecture", "unknown processor"))
        return f"{known}: {', '.join(features) or 'no known integer instructions'}"

    @staticmethod
    def _list(console: Console, title: str, lines: list[str]) -> None:
        from rich.text import Text

        for line in lines[:_SHOWN]:
            console.print(Text(f"{title}: {line}"), soft_wrap=True)
        if len(lines) > _SHOWN:
            console.print(Text(f"{title}: {len(lines) - _SHOWN} more (see --json)"))
