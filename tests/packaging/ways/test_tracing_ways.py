"""Ways out of code that cannot be traced: each is written as the sentence says, and the network gets its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from refusals import IMAGES, Net
from to_a_file import goes_to_a_file
from torch import Tensor, nn
from ways import Way, follow

Step = Callable[[Any, Any], Any]


def ways(
    wrong: Step, said: str, *right: Step, kept: Step | None = None, examples: Tensor = IMAGES, **modules: nn.Module
) -> Way:
    """A module that takes a wrong step, right ones in its place, and one that is right where it is kept in float."""

    def good(path: Path) -> None:
        for step in right:
            goes_to_a_file(Net(step, **modules), examples)
        if kept is not None:
            goes_to_a_file(Net(kept), examples, overrides={"inner": "float"})

    return Way(lambda path: goes_to_a_file(Net(wrong), examples), said, good)


def assigned(n: Any, x: Any) -> Any:
    first = x[:, :1]
    x[:, 0] = 0
    return x + first


def checked(n: Any, x: Any) -> Any:
    if n.training:
        raise ValueError("targets are needed in training")
    return x


class NoiseInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


def mean_of_large(n: Any, x: Any) -> Any:
    large = (x > 0.5).float()
    return x - (x * large).sum((1, 2, 3), keepdim=True) / large.sum((1, 2, 3), keepdim=True)


KEEP = "keep that module in float: overrides={'inner': 'float'}, or --float inner on the command line"

WAYS: dict[str, Way] = {
    "a decision by values": ways(
        lambda n, x: x * 2 if x.mean() > 0 else x,
        "compute with tensors instead (torch.where, clamp, masks)",
        lambda n, x: torch.where(x.mean((1, 2, 3), keepdim=True) > 0, x * 2, x),
        lambda n, x: x.clamp(min=0.5),
        lambda n, x: x * (x > 0).float(),
    ),
    "a selection by values": ways(
        lambda n, x: x - x[x > 0.5].mean(),
        "use masks or torch.where, which keep the size, or leave that step out of the network",
        mean_of_large,
        lambda n, x: x - torch.where(x > 0.5, x, 0.5),
        lambda n, x: x,
    ),
    "a batch that is a constant": ways(
        lambda n, x: x.view(2, 8, 64).softmax(2).view(2, 8, 8, 8),
        "take the batch from the tensor (x.flatten(1), x.size(0)) instead of a constant",
        lambda n, x: x.flatten(1).softmax(1).view(x.size(0), 8, 8, 8),
    ),
    "the batch as a number": ways(
        lambda n, x: x.view(int(x.shape[0] / 1), -1, 8, 8) if x.shape[0] > 64 else x,
        "write it for any batch (-1 in view and expand, // instead of int())",
        lambda n, x: x.view(-1, 8, 8, 8) + x.mean(0, keepdim=True).expand(x.shape[0] // 1, -1, -1, -1),
    ),
    "the batch taken apart": ways(
        lambda n, x: torch.stack([row - row.mean() for row in x.unbind()]),
        "treat all elements of the batch alike, without loops over them",
        lambda n, x: x - x.mean((1, 2, 3), keepdim=True),
    ),
    "a batch of one that is squeezed": ways(
        lambda n, x: x * x.mean((2, 3)).squeeze().view(-1, 8, 1, 1),
        "name the dimensions that squeeze() and the like may remove, as in squeeze(-1)",
        lambda n, x: x * x.mean((2, 3), keepdim=True).squeeze(-1)[..., None],
        examples=IMAGES[:1],
    ),
    "an assignment to a part": ways(
        assigned,
        f"build the tensor from parts instead (torch.cat, torch.where, F.pad), or {KEEP}",
        lambda n, x: torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1),
        lambda n, x: torch.where(torch.arange(8).view(8, 1, 1) == 0, 0.0, x),
        lambda n, x: F.pad(x[:, 1:], (0, 0, 0, 0, 1, 0)),
        kept=assigned,
    ),
    "random numbers": ways(
        lambda n, x: x + 0.1 * torch.randn_like(x),
        "draw them only if self.training, in a module of its own, or pass them as an input",
        lambda n, x: n.noise(x),
        noise=NoiseInTraining(),
    ),
    "attention that always drops": ways(
        lambda n, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        "draw them only if self.training",
        lambda n, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1 if n.training else 0.0),
    ),
    "complex numbers": ways(
        lambda n, x: torch.fft.fft2(x).abs(),
        f"transform back inside and {KEEP}",
        kept=lambda n, x: torch.fft.ifft2(torch.fft.fft2(x)).real,
    ),
    "a layer in a list": ways(
        lambda n, x: n.layers[0](x),
        "keep modules in attributes, nn.ModuleList or nn.ModuleDict, not in plain lists",
        lambda n, x: n.one(n.some[0](n.named["two"](x))),
        one=nn.Conv2d(8, 8, 1),
        some=nn.ModuleList([nn.Conv2d(8, 8, 1)]),
        named=nn.ModuleDict({"two": nn.Conv2d(8, 8, 1)}),
    ),
    "whatever else fails": ways(
        checked,
        f"{KEEP}, or rewrite it without control flow that depends on values",
        lambda n, x: x,
        kept=checked,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)
