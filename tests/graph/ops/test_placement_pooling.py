"""Pooling in every spelling, and what of it cannot run in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from placement import IMAGES, Small, check
from torch import Tensor, nn

from qkd_deploy import UserError, prepare

INTEGER = {
    "nn.MaxPool2d": lambda: Small(lambda n, x: n.pool(x), pool=nn.MaxPool2d(2)),
    "nn.MaxPool2d overlapping": lambda: Small(lambda n, x: n.pool(x), pool=nn.MaxPool2d(3, stride=2, padding=1)),
    "nn.MaxPool2d rectangular": lambda: Small(lambda n, x: n.pool(x), pool=nn.MaxPool2d((3, 2), (1, 2), (1, 0))),
    "nn.MaxPool2d ceil": lambda: Small(lambda n, x: n.pool(x), pool=nn.MaxPool2d(3, 2, ceil_mode=True)),
    "nn.MaxPool2d dilated": lambda: Small(lambda n, x: n.pool(x), pool=nn.MaxPool2d(2, 1, dilation=2)),
    "F.max_pool2d": lambda: Small(lambda n, x: F.max_pool2d(x, 2)),
    "F.max_pool2d keywords": lambda: Small(lambda n, x: F.max_pool2d(x, kernel_size=3, stride=2, padding=1)),
    "torch.max_pool2d": lambda: Small(lambda n, x: torch.max_pool2d(x, 2)),
    "nn.AvgPool2d": lambda: Small(lambda n, x: n.pool(x), pool=nn.AvgPool2d(2)),
    "nn.AvgPool2d overlapping": lambda: Small(lambda n, x: n.pool(x), pool=nn.AvgPool2d(3, 2, padding=1)),
    "nn.AvgPool2d rectangular": lambda: Small(lambda n, x: n.pool(x), pool=nn.AvgPool2d((2, 4), (1, 2))),
    "F.avg_pool2d": lambda: Small(lambda n, x: F.avg_pool2d(x, 2)),
    "F.avg_pool2d whole image": lambda: Small(lambda n, x: F.avg_pool2d(x, 8)),
    "F.avg_pool2d size of the image": lambda: Small(lambda n, x: F.avg_pool2d(x, x.size(3))),
    "F.avg_pool2d keywords": lambda: Small(lambda n, x: F.avg_pool2d(x, kernel_size=3, stride=1)),
    "padding not counted": lambda: Small(lambda n, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "padding not counted, signed": lambda: Small(
        lambda n, x: F.avg_pool2d(n.conv1(x), (2, 3), (3, 1), (1, 1), count_include_pad=False),
        conv1=nn.Conv2d(8, 8, 1),
    ),
    "overhang": lambda: Small(lambda n, x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    "overhang and padding": lambda: Small(lambda n, x: n.pool(x), pool=nn.AvgPool2d(4, 3, 1, True, False)),
    "ceil mode without overhang": lambda: Small(lambda n, x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "nn.AdaptiveAvgPool2d(1)": lambda: Small(lambda n, x: n.pool(x), pool=nn.AdaptiveAvgPool2d(1)),
    "nn.AdaptiveAvgPool2d((1, 1))": lambda: Small(lambda n, x: n.pool(x), pool=nn.AdaptiveAvgPool2d((1, 1))),
    "nn.AdaptiveAvgPool2d(4)": lambda: Small(lambda n, x: n.pool(x), pool=nn.AdaptiveAvgPool2d(4)),
    "nn.AdaptiveAvgPool2d((2, None))": lambda: Small(lambda n, x: n.pool(x), pool=nn.AdaptiveAvgPool2d((2, None))),
    "F.adaptive_avg_pool2d": lambda: Small(lambda n, x: F.adaptive_avg_pool2d(x, 1)),
    "F.adaptive_avg_pool2d keyword": lambda: Small(lambda n, x: F.adaptive_avg_pool2d(x, output_size=(2, 4))),
    "nn.AdaptiveMaxPool2d(1)": lambda: Small(lambda n, x: n.pool(x), pool=nn.AdaptiveMaxPool2d(1)),
    "F.adaptive_max_pool2d": lambda: Small(lambda n, x: F.adaptive_max_pool2d(x, 4)),
    "mean([2, 3], True)": lambda: Small(lambda n, x: x.mean([2, 3], True)),
    "mean((-2, -1), keepdim)": lambda: Small(lambda n, x: x.mean((-2, -1), keepdim=True)),
    "torch.mean": lambda: Small(lambda n, x: torch.mean(x, dim=(3, 2), keepdim=True)),
    "mean(axis)": lambda: Small(lambda n, x: x.mean(axis=(2, 3), keepdims=True)),
    "mean without keepdim": lambda: Small(lambda n, x: x.mean([2, 3])[:, :, None, None]),
    "mean, then unsqueeze": lambda: Small(lambda n, x: x.mean([2, 3]).unsqueeze(-1).unsqueeze(-1)),
}


@pytest.mark.parametrize("spelling", INTEGER)
def test_pooling_runs_in_integers(spelling: str) -> None:
    check(INTEGER[spelling](), idle_steps=1)  # a second quantizer with the same step as the first has no gradient


FLOAT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mean of everything": (lambda: Small(lambda n, x: x * x.mean()), "mean over the batch"),
    "adaptive without divisor": (lambda: Small(lambda n, x: F.adaptive_avg_pool2d(x, 3)), "windows of several sizes"),
}


@pytest.mark.parametrize("case", FLOAT)
def test_other_pooling_stays_in_float_and_says_why(case: str) -> None:
    build, reason = FLOAT[case]
    account = check(build(), integer=False).prepared.account
    assert any(reason in entry.reason for entry in account.floats), str(account)


class Sequence(nn.Module):
    """One-dimensional convolutions and pools; [N, 4, 16] -> [N, 3]."""

    def __init__(self, pool: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.conv2, self.head = nn.Conv1d(8, 8, 3, stride=2), nn.Linear(8, 3)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.conv1(x))))
        x = F.relu(self.conv2(x))
        return self.head(F.adaptive_avg_pool1d(x, 1).flatten(1))  # type: ignore[no-any-return]


POOL_1D: dict[str, Callable[[Any], Any]] = {
    "none": nn.Identity(),
    "max module": nn.MaxPool1d(2),
    "max function": lambda x: F.max_pool1d(x, 3, 2, 1),
    "average": nn.AvgPool1d(2),
    "average, uneven": lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "adaptive average": nn.AdaptiveAvgPool1d(4),
    "adaptive max": nn.AdaptiveMaxPool1d(4),
}


@pytest.mark.parametrize("pool", POOL_1D)
def test_one_dimensional_networks(pool: str) -> None:
    check(Sequence(POOL_1D[pool]), (noise(3, 4, 16),), idle_steps=1)


def test_pools_that_onnx_cannot_express_are_refused() -> None:
    with pytest.raises(UserError, match="pool pools with a divisor of its own"):
        prepare(Small(lambda n, x: n.pool(x), pool=nn.AvgPool2d(2, divisor_override=3)), "w4a4", (IMAGES,))
    with pytest.raises(UserError, match="avg_pool2d counts padding"):
        prepare(Small(lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)), "w4a4", (IMAGES,))


def test_clips_move_in_front_of_pools() -> None:
    """relu(max_pool(conv)) = max_pool(relu(conv)), which one kernel computes."""
    model = Small(lambda n, x: torch.relu(F.max_pool2d(n.conv1(x), 2)), conv1=nn.Conv2d(8, 8, 1))
    assert check(model).frozen.grid("conv1").lo == 0
