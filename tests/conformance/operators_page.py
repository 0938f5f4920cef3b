"""``docs/operators.md``, from the contract table and from the results of the full conformance suite."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from trial import WIDTHS

from qkd_deploy.graph.ops import contract

INTERNAL = (
    *("batch_norm", "input", "requantize", "rescale", "constant", "python", "float", "dropout"),
    *("exponential", "weighted_mean"),
)
"""Kinds that stand for no operation of the user's, or for one that deployment drops."""

BITS = {
    "layer": "the layer's activation bits",
    "wide": "8 (or the network's with `--residual shared`)",
    "pool": "8",
    "codes": "those of its readers",
    "float": "float",
}

BECOMES = {
    "adaptive_avg_pool": "a global average pool, or an average pool where windows have one size",
    "adaptive_max_pool": "a max-pool where windows have one size",
    "attribute": "a transposition of matrices",
    "attention": "a product, a factor, exponentials and a weighted mean",
    "batch_norm": "part of the layer before it, or a depthwise convolution",
    "channel_shuffle": "reshapes and a transposition",
    "copy": "nothing, a reshape, an expansion, or an index where whole tensors repeat",
    "div": "a factor, for a constant divisor",
    "dropout": "nothing",
    "einsum": "transpositions and one product of matrices",
    "flip": "an index",
    "functional_layer": "a layer, where its weight is a parameter",
    "getitem": "a slice, or an index",
    "glu": "two slices, a sigmoid and a product",
    "hard_swish": "a product with a hard sigmoid",
    "identity": "nothing",
    "index_select": "an index",
    "mean": "a global average pool, over any dimensions but the batch",
    "narrow": "a slice",
    "neg": "a factor",
    "pixel_shuffle": "reshapes and a transposition",
    "pixel_unshuffle": "reshapes and a transposition",
    "repeat_interleave": "an index",
    "reshape_like": "a reshape",
    "rsub": "an addition",
    "select": "a slice",
    "silu": "a product with a sigmoid",
    "stack": "a concatenation",
    "sub": "an addition",
    "sum": "a mean with another scale",
}
"""What ``normalize`` makes of spellings that are no kind of the contract table themselves."""

_HOW_COMPARED = """\
frozen model, ONNX Runtime with one and two threads, and the NumPy reference. Each network was trained for a few steps
on inputs with structure, so that batch norms have real statistics and codes depend on the input. Codes that an
operation in float had a part in are counted on their own: a rounding there may flip a code. Networks are small or
narrow, and images have 16 to 96 pixels, so that the speeds, of one thread and batch 1, say little about large ones.
""".splitlines()

_SYMBOLS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.matmul: "@",
    operator.pow: "**",
    operator.neg: "-x",
    operator.getitem: "x[...]",
    getattr: "x.mT",
}
_NAMESPACES = (("nn", nn), ("F", F), ("torch", torch))


def spelling_text(target: Any) -> str:
    """A key of ``SPELLINGS`` as users write it: ``nn.ReLU``, ``F.relu``, ``torch.relu``, ``.relu()``, ``+``."""
    if isinstance(target, str):
        return f".{target}()"
    if target in _SYMBOLS:
        return _SYMBOLS[target]
    name = getattr(target, "__name__", str(target))
    if getattr(torch.Tensor, name, None) is target:
        return f".{name}()"
    for prefix, namespace in _NAMESPACES:
        for public, value in vars(namespace).items():
            if value is target and not public.startswith("_"):
                return f"{prefix}.{public}"
    return name


def contract_part() -> str:
    """Everything that depends on the contract table alone."""
    written: dict[str, list[str]] = {}
    for target, kind in contract.TORCH_OPS.items():
        written.setdefault(kind, []).append(f"`{spelling_text(target)}`")

    def spelled(kind: str) -> str:
        return _listed(written.get(kind, ["see below"]))

    integer = [
        (
            kind.replace("_", " "),
            spelled(kind),
            entry.kernel,
            BITS[entry.operand_bits],
            _step(entry),
        )
        for kind, entry in contract.OPERATORS.items()
        if kind not in INTERNAL
    ]
    rewritten = [(_listed(names), BECOMES[kind]) for kind, names in sorted(written.items()) if kind in BECOMES]
    rewritten.append(("a softmax that one `@` alone reads, on its left", "exponentials and a weighted mean"))
    reasons: dict[str, list[str]] = {}
    for target, reason in contract.FLOAT_REASONS.items():
        reasons.setdefault(reason, []).append(f"`{spelling_text(target)}`")
    head = ("operation", "written as", "kernel of ONNX Runtime", "bits of its operands", "step of its output")
    return "\n".join(
        [
            "## Operations with an integer kernel",
            "",
            *_table(head, integer),
            "",
            "## Operations that become others",
            "",
            *_table(("written as", "becomes"), rewritten),
            "",
            "## Operations that stay in float",
            "",
            "Between quantized borders, named by `prepare` and `inspect`. What is not on this page stays in float too.",
            "",
            *_table(("written as", "why"), [(_listed(names), reason) for reason, names in reasons.items()]),
            "",
            "In float, and still the same in every code on every CPU:",
            "",
            *_table(("operation", "why"), [(k.replace("_", " "), why) for k, why in contract.KIND_REASONS.items()]),
            "",
        ]
    )


def _step(entry: contract.Operator) -> str:
    return "" if entry.step is None else f"1/{round(1 / entry.step)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page; ``rows`` are those of ``conformance.json``."""
    networks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        networks.setdefault(row["network"], {})[row["bits"]] = row
    head = ("network", "in float", "codes that differ, of", "behind float, of", "MACs in integers", *_speed_heads())
    whole = sum(not any(r.get("floats") or r.get("error") for r in by_bits.values()) for by_bits in networks.values())
    exact = sum(r.get("differing", 0) for r in rows)
    total = sum(r.get("compared", 0) for r in rows)
    return "\n".join(
        [
            "# Operators and networks",
            "",
            "Generated by `make conformance` from the contract table (`qkd_deploy/graph/ops/contract.py`) and from",
            "[conformance.json](results/conformance.json).",
            "",
            contract_part(),
            "## Networks",
            "",
            f"{len(networks)} networks at {', '.join(bits.upper() for bits in WIDTHS)}; {whole} are fully integer, and",
            f"{exact:,} of {total:,} codes differ between the",
            *_HOW_COMPARED,
            "",
            *_table(head, [_network_row(name, by_bits) for name, by_bits in networks.items()]),
            "",
        ]
    )


def _speed_heads() -> list[str]:
    return [f"{bits.upper()} over fp32" for bits in WIDTHS]


def _network_row(name: str, by_bits: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    rows = [by_bits[bits] for bits in WIDTHS if bits in by_bits]
    errors = [row["error"] for row in rows if "error" in row]
    if errors:
        return name, f"not prepared: {errors[0]}", *("",) * (3 + len(WIDTHS))
    kept = list(dict.fromkeys(operation for row in rows for operation in row["floats"]))
    behind = sum(row["behind_float"] for row in rows)
    speeds = [by_bits.get(bits, {}).get("speed_over_fp32") for bits in WIDTHS]
    return (
        name,
        ", ".join(kept) or "nothing",
        f"{sum(row['differing'] for row in rows):,} of {sum(row['compared'] for row in rows):,}",
        f"{sum(row['differing_behind_float'] for row in rows):,} of {behind:,}" if behind else "",
        f"{min(row['integer_macs'] for row in rows):.1%}",
        *(f"{speed:.2f}x" if speed else "" for speed in speeds),
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return [cells[0], "|" + "---|" * len(head), *cells[1:]]
