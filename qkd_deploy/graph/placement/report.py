"""What of a prepared network runs in integers, and what stays in float and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops.contract import FLOAT_CONSTANTS, KIND_REASONS, OPERATORS
from qkd_deploy.graph.placement.place import Placed


@dataclass(frozen=True)
class Entry:
    """One tensor of the network.

    Attributes:
        name: the tensor.
        operation: its kind in the contract table, or the user's operation for float ones.
        bits: e.g. "w4a4" for layers, "8" for the output's quantizer of others, "float" where it has none.
        kernel: the ONNX Runtime kernel that is expected; "" where codes only pass.
        reason: why it stays in float; "" where it does not.
    """

    name: str
    operation: str
    bits: str
    kernel: str
    reason: str


@dataclass(frozen=True)
class Account:
    """All entries, in execution order. ``print(account)`` shows them as a table."""

    entries: tuple[Entry, ...]

    @property
    def floats(self) -> tuple[Entry, ...]:
        """What stays in float."""
        return tuple(entry for entry in self.entries if entry.reason)

    def __str__(self) -> str:
        rows = [
            ("tensor", "operation", "bits", "kernel"),
            *((e.name, e.operation, e.bits, e.kernel) for e in self.entries),
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not self.floats:
            return "\n".join([*lines, "Everything runs in integers."])
        return "\n".join([*lines, "Stays in float:", *(f"  {e.name} ({e.operation}): {e.reason}" for e in self.floats)])


def account_of(network: nn.Module, placed: Placed) -> Account:
    """The account of a placed graph; what no input has a part in is computed once and for all, at export."""
    constants = placed.graph.constants()
    quantized: set[str] = set()
    entries = []
    for node in placed.graph.nodes:
        if node.quantizer is not None or (OPERATORS[node.kind].operand_bits == "codes" and node.inputs[0] in quantized):
            quantized.add(node.name)
        if node.name not in constants and node.kind not in ("python", "dropout"):
            entries.append(_entry(network, placed, node, quantized))
    return Account(tuple(entries))


def _entry(network: nn.Module, placed: Placed, node: Node, quantized: set[str]) -> Entry:
    operation, kernel, reason = node.kind, OPERATORS[node.kind].kernel, ""
    bits = str(placed.activations[node.quantizer].bits) if node.quantizer else "float"
    if node.is_layer:
        linear = node.kind == "linear"
        matrix = linear and not node.is_on_tokens
        operation, kernel = "linear" if linear else "conv", "QGemm" if matrix else "QLinearConv"
        bits = str(placed.layer_bits[node.name])
        reason = _layer_reason(node, linear)
    elif node.kind in ("float", "batch_norm"):
        operation, reason = _name(node), node.reason
        kernel = ""
    elif node.kind in KIND_REASONS:
        reason = KIND_REASONS[node.kind]
    elif node.kind == "input":
        kernel = kernel if node.quantizer else ""
    elif OPERATORS[node.kind].operand_bits == "codes" and node.kind != "requantize":
        bits = "codes" if node.name in quantized else "float"
    elif any(name not in quantized for name in _operands(node)) or node.quantizer is None:
        reason = "" if node.kind == "requantize" else "it stands between floats in this placement"
    return Entry(node.name, operation, bits, "float" if reason else kernel, reason)


def _operands(node: Node) -> list[str]:
    """The tensors that a kernel reads as codes."""
    return node.inputs[:1] if node.kind in FLOAT_CONSTANTS else node.inputs


def _layer_reason(node: Node, linear: bool) -> str:
    if node.source is None:
        return "its input is not quantized (weights only)"
    if node.quantizer is None and not linear:
        return "its output has no quantizer in this placement, and a convolution needs one to run in integers"
    return ""


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
