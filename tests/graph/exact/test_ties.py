"""Round steps put many values exactly between two codes, where any other order of roundings gives other codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish, noise
from scales import learned
from torch import Tensor, nn

from qkd_deploy import initialize, prepare

STEPS = [
    (0.1, 0.05), (0.1, 0.2, 0.3), (0.25, 0.5), (0.7, 0.1, 0.05), (0.05, 0.06, 0.15), (0.03, 0.09), (0.07, 0.14, 0.02),
    (0.11, 0.33, 0.02), (0.13, 0.01), (0.17, 0.34, 0.04), (0.19, 0.05, 0.11), (0.23, 0.06, 0.46),
]  # fmt: skip


class Everything(nn.Module):
    """One of each integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([x + self.b(x), F.avg_pool2d(x, 3, 1, 1)], 1)
        x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("steps", STEPS)
def test_round_steps(steps: tuple[float, ...], bits: str) -> None:
    x = noise(6, 2, 13, 13, scale=2.0)
    prepared = prepare(Everything().eval(), bits, (x,))
    initialize(prepared, x)
    for i, quantizer in enumerate(learned(prepared.activations)):
        quantizer.set_scale(steps[i % len(steps)])
    for quantizer in learned(prepared.weights):
        quantizer.set_scale(0.1)
    for name, parameter in prepared.network.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    assert not assert_same_codes(finish(prepared), (x,))
