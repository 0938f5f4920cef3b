"""The verdict in plain words, and the numbers that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qkd_deploy.bits import BitWidths
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.sections.proof import first_difference
from qkd_deploy.report.tables import duration, kilobytes, percent
from qkd_deploy.verification.overhead import TOO_SMALL
from qkd_deploy.verification.report import VerificationReport

_FLOAT_BYTES = 4
Mood = Literal["good", "half", "bad", "open"]


@dataclass(frozen=True)
class Tile:
    """One number: what it is, its value, and a remark."""

    title: str
    value: str
    remark: str
    mood: Mood = "open"


@dataclass(frozen=True)
class Summary:
    """The top of the page.

    Attributes:
        mood: of the verdict.
        verdict: one word or two.
        sentence: what it means.
        layer: the first layer that differs; "" where none does.
        lead: what was trained, in a sentence or two.
        tiles: the numbers.
    """

    mood: Mood
    verdict: str
    sentence: str
    layer: str
    lead: str
    tiles: Sequence[Tile]


def summary(findings: Findings) -> Summary:
    """Say what matters most about a run."""
    mood, verdict, sentence, layer = _verdict(findings)
    tiles = [tile for tile in (_figure(findings), _bits(findings), _proof(findings), *_file(findings)) if tile]
    return Summary(mood, verdict, sentence, layer, _lead(findings), tiles)


def _verdict(findings: Findings) -> tuple[Mood, str, str, str]:
    report = findings.verification
    if report is None and findings.training is None:
        return "open", "NOT FINISHED", "This run is still being trained, or was interrupted.", ""
    if report is None:
        return "open", "NOT EXPORTED", "The network is trained. No file for devices was written yet.", ""
    if report.proven == "VERIFIED":
        told = "The file computes exactly what was trained: every code of every layer is equal."
        return "good", "VERIFIED", told + _lost(report), ""
    if report.proven == "CONSISTENT":
        told = "The file agrees with itself. Whether it is what was trained is not proved: model.pt is not there."
        return "half", "CONSISTENT", told + _lost(report), ""
    layer, how = first_difference(report)
    if layer:
        return "bad", "DIFFERS", f"The file does not compute what was trained. {how[:1].upper()}{how[1:]}.", layer
    return "bad", "FAILED", f"The file did not pass. {report.verdict}.", ""


def _lost(report: VerificationReport) -> str:
    """A remark on tensors whose codes say hardly anything."""
    named = ", ".join(wasted.tensor for wasted in report.wasted_codes)
    return f" But parts of {named} have codes that tell their values no longer, as the proof says." if named else ""


def _lead(findings: Findings) -> str:
    config, training = findings.config, findings.training
    teacher = f" with {config.teacher} as its teacher" if config.uses_teacher else ""
    lead = f"{config.model} on {config.dataset}, trained by the method {config.method}{teacher}"
    if training is None:
        return f"{lead}. {len(findings.records)} epochs are done."
    reached = f"{lead}. As an integer model it reaches {percent(training.accuracy)} {findings.measure}"
    reached += f" on {training.images:,} held-out images"
    start = _start(findings)
    if start is None:
        return f"{reached}."
    points = training.accuracy - start
    if abs(points) < 0.005:
        return f"{reached}, the same as in full precision before."
    compared = "above" if points > 0 else "below"
    return f"{reached}, {abs(points):.2f} points {compared} its start in full precision ({percent(start)})."


def _start(findings: Findings) -> float | None:
    """What the student reached in full precision."""
    start = findings.start
    if start is not None and start.figures:
        return start.accuracy
    floats = [r.accuracy for r in findings.records if r.measured == "student" and r.accuracy is not None]
    return floats[-1] if floats else None


def _figure(findings: Findings) -> Tile | None:
    training, start = findings.training, _start(findings)
    if training is None:
        known = [record for record in findings.records if record.accuracy is not None]
        return Tile(f"{findings.measure} so far", percent(known[-1].accuracy), "last epoch") if known else None
    remark = "of the integer model" if start is None else f"float: {percent(start)}"
    report = findings.verification
    if report is not None and not report.passed and report.accuracy["runtime"] is not None:
        remark = f"as trained, but {percent(report.accuracy['runtime'])} of the file on {report.images:,} images"
    further = "".join(f". {name}: {percent(value)}" for name, value in list(training.figures.items())[1:])
    return Tile(findings.measure, percent(training.accuracy), remark + further)


def _bits(findings: Findings) -> Tile:
    config = findings.config
    of = "weights, and float activations" if BitWidths.parse(config.bits).weights_only else "weights and activations"
    ends = f"first and last layer {config.first_last_bits} bits"
    if config.bits_for or config.auto_bits:
        ends = f"chosen by layer under {config.auto_bits}" if config.auto_bits else f"{ends}, some layers others"
    return Tile("bits", config.bits.upper(), f"of {of}, {ends}")


def _proof(findings: Findings) -> Tile | None:
    report = findings.verification
    if report is None or not report.compared_codes:
        return None
    mood: Mood = "bad" if report.differing_codes else "good"
    return Tile("codes that differ", f"{report.differing_codes:,}", f"of {report.compared_codes:,} compared", mood)


def _file(findings: Findings) -> list[Tile]:
    report = findings.verification
    if report is None:
        return []
    tiles = [Tile("file", kilobytes(report.file_bytes), "")]
    if findings.codes is not None:
        floats = _FLOAT_BYTES * findings.codes.parameters
        remark = f"its parameters as float32: {kilobytes(floats)}"
        tiles = [Tile("file", kilobytes(report.file_bytes), remark)]
    if report.kernels:
        integer = sum(kernel.integer for kernel in report.kernels)
        mood: Mood = "good" if integer == len(report.kernels) else "half"
        behind = f", {len(report.tail)} float ones behind them" if report.tail else ""
        tiles.append(Tile("integer kernels", f"{integer} of {len(report.kernels)}", f"in ONNX Runtime{behind}", mood))
    latency = report.latency_seconds
    if "integer" in latency:
        remark = f"one thread, float32 takes {duration(latency['fp32'])}" if "fp32" in latency else "one thread"
        if report.overhead is not None and report.overhead.too_small(latency["integer"], latency.get("fp32")):
            remark += f". Of this, {duration(report.overhead.seconds)} are overhead of operators: {TOO_SMALL}"
        tiles.append(Tile("time of an image", duration(latency["integer"]), remark))
    return tiles
