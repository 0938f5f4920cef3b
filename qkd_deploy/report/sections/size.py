"""Sizes by layer."""

from __future__ import annotations

from dataclasses import dataclass

from qkd_deploy.report import svg
from qkd_deploy.report.charts import Bar, bars
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.tables import Plot, Table, kilobytes, share

MOST_BARS = 60
_FLOAT_BYTES = 4
_REST = "graph, records and golden results"


@dataclass(frozen=True)
class Size:
    """The section.

    Attributes:
        plot: sizes by layer.
        total: bytes of the file; of a checkpoint, of its layers as they are exported.
        layers: bytes of all layers.
        floats: bytes of all parameters in float32; 0 where they are not known.
        exported: the sizes are those of a file.
        hidden: layers that are only in the table.
    """

    plot: Plot
    total: int
    layers: int
    floats: int
    exported: bool
    hidden: int


def size(findings: Findings) -> Size | None:
    """Draw the sizes of layers; None where they are not known."""
    found = findings.inspection
    if found is None:
        return None
    layers, exported = sum(layer.bytes for layer in found.layers), found.kind == "onnx"
    total = found.bytes if exported else layers
    if not total:
        return None
    drawn = sorted(found.layers, key=lambda layer: -layer.bytes)[:MOST_BARS]
    rows = [
        Bar(layer.name, f"{kilobytes(layer.bytes)}, {share(layer.bytes / total)}", [(layer.bytes, svg.BLUE)])
        for layer in found.layers
        if layer in drawn
    ]
    if total > layers:
        rest = total - layers
        rows.append(Bar(_REST, f"{kilobytes(rest)}, {share(rest / total)}", [(rest, svg.MUTED)]))
    floats = 0 if findings.codes is None else _FLOAT_BYTES * findings.codes.parameters
    plot = Plot("Size by layer", bars(rows, "Bytes in the file by layer"), _table(findings, total))
    return Size(plot, total, layers, floats, exported, len(found.layers) - len(drawn))


def _table(findings: Findings, total: int) -> Table:
    found = findings.inspection
    assert found is not None
    rows = []
    for layer in found.layers:
        low, high = layer.weight_scale
        scale = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        bits = "float" if layer.activation_bits == 32 else str(layer.activation_bits)
        kernels = ", ".join(layer.built) if layer.built else layer.kernel
        cells = [layer.name, layer.op, str(layer.weight_bits), bits, scale, str(layer.codes_used), kernels]
        rows.append([*cells, kilobytes(layer.bytes), share(layer.bytes / total)])
    left = total - sum(layer.bytes for layer in found.layers)
    if left > 0:
        rows.append([_REST, *[""] * 6, kilobytes(left), share(left / total)])
    columns = ["layer", "operator", "weight bits#", "input bits#", "weight scale#", "weight codes used#", "kernel"]
    return Table("Layers of the file", [*columns, "size#", "share#"], rows)
