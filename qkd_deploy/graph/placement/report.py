"""What of a prepared network runs in integers, and what stays in float and why."""

from __future__ import annotations

from dataclasses import dataclass

from qkd_deploy.graph.contract.operator import Operands
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import DROPOUT
from qkd_deploy.graph.ops.arithmetic import REQUANTIZE
from qkd_deploy.graph.ops.constants import INPUT, SCALAR
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


def account_of(placed: Placed) -> Account:
    """Report on a placed graph; what no input has a part in is computed once and for all, at export."""
    constants = placed.graph.constants()
    quantized: set[str] = set()
    entries = []
    for node in placed.graph.nodes:
        if node.quantizer is not None or (operator_of(node).moves_codes and node.inputs[0] in quantized):
            quantized.add(node.name)
        if node.name not in constants and node.kind not in (SCALAR.name, DROPOUT.name):
            entries.append(_entry(placed, node, quantized))
    return Account(tuple(entries))


def _entry(placed: Placed, node: Node, quantized: set[str]) -> Entry:
    operator = operator_of(node)
    bits = str(placed.activations[node.quantizer].bits) if node.quantizer else "float"
    if node.is_layer:
        reason = _layer_reason(node)
        kernel = "QLinearConv" if node.is_on_tokens else operator.kernel
        return _described(node, str(placed.layer_bits[node.name]), kernel, reason)
    if operator.operands is Operands.FLOATS:
        return Entry(node.name, _called(node), bits, "float" if node.reason else "", node.reason)
    if operator.in_float:
        return _described(node, bits, operator.kernel, operator.in_float)
    if node.kind == INPUT.name:
        return _described(node, bits, operator.kernel if node.quantizer else "", "")
    if operator.moves_codes and node.kind != REQUANTIZE.name:
        return _described(node, "codes" if node.name in quantized else "float", operator.kernel, "")
    read = node.inputs[:1] if operator.float_constants else node.inputs
    between_floats = node.quantizer is None or any(name not in quantized for name in read)
    reason = "it stands between floats in this placement" if between_floats and node.kind != REQUANTIZE.name else ""
    return _described(node, bits, operator.kernel, reason)


def _described(node: Node, bits: str, kernel: str, reason: str) -> Entry:
    return Entry(node.name, node.kind, bits, "float" if reason else kernel, reason)


def _layer_reason(node: Node) -> str:
    """Why a layer computes in float; "" where it does not."""
    if node.source is None:
        return "its input is not quantized (weights only)"
    if node.quantizer is None and not operator_of(node).floats_at_the_end:
        return "its output has no quantizer in this placement, and a convolution needs one to run in integers"
    return ""


def _called(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
