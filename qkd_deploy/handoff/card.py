"""The model card of a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qkd_deploy import __version__
from qkd_deploy.errors import printable
from qkd_deploy.handoff.golden import GoldenSet
from qkd_deploy.handoff.product import Product
from qkd_deploy.handoff.templates import rendered
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.report import VerificationReport

_PROVEN = {
    "VERIFIED": "against the checkpoint that the file was exported from",
    "CONSISTENT": "the file by itself: no checkpoint was given",
}
_SIDES = {"preview": "the network as it was trained", "frozen": "the integer model"}
"""Where a figure was measured, but for the runtime."""
_FILES = {
    "labels.txt": "the classes, one a line, in the order of the outputs",
    "preprocessing.json": "how an image becomes the model's input",
    "snippets/": "the same in Python, C++, Kotlin and Swift",
    "golden/": "inputs (`input_N.npy`), outputs (`output_N.npy`), those over their scales (`codes_N.npy`)",
    "check.py": "replays the golden inputs on a device: PASS, or FAIL",
    "manifest.json": "SHA-256 of every file",
    "manifest.sig": "signature of the manifest, ed25519",
}


def model_card(
    product: Product,
    report: VerificationReport,
    golden: Mapping[str, GoldenSet],
    licence: str,
    *,
    files: Mapping[str, bytes],
    further: Sequence[str] = (),
    signed: bool,
) -> bytes:
    """Write the card as Markdown."""
    there = {*files, "check.py", "manifest.json", *(["manifest.sig"] if signed else [])}
    listed = [(product.name, f"the model, for {product.title}")]
    if product.decode is not None:
        listed.append((product.decode[0], "computes in float what decodes the model's outputs"))
    listed += [(name, f"for whoever builds or starts {product.title}") for name in further]
    listed += [(name, what) for name, what in _FILES.items() if any(file.startswith(name) for file in there)]
    if product.decode is not None:
        listed = [(n, f"{what}, and what they are decoded to" if n == "golden/" else what) for n, what in listed]
    text = rendered(
        "MODEL_CARD.md.jinja",
        model=_cell(product.name),
        network=f"A network of {product.metadata.bits.upper()}",
        title=product.title,
        rows=[(name, _cell(value)) for name, value in _rows(product, report, golden, licence)],
        version=__version__,
        proven=f"**{report.proven}** ({_PROVEN[report.proven]})",
        levels=[(level.name, level.status, _told(level, report)) for level in report.levels if level.sentences],
        files=[(_cell(name), what) for name, what in listed],
    )
    return printable(text, keep="\n").encode()


def _rows(
    product: Product, report: VerificationReport, golden: Mapping[str, GoldenSet], licence: str
) -> Iterator[tuple[str, str]]:
    known = product.metadata
    yield "licence", licence or "not stated"
    yield "bits", f"{known.bits} (weights, activations), weights stored as {known.weights}"
    for kind, ends in (("input", product.inputs), ("output", product.outputs)):
        for end in ends:
            shape = ", ".join(map(str, product.sizes(end)))
            yield kind, f"`{end.name}`: {end.dtype} [{shape}]" + (f", steps of {end.scale!r}" if end.scale else "")
    if known.classes is not None:
        yield "classes", f"{len(known.classes)}"
    if report.dataset is not None:
        told = report.dataset
        where = f"{told['images']} images of {told['name']} ({told['split']}, fingerprint {told['fingerprint']})"
        for side, value in report.accuracy.items():
            if value is not None:
                yield f"{report.metric}, {_SIDES.get(side, product.title)}", f"{value:.2f} % on {where}"
    if known.accuracy is not None:
        reached = known.accuracy
        name = f"{reached.get('measure', 'accuracy')}, when it was trained"
        yield name, f"{reached['integer']:.2f} % on {reached['images']} images of {reached['dataset']}"
    yield "size", f"{len(product.content):,} bytes"
    yield "SHA-256", hashlib.sha256(product.content).hexdigest()
    if known.checkpoint_sha256:
        yield "SHA-256 of the checkpoint", known.checkpoint_sha256
    yield "golden inputs", ", ".join(f"{len(one.inputs[0])} of {name}" for name, one in golden.items()) or "none"
    yield "steps that outputs may be off", str(product.tolerance)
    yield "runtime that it was verified in", ", ".join(f"{name} {text}" for name, text in report.versions.items())
    for side, seconds in report.latency_seconds.items():
        yield f"latency where it was verified, {side}", f"{1000 * seconds:.3f} ms a sample on one thread"
    cpu = [name if value is True else str(value) for name, value in report.cpu.items() if value is not False]
    yield "CPU that it was verified on", ", ".join(cpu)


def _told(level: Level, report: VerificationReport) -> str:
    """The first sentence of a level, without the folder of whoever packs."""
    checkpoint = report.checkpoint or ""
    return level.sentences[0].replace(checkpoint, Path(checkpoint).name)


def _cell(text: str) -> str:
    """A text as a cell of a table."""
    return printable(text, keep="").replace("|", "\\|")
