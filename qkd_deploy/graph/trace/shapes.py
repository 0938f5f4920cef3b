"""Facts about a traced value: its shape, the dimensions that follow the batch, its type or its Python value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.trace.batch_sizes import agree
from qkd_deploy.graph.trace.errors import Untraceable


@dataclass(frozen=True)
class Facts:
    """How one value of a traced network looks; ``raw_graph`` copies it into the value's ``Node``.

    Attributes:
        shape: of a tensor, for the examples; None for other values.
        batch_dims: the tensor's dimensions that follow the batch.
        dtype: type of the tensor's elements.
        is_python: true for values without any tensor in them: sizes and numbers that the graph computes.
        value: such a value, for the examples.
        is_fixed: true where such a value is the same at all batch sizes that were tried.
        unchanged: true for calls that returned their first operand as it was: type, shape and elements.
        line: of the user's code that made the value, as ``file:line``.
    """

    shape: tuple[int, ...] | None = None
    batch_dims: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    is_python: bool = False
    value: Any = None
    is_fixed: bool = False
    unchanged: bool = False
    line: str = ""


def facts_of(one: Any, two: Any, *others: Any, unchanged: bool = False, line: str = "") -> Facts:
    """Read the facts of a value from what it is for the examples (``one``), for twice as many (``two``) and beyond.

    A number is fixed only where it is the same at all batch sizes: ``batch // 64`` is 0 at the first two.
    """
    if isinstance(one, Tensor):
        batch_dims = tuple(dim for dim, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b)
        return Facts(tuple(one.shape), batch_dims, one.dtype, unchanged=unchanged, line=line)
    if has_tensor(one):
        return Facts(line=line)
    return Facts(is_python=True, value=one, is_fixed=agree((one, two, *others)), line=line)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors nested in a value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def has_tensor(value: Any) -> bool:
    """Tell whether there is a tensor anywhere in a value."""
    return bool(tensors_in(value))


def require_open_batch(one: Tensor, two: Tensor) -> None:
    """Refuse a tensor whose sizes are neither fixed nor multiples of the batch.

    Args:
        one: a tensor computed from the examples.
        two: the same for twice as many.

    Raises:
        Untraceable: complex numbers, a size that depends on values or on the batch in another way, or a batch dimension
            that is lost.
    """
    shapes = f"shapes {list(one.shape)} and {list(two.shape)} for the examples and for twice as many"
    if one.is_complex():
        raise Untraceable("its result is complex, which no quantizer can hold", "transform back inside and {leaf}")
    if one.dim() != two.dim():
        raise Untraceable(
            f"the network runs at one batch size only: {shapes}",
            "name the dimensions that squeeze() and the like may remove, as in squeeze(-1)",
        )
    if any(b not in (a, 2 * a) for a, b in zip(one.shape, two.shape, strict=True)):
        raise Untraceable(
            "the size of its result depends on the values of a tensor, or on the batch in another way than as a "
            f"multiple ({shapes})",
            "use masks or torch.where, which keep the size, or leave that step out of the network",
        )
