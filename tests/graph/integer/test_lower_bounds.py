"""Products and averages that are never far below zero: where no integer clip is needed, and where it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deployment import SATURATES, Deployed, assert_same_codes, finish, noise, settle
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.integer.lower_bounds import lower_bound
from qkd_deploy.graph.ir import Graph, Node, Ref


class Gated(nn.Module):
    """SiLU in front of a convolution, and a gate of few channels over its result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
        self.open, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        y = self.second(x) + 1
        y = F.silu(y) * torch.sigmoid(self.open(x.mean((2, 3), keepdim=True)))
        return self.head(self.second(y).mean((2, 3)))  # type: ignore[no-any-return]


def deployed(step: float, bits: str = "w4a4", **options: object) -> Deployed:
    """With steps of all products set to ``step``; extreme images reach both ends of the grids."""
    torch.manual_seed(0)
    network = Gated()
    settle(network)
    prepared = prepare(network, bits, noise(8, 3, 9, 9), **options)  # type: ignore[arg-type]
    initialize(prepared, 3 * noise(8, 3, 9, 9))
    for node in prepared.graph.nodes:
        if node.kind == "mul":
            prepared.activation(str(node.quantizer)).set_scale(step)
    return finish(prepared.eval())


def clips(model: Deployed) -> list[str]:
    return [node.name for node in model.model.graph.node if node.op_type == "Clip"]


def products(model: Deployed) -> list[Node]:
    return [node for node in model.frozen.graph.nodes if node.kind == "mul"]


@pytest.mark.parametrize("size", [0.3, 3.0, 30.0, 300.0])
def test_codes_of_products_saturate_at_the_top_of_uint8_instead_of_being_clipped(size: float) -> None:
    model = deployed(step=0.2)
    for node in products(model):
        grid = model.frozen.grid(str(node.quantizer))
        assert grid.bounded_below
        if grid.bits == 4:
            assert (grid.lo, grid.hi, grid.zero_point) == (-2, 13, 242)
            assert f"{node.name}/Clip" not in clips(model)
    assert any(model.frozen.grid(str(node.quantizer)).bits == 4 for node in products(model))
    assert not assert_same_codes(model, (size * noise(4, 3, 9, 9, seed=1),))


@pytest.mark.parametrize("size", [0.3, 3.0, 30.0])
def test_fine_steps_need_the_clip(size: float) -> None:
    """The least value of SiLU, -0.278, is three steps of 0.1 below zero, and the grid ends at two."""
    model = deployed(step=0.1)
    silu = [node for node in products(model) if model.frozen.grid(str(node.quantizer)).bits == 4]
    assert silu
    for node in silu:
        grid = model.frozen.grid(str(node.quantizer))
        assert (grid.zero_point, grid.bounded_below) == (2, False)
        assert f"{node.name}/Clip" in clips(model)
    assert not assert_same_codes(model, (size * noise(4, 3, 9, 9, seed=1),))


def test_weights_beyond_64_meet_small_codes_only() -> None:
    """Codes up to 255 times weights beyond +-64 saturate on x86 CPUs without VNNI."""
    model = deployed(0.2, weight_range="full")
    assert all(model.frozen.grid(str(node.quantizer)).zero_point <= 32 for node in products(model))
    assert SATURATES or not assert_same_codes(model, (30 * noise(4, 3, 9, 9, seed=1),))


GRIDS = st.builds(
    CodeRange,
    scale=st.floats(1e-3, 0.5),
    zero_point=st.just(0),
    lo=st.integers(-128, 0),
    hi=st.integers(1, 127),
)


@given(GRIDS, GRIDS, st.floats(1e-2, 1.0))
def test_no_product_is_below_the_bound(a: CodeRange, b: CodeRange, scale: float) -> None:
    nodes = [Node("a", "input"), Node("b", "input"), Node("c", "mul", (Ref("a"), Ref("b")))]
    bound = lower_bound(Graph(nodes, ["a", "b"], Ref("c")), nodes[2], [a, b], scale)
    ends = product((a.lo, a.hi), (b.lo, b.hi))
    exact = min(x * a.scale * y * b.scale for x, y in ends) / scale
    assert bound is not None and exact - 0.51 <= bound <= round(exact)


@given(GRIDS, st.floats(1e-2, 1.0), st.sampled_from(["sigmoid", "hard_sigmoid"]), st.booleans())
def test_no_gated_value_is_below_the_bound(x: CodeRange, scale: float, gate: str, swapped: bool) -> None:
    names = ("g", "x") if swapped else ("x", "g")
    nodes = [Node("x", "input"), Node("g", gate, (Ref("x"),)), Node("y", "mul", tuple(map(Ref, names)))]
    gates = CodeRange(1 / 256, 0, 0, 255)
    operands = [gates, x] if swapped else [x, gates]
    bound = lower_bound(Graph(nodes, ["x"], Ref("y")), nodes[2], operands, scale)
    values = np.arange(x.lo, x.hi + 1) * x.scale
    opened = 1 / (1 + np.exp(-values)) if gate == "sigmoid" else np.clip(values / 6 + 0.5, 0, 1)
    codes = np.rint(values * (np.rint(opened * 256).clip(0, 255) / 256) / scale)
    assert bound is not None and codes.min() - 1 <= bound <= codes.min()


def test_padding_may_be_less_than_every_value_before_it() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(F.hardtanh(self.first(x), 1.0, 6.0), (1, 1, 1, 1))
            return self.second((x * x).clamp(0.9, 20.0))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = Padded()
    settle(network)
    prepared = prepare(network, "w4a4", noise(8, 3, 9, 9))
    initialize(prepared, noise(8, 3, 9, 9))
    model = finish(prepared.eval())
    (square,) = products(model)
    grid = model.frozen.grid(str(square.quantizer))
    assert not grid.bounded_below
    assert not assert_same_codes(model, (3 * noise(4, 3, 9, 9, seed=1),))
