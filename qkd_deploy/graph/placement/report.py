"""The account of a prepared network: the kernel of every tensor, and why some stay in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qkd_deploy.graph.contract.operator import Operands
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.activations import DROPOUT
from qkd_deploy.graph.ops.arithmetic import REQUANTIZE
from qkd_deploy.graph.ops.constants import INPUT, SCALAR
from qkd_deploy.graph.ops.float_ops import called_in_words
from qkd_deploy.graph.ops.layers import CONV
from qkd_deploy.graph.placement.place import Placed
from qkd_deploy.graph.replacements import replaced_in_words


@dataclass(frozen=True)
class Entry:
    """One tensor of the network.

    Attributes:
        name: the tensor.
        operation: its kind in the contract table, or the user's operation for float ones.
        bits: e.g. "w4a4" for layers, "8" for the output's quantizer of others, "float" where it has none.
        kernel: the ONNX Runtime kernel that is expected; "" where codes only pass.
        reason: why it stays in float; "" where it does not.
        tail: whether it is computed in float because it stands behind the last integer kernels.
    """

    name: str
    operation: str
    bits: str
    kernel: str
    reason: str
    tail: bool = False


@dataclass(frozen=True)
class Account:
    """All entries, in execution order. ``print(account)`` shows them as a table.

    Attributes:
        entries: the tensors.
        replaced: activation functions that became others, by ``OLD=NEW`` the number of places.
        remarks: on the inputs and the tail, in sentences.
    """

    entries: tuple[Entry, ...]
    replaced: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def floats(self) -> tuple[Entry, ...]:
        """The entries that stay in float."""
        return tuple(entry for entry in self.entries if entry.reason)

    @property
    def tail(self) -> tuple[Entry, ...]:
        """The entries behind the last integer kernels, which make floats of what the outputs return."""
        return tuple(entry for entry in self.entries if entry.tail)

    def __str__(self) -> str:
        head = ("tensor", "operation", "bits", "kernel")
        rows = [head, *((e.name, e.operation, e.bits, e.kernel) for e in self.entries)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        floats = [f"  {e.name} ({e.operation}): {e.reason}" for e in self.floats]
        lines += [f"Replaced: {replaced_in_words(self.replaced)}."] if self.replaced else []
        whole = "Everything in front of the tail runs in integers." if self.tail else "Everything runs in integers."
        verdict = ["Stays in float:", *floats] if floats else [whole]
        return "\n".join([*lines, *self.remarks, *verdict])


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
    inputs = (node for node in placed.graph.nodes if node.kind == INPUT.name and node.reason)
    remarks = [f"input {node.name}: {node.reason}" for node in inputs]
    return Account(tuple(entries), placed.replaced, (*remarks, *_on_the_tail(entries)))


def _on_the_tail(entries: list[Entry]) -> list[str]:
    """A sentence about the tail, where there is one."""
    named = ", ".join(f"{entry.name} ({entry.operation})" for entry in entries if entry.tail)
    behind = "behind the last integer kernels, computed in float because outputs are floats"
    return [f"tail: {named}: {behind}"] if named else []


def _entry(placed: Placed, node: Node, quantized: set[str]) -> Entry:
    reason = _reason(node, quantized)
    operation = called_in_words(node) if operator_of(node).operands is Operands.FLOATS else node.kind
    kernel = "float" if reason or node.tail else _kernel(node)
    return Entry(node.name, operation, _bits(placed, node, quantized), kernel, reason, node.tail)


def _bits(placed: Placed, node: Node, quantized: set[str]) -> str:
    if node.is_layer:
        return str(placed.layer_bits[node.name])
    if _only_moves(node):
        return "codes" if node.name in quantized else "float"
    return str(placed.activations[node.quantizer].bits) if node.quantizer else "float"


def _only_moves(node: Node) -> bool:
    """True for kinds without a scale of their own."""
    return operator_of(node).moves_codes and node.kind != REQUANTIZE.name


def _kernel(node: Node) -> str:
    """The kernel that is expected of a node in integers; linear layers on tokens run as convolutions."""
    if node.kind == INPUT.name and not node.quantizer:
        return ""
    return CONV.kernel if node.is_on_tokens else operator_of(node).kernel


def _reason(node: Node, quantized: set[str]) -> str:
    """Why a node computes in float; "" where it does not."""
    operator = operator_of(node)
    if node.tail:
        return ""
    if node.is_layer:
        return _layer_reason(node)
    if operator.operands is Operands.FLOATS or operator.in_float:
        return operator.in_float or node.reason
    if operator.moves_codes or operator.operands is Operands.NONE:
        return ""
    read = node.inputs[:1] if operator.float_constants else node.inputs
    in_codes = node.quantizer is not None and quantized.issuperset(read)
    return "" if in_codes else "it stands between floats in this placement"


def _layer_reason(node: Node) -> str:
    if node.source is None:
        return "its input is not quantized (weights only)"
    if node.quantizer is None and not operator_of(node).floats_at_the_end:
        return "its output has no quantizer in this placement, and a convolution needs one to run in integers"
    return ""
