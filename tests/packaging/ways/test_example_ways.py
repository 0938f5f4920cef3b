"""Ways out of example inputs that a network cannot be prepared with: with those that the sentence asks for, it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import IMAGES
from to_a_file import goes_to_a_file
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor, factor: float = 2.0) -> Any:
        return self.a(x).mean((2, 3)) * factor + self.b(y)


class FromDict(nn.Module):
    """The small module that takes tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Two()

    def forward(self, x: Tensor, y: Tensor) -> Any:
        batch = {"x": x, "y": y}
        return self.network(**batch)


ROWS = torch.ones(2, 8)


def inputs(wrong: tuple[Any, ...], said: str, *right: tuple[Tensor, ...]) -> Way:
    return Way(
        lambda path: qkd.prepare(Two(), "w8a8", wrong),
        said,
        lambda path: [goes_to_a_file(Two(), *examples) for examples in right],
    )


WAYS: dict[str, Way] = {
    "too few": inputs(
        (IMAGES,),
        "pass example_inputs=(one, two, ...) with one tensor for each argument that has no default",
        (IMAGES, ROWS),
    ),
    "no tensor": Way(
        lambda path: qkd.prepare(Two(), "w8a8", (IMAGES, {"y": ROWS})),
        "prepare a small module that takes tensors and calls the network with what it needs",
        lambda path: goes_to_a_file(FromDict(), IMAGES, ROWS),
    ),
    "no example": inputs((IMAGES[:0], ROWS), "pass at least one example, batch first", (IMAGES[:1], ROWS[:1])),
    "another device": inputs(
        (IMAGES.to("meta"), ROWS), "on meta, the network on cpu; move one of them with .to()", (IMAGES.to("cpu"), ROWS)
    ),
    "another type": inputs(
        (IMAGES.double(), ROWS),
        "pass float32 examples, or integers (x.float())",
        (IMAGES.double().float(), ROWS),
    ),
    "batches of other sizes": inputs(
        (IMAGES, ROWS[:1]), "put the batch first in each", (IMAGES, ROWS[:1].expand(2, 8))
    ),
    "inputs that do not run": inputs(
        (IMAGES, ROWS[:, :7]), "pass example_inputs as forward takes them", (IMAGES, ROWS)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)
