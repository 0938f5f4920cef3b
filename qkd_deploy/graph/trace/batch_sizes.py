"""Values at other batch sizes than that of the examples: tracing must not fix what the batch decides.

Every call runs on the examples and on twice as many. Two results tell whether a *size* follows the batch, because sizes
are linear in the batch; they do not tell it of *arithmetic* on the batch: ``batch // 64`` and ``batch == 1`` look
constant at any two batch sizes. Numbers without tensors are therefore known at all batch sizes of ``BATCHES``: sizes by
the line through their two values, arithmetic by computing it at each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BATCHES = (*range(1, 257), 512, 1000, 1024, 4096)
"""Batch sizes at which arithmetic on the batch size is tried, beside the example's and twice that."""


class Unknown:
    """A number that does not exist at some batch size, like an odd batch halved; equal to nothing."""


def more_examples(value: Any) -> Any:
    """Return an input at twice its batch: the examples and as many other values in their range.

    Other values, so that sizes that follow from values (``nonzero``) differ from sizes that follow from the batch.
    """
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return torch.cat([value, value.flip(tuple(range(value.dim())))])
    low, high = 0.0, 1.0
    if value.numel():
        low, high = float(value.min()), float(value.max())
    width = (high - low) or 1.0
    generator = torch.Generator().manual_seed(0)
    other = torch.rand(value.shape, generator=generator) * width + low
    return torch.cat([value, other.to(value)])


def two_or_more(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the examples, doubled where there is only one: in train mode batch norms need two."""
    if next(iter(inputs.values())).shape[0] > 1:
        return inputs
    return {name: more_examples(value) for name, value in inputs.items()}


def agree(values: tuple[Any, ...]) -> bool:
    """Tell whether Python values are all of one type and equal."""
    first = values[0]
    return not isinstance(first, Unknown) and all(_same(first, value) for value in values)


def _same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and bool(one == two)


def is_on_a_line(seen: tuple[Any, ...], batch: int) -> bool:
    """Tell whether two values of a number say what it is at every multiple of the examples' batch.

    ``batch // 8`` lies on a line at multiples of 8, as code that groups every 8 images assumes; ``1 + batch // 64`` and
    ``batch % 64`` do not, and what an operation makes of them at another batch cannot be told from two.

    Args:
        seen: the number at ``batch``, at twice that, and at each of ``BATCHES`` (``Concrete.seen``).
        batch: of the examples.
    """
    one, two, *others = seen
    known = [(other, value) for other, value in zip(BATCHES, others, strict=True) if other % batch == 0]
    return all(_same(_at_batch(other, one, two, batch), value) for other, value in known)


def at_other_batches(one: Any, two: Any, batch: int) -> tuple[Any, ...]:
    """Return a size at each of ``BATCHES``: on the line through ``one`` (at ``batch``) and ``two`` (at twice that)."""
    return tuple(_at_batch(other, one, two, batch) for other in BATCHES)


def _at_batch(other: int, one: Any, two: Any, batch: int) -> Any:
    if isinstance(one, (tuple, list)) and type(one) is type(two) and len(one) == len(two):
        return _parts_at_batch(other, one, two, batch)
    if type(one) is int and type(two) is int:
        steps, rest = divmod((two - one) * (other - batch), batch)
        return Unknown() if rest else one + steps
    return one if _same(one, two) else Unknown()


def _parts_at_batch(other: int, one: Any, two: Any, batch: int) -> Any:
    parts = [_at_batch(other, a, b, batch) for a, b in zip(one, two, strict=True)]
    return Unknown() if any(isinstance(part, Unknown) for part in parts) else type(one)(parts)
