"""The form of the contract: one row for every kind of node, with every fact that any part of the project asks for.

A row is data and small functions. Tracing finds it by the PyTorch operations it stands for, lowering makes nodes of its
kind, passes and placement read its facets, freezing its scales, and both models compute with it. The exporter
and the NumPy reference have tables of their own with the same kinds; tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from torch import Tensor, nn

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.quantized import QuantParams


class Operands(Enum):
    """The needs of an operation: which codes it reads; the values are for the page of operators."""

    LAYER_BITS = "the layer's activation bits"
    WIDE = "8 (or the network's with `--residual shared`)"
    EIGHT_BITS = "8"
    CODES = "those of its readers"  # it acts on codes and passes on what its readers need
    FLOATS = "float"
    NONE = "none"  # it reads no tensors


class Tail(Enum):
    """Where an operation with an integer kernel is computed in float: behind the last integer kernels."""

    NEVER = "never"
    BESIDE_OTHERS = "where it adds or multiplies constants, or stands beside others of the tail"
    ALWAYS = "always"


class Sign(Enum):
    """How far below zero a tensor goes."""

    SIGNED = "signed"
    MOSTLY_POSITIVE = "never far below zero"
    NONNEGATIVE = "never negative"


class Frozen(Protocol):
    """The frozen model, as far as rows need it."""

    @property
    def network(self) -> nn.Module:
        """The user's modules and parameters."""

    def grid(self, key: str) -> QuantParams:
        """The scale and range behind a key."""

    def layer(self, node: Node) -> Any:
        """The integer constants of a layer."""


@dataclass(frozen=True)
class Relabelling:
    """A function that is read off codes which another function made.

    Attributes:
        before: the range that the codes are made on, from the operand's; takes the tensor's name for messages.
        after: what the same codes then stand for.
        make: codes on ``before``, not yet clipped, from the operand's real values and the scale of ``before``.
    """

    before: Callable[[CodeRange, str], CodeRange]
    after: Callable[[CodeRange], CodeRange]
    make: Callable[[Tensor, Tensor], Tensor]


Lower = Callable[[Any, Node, Any], None]
"""Rewrites a raw node into one of a kind, in place; raises ``StaysInFloat`` where it cannot.

The arguments are the ``Lowering``, the node, and what it calls.
"""

Floats = Callable[[nn.Module, Node, tuple[Any, ...], dict[str, Any], bool], Any]
"""Computes a node on floats: network, node, arguments, keyword arguments, whether it is being trained."""

Integers = Callable[["Operator", Frozen, Node, tuple[Any, ...], dict[str, Any]], Any]
"""Computes a node on ``QuantizedTensor``s; None where it has to be computed on floats."""

SignRule = Callable[[Node, Sequence[Sign], nn.Module, Graph], Sign]
"""The sign of a node before its clip, from those of its operands."""

SliceRule = Callable[[nn.Module, Node, Sequence[Node], int], dict[str, int]]
"""Which dimension of which operand (by name) to slice in order to slice one of the result; {} where none will do."""

PortableScale = Callable[[nn.Module, Graph, Node, Sequence[CodeRange], CodeRange], float]
"""The output scale nearest to a given one on which every CPU computes the same codes; raises ``UserError``."""

LowerBound = Callable[[Graph, Node, Sequence[CodeRange]], "float | None"]
"""The least real value that a node computes before it is clipped; None where none is known."""


class StaysInFloat(Exception):
    """Why this use of an operation has no integer kernel, as a sentence for the user."""


def refuse_if(problem: object, reason: str) -> None:
    """Raise ``StaysInFloat`` with the reason where there is the problem."""
    if problem:
        raise StaysInFloat(reason)


def signed(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    """Nothing is known of a result's sign: what an operation without a rule gets."""
    return Sign.SIGNED


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One kind of node.

    Attributes:
        name: the kind.
        docs: what it computes, for the page of operators.
        kernel: the ONNX Runtime kernel that is expected; "" for nodes that make no kernel.
        operands: what it needs of the tensors that it reads.
        own_scale: True where its output is quantized with a scale of its own.
        floats: its computation on floats.
        integers: its computation on codes.
        torch: the module classes, functions and names of tensor methods that it is written as.
        lower: how such a call becomes a node of this kind; required where there is ``torch``.
        step: the fixed 8-bit output scale of functions whose range is known; None where it is learned.
        sign: the sign of its result.
        float_constants: True where it reads its constants (slopes, gains, offsets) as floats.
        adds_steps: True where its further operands are constants, added to the codes of the first in whole steps.
        factor: the operand that becomes signed bytes in products of two activations; None in other kinds.
        sums_products: True where int32 sums of products of two activations have to be kept from overflowing.
        floats_at_the_end: True where integers may give floats, so that the last one needs no quantizer.
        tail: if it is computed in float where nothing in integers reads its result.
        absorbs_clip: True where a clip behind it is a narrower range of its codes.
        moves_with_clip: True where a clip behind it may as well stand in front of it.
        pads: True where zeros are put between the operand's codes.
        scale_factor: what the operand's scale is multiplied by while its codes stay; None where they do not.
        slices: which operands to slice instead of its result; None where that cannot be.
        portable_scale: makes its output scale portable; None where every scale is.
        lower_bound: the least value that it computes; None where nothing is known.
        relabelling: how it is read off another function's codes; None where it is computed.
        in_float: why it computes in float although the result is exact; "" where it does not.
        internal: True for kinds that stand for no operation of the user's.
    """

    name: str
    docs: str
    kernel: str
    operands: Operands
    own_scale: bool
    floats: Floats
    integers: Integers
    torch: tuple[Any, ...] = ()
    lower: Lower | None = None
    step: float | None = None
    sign: SignRule = signed
    float_constants: bool = False
    adds_steps: bool = False
    factor: int | None = None
    sums_products: bool = False
    floats_at_the_end: bool = False
    tail: Tail = Tail.NEVER
    absorbs_clip: bool = False
    moves_with_clip: bool = False
    pads: bool = False
    scale_factor: Callable[[Node], float] | None = None
    slices: SliceRule | None = None
    portable_scale: PortableScale | None = None
    lower_bound: LowerBound | None = None
    relabelling: Relabelling | None = None
    in_float: str = ""
    internal: bool = False

    def __post_init__(self) -> None:
        """Refuse rows that contradict themselves, when the table is imported."""
        if bool(self.torch) != (self.lower is not None):
            raise TypeError(f"{self.name}: torch and lower go together")
        if self.own_scale and self.operands in (Operands.FLOATS, Operands.EIGHT_BITS) and not self.kernel:
            raise TypeError(f"{self.name}: what has a scale of its own needs a kernel")
        if self.step is not None and not self.own_scale:
            raise TypeError(f"{self.name}: a fixed scale needs own_scale")

    @property
    def moves_codes(self) -> bool:
        """True where it acts on codes whatever they stand for."""
        return self.operands is Operands.CODES


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """An operation of PyTorch's that becomes nodes of other kinds.

    Attributes:
        name: what it is called.
        becomes: what it is rewritten to, for the page of operators.
        torch, lower: as for ``Operator``.
    """

    name: str
    becomes: str
    torch: tuple[Any, ...]
    lower: Lower
