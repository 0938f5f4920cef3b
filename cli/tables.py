"""Tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qkd_deploy.mixed_precision.sensitivity import Sensitivity
    from qkd_deploy.verification.overflow.bounds import Headroom
    from qkd_deploy.workflows.inspect import Inspection

_WIDTH_OF_PIPES = 170


def console(*, stderr: bool = False) -> Console:
    """Where tables are printed; as wide as they like where it is no terminal."""
    from qkd_deploy.console import PlainTextConsole

    found = PlainTextConsole(stderr=stderr)
    return found if found.is_terminal else PlainTextConsole(stderr=stderr, width=_WIDTH_OF_PIPES)


def print_tables(*tables: Table) -> None:
    """Print tables on stdout."""
    for table in tables:
        console().print(table)


def layer_table(model: Inspection) -> Table:
    """One row per layer with weights."""
    from rich.text import Text

    built = any(layer.built is not None for layer in model.layers)
    sums = {found.name: in_words(found) for found in model.sums}
    columns = [
        "layer",
        "op",
        "weights",
        "input",
        "weight scale",
        "output scale",
        "codes",
        "kB",
        "sums in int32",
        "kernel",
    ]
    table = _table("Layers", [*columns, "built"] if built else columns)
    for layer in model.layers:
        low, high = layer.weight_scale
        cells = [
            layer.name,
            layer.op,
            f"{layer.weight_bits} bits",
            _bits(layer.activation_bits),
            f"{low:.3g}" if low == high else f"{low:.3g} .. {high:.3g}",
            "float" if layer.output_scale is None else f"{layer.output_scale:.4g}",
            str(layer.codes_used),
            f"{layer.bytes / 1000:,.1f}",
            sums.get(layer.name, "-"),
            layer.kernel,
        ]
        if built:
            cells.append(", ".join(layer.built or ()) or "-")
        table.add_row(*map(Text, cells))
    return table


def in_words(sums: Headroom) -> str:
    """How far a node's sums are from overflowing int32."""
    return f"acc {sums.bits:.1f} bits, " + (f"{sums.free:.1f} free" if sums.fits else "OVERFLOWS")


def tensor_table(model: Inspection) -> Table:
    """One row per quantized activation."""
    from rich.text import Text

    table = _table("Activations", ["tensor", "bits", "scale", "zero point", "codes"])
    for tensor in model.tensors:
        cells = (tensor.name, str(tensor.bits), f"{tensor.scale:.6g}", str(tensor.zero_point))
        table.add_row(*map(Text, (*cells, f"{tensor.lo} .. {tensor.hi}")))
    return table


def sensitivity_table(found: Sensitivity) -> Table:
    """One row per layer, the most sensitive first."""
    from rich.text import Text

    rise = f"{found.measure} rises by" if found.baseline else found.measure
    table = _table("Layers quantized alone", ["layer", "bits", rise, "parameters", "MACs", "packed kB", "kB saved"])
    for layer in found.layers:
        costs = (f"{layer.parameters:,}", f"{layer.macs:,}", f"{layer.bytes / 1000:,.1f}", f"{layer.saved / 1000:,.1f}")
        table.add_row(*map(Text, (layer.module, layer.bits, f"{layer.loss:.3g}", *costs)))
    return table


def _table(title: str, columns: list[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _bits(bits: int) -> str:
    return "float" if bits == 32 else f"{bits} bits"
