"""What multiplies and shifts the output channels of a layer behind its batch norm: constants of the network.

Frozen batch norms, affine layers, layer scales and gains are such constants. They are kept as steps, in the order in
which the user computes them, and read as one factor and one offset a channel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qkd_deploy.graph.contract.borrowed_layers import TensorSource

Pair = tuple[Tensor, Tensor]
"""Factor and offset of every channel, [C] each."""

_STEPS: dict[str, Callable[[Tensor, Tensor, Tensor], Pair]] = {
    "add": lambda factor, offset, value: (factor, offset + value),
    "sub": lambda factor, offset, value: (factor, offset - value),
    "mul": lambda factor, offset, value: (factor * value, offset * value),
    "div": lambda factor, offset, value: (factor / value, offset / value),
}


class ChannelAffine(nn.Module):
    """Multiply and shift channels by the network's own tensors.

    Attributes:
        channels: how many there are.
        steps: one after another, what is done ("add", "sub", "mul" or "div") and with what: a tensor of one element, or
            of one a channel in any shape.
        modules_of_steps: paths of the user's modules that the steps come from.
    """

    def __init__(self, channels: int) -> None:
        """Begin without steps, which change nothing."""
        super().__init__()
        self.channels = channels
        self.steps: tuple[tuple[str, TensorSource], ...] = ()
        self.modules_of_steps: frozenset[str] = frozenset()

    def append(self, kind: str, value: TensorSource, module: str) -> None:
        """Add a step behind the others, which comes from a module of the user's."""
        self.steps += ((kind, value),)
        self.modules_of_steps |= {module}

    def forward(self, x: Tensor, dim: int) -> Tensor:
        """Compute all steps on ``x``, whose channels are in ``dim``, 1 or -1."""
        factor, offset = (value if dim == -1 else value.view(-1, *[1] * (x.dim() - 2)) for value in self.pair())
        return torch.addcmul(offset, x, factor)

    def pair(self) -> Pair:
        """Read factor and offset as they are now, float32, with their gradients."""
        return self._pair([value.read() for _, value in self.steps])

    @torch.no_grad()
    def exact_pair(self) -> Pair:
        """Read factor and offset in float64, the same on every machine."""
        return self._pair([value.exact().double() for _, value in self.steps])

    def _pair(self, values: list[Tensor]) -> Pair:
        factor = torch.ones(self.channels, dtype=values[0].dtype, device=values[0].device)
        offset = torch.zeros_like(factor)
        for (kind, _), value in zip(self.steps, values, strict=True):
            factor, offset = _STEPS[kind](factor, offset, value.reshape(-1))
        return factor, offset
