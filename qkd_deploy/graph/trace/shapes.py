"""What tracing knows about every tensor: the notes that placement, freezing and the exporter read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from qkd_deploy.graph.trace.proxies import Untraceable, has_tensor


@dataclass
class ShapeRecorder:
    """What every value of a traced graph looks like, by the name of its node.

    Attributes:
        shapes: shape of every tensor; None for other values.
        dtypes: type of the elements of every tensor.
        python: values without any tensor in them (sizes, numbers) that the graph computes.
        fixed: those of them that do not depend on the batch size.
        unchanged: whether a call returned its first operand as it was: type, shape and values.
        smallest: smallest element of every floating input.
        batch_dims: dimensions of every tensor that follow the batch.
        lines: of the user's code, where values are made.
    """

    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    python: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    unchanged: dict[str, bool] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)
    batch_dims: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)

    def note(self, node: fx.Node, values: tuple[Any, ...], unchanged: bool) -> None:
        """Write down what a node's values look like; ``values`` are ``Concrete.seen``."""
        one, two = values[:2]
        name = node.name
        self.lines[name] = node.meta.get("line", "")
        if not isinstance(one, Tensor):
            self.shapes[name] = None
            if not has_tensor(one):
                self.python[name] = one
                if type(one) is type(two) and one == two:
                    self.fixed[name] = one
            return
        self.shapes[name] = tuple(one.shape)
        self.dtypes[name] = one.dtype
        self.batch_dims[name] = tuple(i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b)
        if node.op == "placeholder" and one.numel() and one.is_floating_point():
            self.smallest[name] = float(one.min())
        if node.op.startswith("call_"):
            self.unchanged[name] = unchanged


def require_open_batch(one: Any, two: Any) -> None:
    """Refuse a tensor whose sizes are neither fixed nor multiples of the batch.

    Args:
        one: a tensor computed from the examples (other values are accepted).
        two: the same for twice as many.

    Raises:
        Untraceable: complex numbers, a size that depends on values or on the batch in another way, or a batch dimension
            that is lost.
    """
    if not isinstance(one, Tensor):
        return
    if one.is_complex():
        raise Untraceable("its result is complex, which no quantizer can hold", "transform back inside and {leaf}")
    if one.dim() != two.dim():
        raise Untraceable(
            f"the network runs at one batch size only: shapes {list(one.shape)} and {list(two.shape)} for the examples "
            "and for twice as many",
            "name the dimensions that squeeze() and the like may remove, as in squeeze(-1)",
        )
    if any(b not in (a, 2 * a) for a, b in zip(one.shape, two.shape, strict=True)):
        raise Untraceable(
            "the size of its result depends on the values of a tensor, or on the batch in another way than as a "
            f"multiple (shapes {list(one.shape)} and {list(two.shape)} for the examples and for twice as many)",
            "use masks or torch.where, which keep the size, or leave that step out of the network",
        )


def more_examples(value: Any) -> Any:
    """An input at twice its batch: the example and as many other values in its range.

    Other values, so that sizes that follow from values differ from sizes that follow from the batch.
    """
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return torch.cat([value, value.flip(tuple(range(value.dim())))])
    low, high = (float(value.min()), float(value.max())) if value.numel() else (0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    other = torch.rand(value.shape, generator=generator) * ((high - low) or 1.0) + low
    return torch.cat([value, other.to(value)])
