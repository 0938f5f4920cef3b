"""Flattening, reshaping, transposing, joining and splitting tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from placement import IMAGES, check
from torch import Tensor, nn

from qkd_deploy import UserError, prepare


class Flattened(nn.Module):
    """conv + relu -> ``flatten`` -> linear."""

    def __init__(self, flatten: Callable[[Any], Any], features: int = 8 * 16, **modules: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.hidden, self.head = nn.Linear(features, 6), nn.Linear(6, 4)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(torch.relu(self.conv(x)))
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


FLATTEN: dict[str, Callable[[Any], Any]] = {
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "torch.flatten keyword": lambda x: torch.flatten(x, start_dim=1),
    "method": lambda x: x.flatten(1),
    "nn.Flatten": nn.Flatten(),
    "view size(0)": lambda x: x.view(x.size(0), -1),
    "view shape[0]": lambda x: x.view(x.shape[0], -1),
    "view -1 first": lambda x: x.view(-1, 8 * 4 * 4),
    "view tuple": lambda x: x.view((x.size()[0], 128)),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "unpacked shape": lambda x: x.view(_batch(x), 128),
    "computed size": lambda x: x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)),
    "contiguous": lambda x: x.contiguous().view(x.size(0), -1),
    "twice": lambda x: x.flatten(2).flatten(1),
    "transposed": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "transpose": lambda x: x.transpose(1, 2).reshape(x.size(0), -1),
    "torch.permute": lambda x: torch.permute(x, (0, 3, 1, 2)).flatten(1),
}


def _batch(x: Any) -> Any:
    n, _, _, _ = x.shape
    return n


@pytest.mark.parametrize("spelling", FLATTEN)
def test_flattening_acts_on_codes(spelling: str) -> None:
    deployed = check(Flattened(FLATTEN[spelling]))
    assert deployed.model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_batch_size_in_the_code_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"one batch size only.*x\.flatten\(1\)"):
        prepare(Flattened(lambda x: x.view(3, 128)), "w4a4", (IMAGES,))


class Joined(nn.Module):
    """Two convolutions, joined by ``join``, and a third one."""

    def __init__(self, join: Callable[[Any, Any], Any], width: int = 12) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(width, 8, 1), nn.Linear(8, 4)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.join(torch.relu(self.left(x)), self.norm(self.right(x)))
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


JOIN: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "torch.cat": (lambda a, b: torch.cat([a, b], 1), 12),
    "tuple and keyword": (lambda a, b: torch.cat((a, b), dim=1), 12),
    "negative dim": (lambda a, b: torch.concat([a, b], dim=-3), 12),
    "three": (lambda a, b: torch.cat([a, b, a], 1), 16),
    "relu behind": (lambda a, b: torch.relu(torch.cat([a, b], 1)), 12),
    "nested": (lambda a, b: torch.cat([torch.cat([a, a], 1), b], 1), 16),
    "pooled branch": (lambda a, b: torch.cat([a, nn.functional.max_pool2d(b, 3, 1, 1)], 1), 12),
    "spatial": (lambda a, b: torch.cat([b, b], 2), 8),
}


@pytest.mark.parametrize("case", JOIN)
def test_concatenation(case: str) -> None:
    join, width = JOIN[case]
    check(Joined(join, width), idle_steps=int(case == "nested"))  # two joins of the same parts have the same step


def test_what_no_output_needs_is_dropped() -> None:
    prepared = check(Joined(lambda a, b: b, 8)).prepared
    assert not any(entry.name == "left" for entry in prepared.account.entries)


class Split(nn.Module):
    def __init__(self, split: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.head, self.split = nn.Linear(6, 4), split

    def forward(self, x: Tensor) -> Tensor:
        parts = self.split(torch.relu(self.conv(x)))
        y = torch.relu(self.a(parts[0]) + self.b(parts[1]))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


SPLIT: dict[str, Callable[[Any], Any]] = {
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, 2, dim=1),
    "split": lambda x: x.split(4, dim=1),
    "split sizes": lambda x: torch.split(x, [4, 4], 1),
    "tensor_split": lambda x: x.tensor_split(2, dim=1),
    "slices": lambda x: (x[:, :4], x[:, 4:]),
    "slices behind an ellipsis": lambda x: (x[..., :4, :, :], x[:, -4:, ...]),
    "narrow": lambda x: (x.narrow(1, 0, 4), torch.narrow(x, dim=1, start=3, length=4)),
    "parts of pixels": lambda x: (x[:, :4, :, 2:], x[:, 4:, :, :-2]),
}


@pytest.mark.parametrize("spelling", SPLIT)
def test_splitting_acts_on_codes(spelling: str) -> None:
    check(Split(SPLIT[spelling]))


class Similarities(nn.Module):
    """How alike all pairs of images are, so that two dimensions follow the batch, in another ``form``."""

    def __init__(self, form: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 8, 3), form

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        return self.form(y @ y.T)  # type: ignore[no-any-return]


PAIRS: dict[str, Callable[[Any], Any]] = {
    "unsqueeze": lambda y: y.unsqueeze(1),
    "index": lambda y: y[:, None],
    "dropped": lambda y: y[..., None].relu()[..., 0],
    "copied": lambda y: y.contiguous(),
    "view_as": lambda y: y.view_as(y * 2),
    "data": lambda y: y + y.data,
    "stacked": lambda y: torch.stack([y, y * 2], 2),
}


@pytest.mark.parametrize("spelling", PAIRS)
def test_shapes_with_the_batch_in_two_dimensions_are_kept_in_float(spelling: str) -> None:
    check(Similarities(PAIRS[spelling]), integer=False)
