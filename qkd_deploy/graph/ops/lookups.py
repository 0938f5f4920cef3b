"""Any function of single elements, as a table of 256 codes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import kernel, own_call
from qkd_deploy.graph.contract.lowering import Lowering, called, is_computed
from qkd_deploy.graph.contract.operator import Operands, Operator, Sign, Tail, refuse_if
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.quantized import LookupParams, QuantizedTensor, QuantParams


@dataclass(frozen=True)
class Lookup:
    """A function that becomes a table of 256 codes: its name in ONNX, how it is written, and the sign of its values."""

    name: str
    torch: tuple[Any, ...]
    sign: Sign = Sign.SIGNED


LOOKUPS = (
    Lookup("Gelu", (nn.GELU, F.gelu), Sign.MOSTLY_POSITIVE),
    Lookup("Mish", (nn.Mish, F.mish), Sign.MOSTLY_POSITIVE),
    Lookup("Elu", (nn.ELU, F.elu)),
    Lookup("Selu", (nn.SELU, F.selu)),
    Lookup("Celu", (nn.CELU, F.celu)),
    Lookup("Softplus", (nn.Softplus, F.softplus), Sign.NONNEGATIVE),
    Lookup("Softsign", (nn.Softsign, F.softsign)),
    Lookup("LogSigmoid", (nn.LogSigmoid, F.logsigmoid)),
    Lookup("Shrink", (nn.Hardshrink, F.hardshrink, nn.Softshrink, F.softshrink)),
    Lookup("Exp", (torch.exp, "exp"), Sign.NONNEGATIVE),
    Lookup("Erf", (torch.erf, "erf")),
    Lookup("Sqrt", (torch.sqrt, "sqrt"), Sign.NONNEGATIVE),
    Lookup("Abs", (torch.abs, "abs"), Sign.NONNEGATIVE),
    Lookup("Pow", (torch.square, "square"), Sign.NONNEGATIVE),
    Lookup("Pow", (torch.pow, operator.pow, "pow")),
    Lookup("Sin", (torch.sin, "sin")),
    Lookup("Cos", (torch.cos, "cos")),
)
_LOOKUP_OF = {target: lookup for lookup in LOOKUPS for target in lookup.torch}


def lookup_of(network: nn.Module, node: Node) -> Lookup | None:
    """Find the table that a node's own call becomes; None for other calls."""
    return _LOOKUP_OF.get(called(network, node))


def sign_of_call(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """The sign of a function of single elements, whether it becomes a table or stays in float."""
    lookup = lookup_of(network, node)
    return Sign.SIGNED if lookup is None else lookup.sign


def _lower_lookup(low: Lowering, node: Node, target: Any) -> None:
    refuse_if(
        is_computed(node.args[1:], node.kwargs) or not low.is_activation(node.args[0]),
        "a function of several tensors has no integer kernel here",
    )
    low.keep_call(node, LOOKUP)


def _looked_up(grid: QuantParams, x: QuantizedTensor, *_: Any, **__: Any) -> Tensor:
    assert isinstance(grid, LookupParams)
    centered = grid.table.float() - grid.zero_point
    return centered[(x.codes + x.grid.zero_point).long()]


LOOKUP = Operator(
    name="lookup",
    docs="any function of single elements, as a table of 256 codes",
    kernel="GatherElements",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=own_call,
    integers=kernel(_looked_up),
    torch=tuple(_LOOKUP_OF),
    lower=_lower_lookup,
    sign=sign_of_call,
    slices=slice_rules.elements,
)
ROWS = (LOOKUP,)
