"""The preview computes a layer with the constants of the frozen one, though freezing moves steps of additions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.graph.integer.preview import _without_ties, preview_codes

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """An addition, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.first(x)).relu()  # type: ignore[no-any-return]


def test_a_bias_that_rounds_otherwise_on_the_moved_step() -> None:
    torch.manual_seed(11)  # weights whose addition gets another step
    network = Residual()
    prepared = prepare(network, "w8a8", (IMAGES,)).eval()
    initialize(prepared, IMAGES)
    node = next(node for node in prepared.layers() if node.target == "last")
    assert node.source is not None
    own, moved = prepared.activation(node.source).scale().item(), float(freeze(prepared).grid(node.source).scale)
    assert own != moved
    weight = prepared.weight(node).scale()[0].item() / prepared.weight(node).spec.upscale
    # half way between two integers of the bias grid, for the mean of both steps
    with torch.no_grad():
        prepared.network.get_submodule("last").bias.fill_(2000.5 * weight * (own + moved) / 2)  # type: ignore[operator, union-attr]
    frozen = freeze(prepared)
    bias = frozen.layer(next(n for n in frozen.graph.nodes if n.target == "last")).bias
    assert int(prepared.folded(node).bias[0]) != int(bias[0])  # the case is the one meant
    for name, preview, codes in preview_codes(prepared, frozen, IMAGES):
        assert np.array_equal(preview, codes), name


@pytest.mark.parametrize(
    ("value", "frozen", "counted"),
    [
        (2.5, 3, False),  # half to even gives 2, and 3 is as near
        (3.5 - 1e-6, 4, False),
        (3.5 - 1e-3, 4, True),
        (2.0, 3, True),
        (2.5, 4, True),  # two steps are no tie
    ],
)
def test_only_differences_that_are_no_ties_count(value: float, frozen: int, counted: bool) -> None:
    steps, expected = torch.tensor([value]), torch.tensor([float(frozen)])
    codes = _without_ties(steps, torch.round(steps), expected)
    assert (codes != expected).item() is counted


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "hard sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "exponential": torch.exp,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "sine": torch.sin,
}


class Between(nn.Module):
    """A function between two layers, whose codes are looked up, or read off another function's."""

    def __init__(self, function: Callable[[Tensor], Tensor], gain: float) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), function
        self.first.weight.data *= gain

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_codes_of_functions_that_are_ties_do_not_count(name: str) -> None:
    """Each code of the operand has one result: one tie would be hundreds of differing codes."""
    for seed in range(12):
        torch.manual_seed(seed)
        prepared = prepare(Between(FUNCTIONS[name], 0.2 + seed % 6).eval(), "w8a8", (IMAGES,))
        initialize(prepared, IMAGES)
        frozen = freeze(prepared.eval())
        for tensor, preview, codes in preview_codes(prepared, frozen, IMAGES):
            assert np.array_equal(preview, codes), (seed, tensor)


def test_a_table_with_another_code_counts() -> None:
    torch.manual_seed(0)
    prepared = prepare(Between(F.gelu, 1.0).eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    frozen = freeze(prepared.eval())
    table = frozen.grid("gelu").get_buffer("table")
    table += 1
    found = {name: int((preview != codes).sum()) for name, preview, codes in preview_codes(prepared, frozen, IMAGES)}
    assert found["gelu"] > 1000
