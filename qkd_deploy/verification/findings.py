"""The single findings that a verification is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Level:
    """One level of the verification; the first sentence of ``sentences`` is the summary."""

    name: str
    status: Status
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One finding; ``kind`` is constant, node, graph, metadata, digests, golden or file; ``module`` is the user's."""

    kind: str
    name: str
    module: str
    message: str


@dataclass(frozen=True)
class FirstDifference:
    """The first quantized tensor, in graph order, whose codes differ between two ways of computing them."""

    module: str
    tensor: str
    count: int
    between: str


@dataclass(frozen=True)
class Kernel:
    """One node of the runtime's graph that computes; ``reason`` says why a float one is not an integer one.

    ``tail``: it computes in float behind the last integer kernels, as the file says of itself.
    """

    op: str
    module: str
    integer: bool
    reason: str = ""
    tail: bool = False
