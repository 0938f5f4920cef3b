"""The result of a verification, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from qkd_deploy.errors import printable
from qkd_deploy.export.information.wasted_codes import WastedCodes
from qkd_deploy.verification.findings import Difference, FirstDifference, Kernel, Level
from qkd_deploy.verification.overflow.saturation import Saturation
from qkd_deploy.verification.overhead import TOO_SMALL, Overhead

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_VERDICT_COLOURS = {"VERIFIED": "bold green", "CONSISTENT": "bold yellow", "FAILED": "bold red"}
_SHOWN = 12

Proven = Literal["VERIFIED", "CONSISTENT", "FAILED"]
"""What a verification may find."""


@dataclass
class VerificationReport:
    """Everything that ``verify`` found out.

    ``checkpoint`` is what a fresh export was made from, which the whole file was compared with; None without one.
    ``given_model``: the frozen model was at hand, so that codes were compared with it.
    ``accuracy`` is in percent (of right classes, or of what ``metric`` names where the task or the data set measures
    something else), by "preview" (float fake-quantized), "frozen" and "runtime"; None where not measured. ``figures``
    are all that the task measures, by side and name.
    ``compared_codes`` and ``differing_codes`` add up all comparisons of the codes level that demand equality.
    ``tail`` are the operators in float behind the last integer kernels, which ``kernels`` does not hold.
    ``decode_difference`` is by how much of their range outputs of the file and its decode file differ from the
    network's, at most; None where that was not compared.
    ``wasted_codes`` are parts of tensors whose codes lose what their values tell, on the first inputs.
    ``saturation`` is None until the file could be read; its ``layers`` are empty for a file that is exact on every CPU.
    ``target`` is the runtime of a file for another one than ONNX Runtime; ``compared_codes`` are output codes then,
    ``steps_off`` by how many steps of their grid they differ at most, and ``agreement`` the percentage of images with
    the same class.
    ``latency_seconds`` of one image on one thread: "integer" is the file, "fp32" the same network in float; whoever
    measures puts them there (see ``verify_deployed``), with the ``overhead`` of operators where a network is small.
    """

    path: str
    checkpoint: str | None = None
    given_model: bool = False
    levels: list[Level] = field(default_factory=list)
    accuracy: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(("preview", "frozen", "runtime")))
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    metric: str = "accuracy"
    dataset: dict[str, str | int] | None = None
    images: int = 0
    compared_codes: int = 0
    differing_codes: int = 0
    first_difference: FirstDifference | None = None
    kernels: list[Kernel] = field(default_factory=list)
    tail: list[Kernel] = field(default_factory=list)
    identity: list[Difference] = field(default_factory=list)
    wasted_codes: list[WastedCodes] = field(default_factory=list)
    cpu: dict[str, str | bool] = field(default_factory=dict)
    saturation: Saturation | None = None
    decode_difference: float | None = None
    file_bytes: int = 0
    latency_seconds: dict[str, float] = field(default_factory=dict)
    overhead: Overhead | None = None
    versions: dict[str, str] = field(default_factory=dict)
    target: str | None = None
    steps_off: int | None = None
    agreement: float | None = None

    @property
    def passed(self) -> bool:
        """No level failed, and at least one ran."""
        return all(level.status != "failed" for level in self.levels) and any(
            level.status == "passed" for level in self.levels
        )

    def failed(self, name: str) -> bool:
        """Whether that level ran and failed."""
        return any(level.name == name and level.status == "failed" for level in self.levels)

    @property
    def float_ops(self) -> list[Kernel]:
        """Operators that the runtime computes in float, with the reasons."""
        return [kernel for kernel in self.kernels if not kernel.integer]

    @property
    def proven(self) -> Proven:
        """What was proven: a file that was compared with its checkpoint is VERIFIED, another one only CONSISTENT."""
        if not self.passed:
            return "FAILED"
        return "CONSISTENT" if self.checkpoint is None else "VERIFIED"

    @property
    def verdict(self) -> str:
        """The last line: what was proven, of which file, or the reason why not."""
        return printable(_VERDICTS[self.proven](self), keep="")

    def _consistent(self) -> str:
        model = " and with the given model" if self.given_model else ""
        told = f"the file agrees with itself{model} (no checkpoint given)"
        return f"CONSISTENT: {told}: {self.path}: {self._proof()}"

    def _failure(self) -> str:
        failed = next((level for level in self.levels if level.status == "failed"), None)
        reason = f"{failed.name}: {failed.sentences[0]}" if failed else "nothing was compared"
        cause = "" if self.saturation is None else self.saturation.cause
        return f"{reason}; {cause}" if cause else reason

    def _proof(self) -> str:
        floats = len(self.float_ops)
        off = f" by {self.steps_off} steps at most" if self.steps_off else ""
        kind = "output codes" if self.target else "codes"
        compared = f"{self.differing_codes:,} of {self.compared_codes:,} {kind} differ{off}"
        compared = compared if self.compared_codes else "outputs agree"
        behind = f" but {len(self.tail)} behind the last" if self.tail else ""
        kernels = f"{floats} float operators" if floats else f"every kernel in integers{behind}"
        decoded = "" if self.decode_difference is None else f", decoded within {self.decode_difference:.2g}"
        if self.target and not self.kernels:
            kernels = "kernels not told"
        where = f" in {self.target}" if self.target else ""
        return f"{self._score()}{compared}, {kernels}{decoded}{where}"

    def _score(self) -> str:
        """The accuracy and a comma; empty where it was not measured."""
        if self.accuracy["runtime"] is None:
            return ""
        kind = self.metric if self.float_ops else f"integer {self.metric}"
        return f"{kind} {self.accuracy['runtime']:.2f} % on {self.images} images, "

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines; ``passed``, ``proven``, ``float_ops`` and ``verdict`` are included."""
        table = {name: value for name, value in asdict(self).items() if name != "kernels"}
        table["kernels"] = [asdict(kernel) for kernel in self.kernels if kernel.integer]
        table["float_ops"] = [asdict(kernel) for kernel in self.float_ops]
        return {"passed": self.passed, "proven": self.proven, "verdict": self.verdict, **table}

    def to_json(self) -> str:
        """:meth:`as_dict` as indented JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def render(self, console: Console) -> None:
        """Print a table of the levels, what differs, float operators and the verdict."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(_line(f"Verification of {self.path}")), show_lines=False)
        for column in ("level", "result", "findings"):
            table.add_column(column, overflow="fold")
        for level in self.levels:
            colour = _COLOURS[level.status]
            table.add_row(
                level.name,
                Text(level.status, style=colour),
                Text("\n".join(map(_line, level.sentences))),
            )
        console.print(table)
        _print_some(console, "Differences", [difference.message for difference in self.identity])
        tail = [f"{kernel.module} ({kernel.op}): {kernel.reason}" for kernel in self.tail]
        _print_some(console, "Tail in float", tail)
        reasons = [f"{kernel.module} ({kernel.op}): {kernel.reason}" for kernel in self.float_ops if kernel.reason]
        _print_some(console, "In float", reasons)
        if not self.failed("information"):  # which would say the same
            _print_some(console, "Warning", list(map(str, self.wasted_codes)))
        if self.saturation is not None and self.saturation.prediction:
            console.print(Text(f"Saturation: {self.saturation.prediction}"), soft_wrap=True)
        if self.cpu:  # else nothing ran, as of a bundle of another signer
            console.print(Text(f"{self._machine()}; file {self.file_bytes / 1000:,.1f} kB{self._speed()}"))
        console.print(Text(self.verdict, style=_VERDICT_COLOURS[self.proven]), soft_wrap=True)

    def _speed(self) -> str:
        if "integer" not in self.latency_seconds:
            return ""
        integer, fp32 = self.latency_seconds["integer"], self.latency_seconds.get("fp32")
        own = f"; {integer * 1e3:.2f} ms an image"
        if self.overhead is not None and self.overhead.too_small(integer, fp32):
            return f"; {self.overhead.in_words(integer)} (one thread): {TOO_SMALL}"
        if fp32 is not None:
            return f"{own}, {fp32 / integer:.2f}x the speed of fp32 (one thread)"
        if self.checkpoint is not None:  # its network has no form in float
            return f"{own} (one thread)"
        return f"{own} (one thread; --checkpoint compares with fp32)"

    def _machine(self) -> str:
        features = [name for name, present in self.cpu.items() if present is True]
        known = self.cpu.get("model", self.cpu.get("architecture"))
        return f"{known}: {', '.join(features) or 'no known integer instructions'}"


_VERDICTS: dict[Proven, Callable[[VerificationReport], str]] = {
    "VERIFIED": lambda report: f"VERIFIED against {report.checkpoint}: {report.path}: {report._proof()}",
    "CONSISTENT": VerificationReport._consistent,
    "FAILED": lambda report: f"FAILED {report.path}: {report._failure()}",
}


def _line(text: str) -> str:
    """Text in which names of a file cannot begin a line of their own."""
    return printable(text, keep="")


def _print_some(console: Console, title: str, lines: list[str]) -> None:
    """Print the first lines, and how many more there are."""
    from rich.text import Text

    for line in lines[:_SHOWN]:
        console.print(Text(_line(f"{title}: {line}")), soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(Text(f"{title}: {len(lines) - _SHOWN} more (see --json)"))
