"""A whole network traced: the prepared model computes what the network computes, at every batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise, settle
from placement import Small
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.graph.trace.trace import trace

IMAGES = noise(3, 3, 8, 8)


class Windows(nn.Module):
    """Attention in windows of 4 x 4, in the ways in which model libraries compute with shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head, self.bias = nn.Linear(8, 4), nn.Parameter(torch.zeros(16, 16))
        self.register_buffer("index", torch.arange(256).view(16, 16))

    def forward(self, x: Any) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        B, H, W, C = x.shape
        assert isinstance(x, Tensor) and isinstance(H, int) and len(x.shape) == x.dim() == 4
        if H % 4 or W % 4:
            raise ValueError("sizes are multiples of 4")
        windows = x.view(B, H // 4, 4, W // 4, 4, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, C)
        count = windows.shape[0] // B
        assert count == 4 and windows.shape[0] % count == 0 and windows.shape == (B * count, 16, C)
        q, k, v = self.qkv(windows).reshape(-1, 16, 3, 2, C // 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias.view(-1)[self.index.view(-1)].view(1, 1, 16, 16)  # type: ignore[operator]
        y = ((q @ k.transpose(-2, -1)) * (C // 2) ** -0.5 + bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, 16, C))
        y = y.view(B, H // 4, W // 4, 4, 4, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        return self.head(y.mean((1, 2)))  # type: ignore[no-any-return]


def follows(model: nn.Module, got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and float((got - expected).norm() / expected.norm()) < 0.2


def test_shape_arithmetic_holds_for_every_batch() -> None:
    model = Windows().eval()
    prepared = prepare(model, "w8a8", (IMAGES,)).eval()
    for batch in (1, 2, 5):
        images = noise(batch, 3, 8, 8)
        assert prepared(images).shape == model(images).shape == (batch, 4)
    sizes = [node for node in trace(Windows(), (IMAGES,)).graph.nodes if node.target is getattr]
    assert sizes, "the batch size stays a step of the graph"


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "parts in a loop": lambda n, x: torch.cat([torch.relu(part) for part in x.chunk(4, 1)], 1),
    "a module made in forward": lambda n, x: nn.ReLU()(x),
    "sizes of an interpolation": lambda n, x: F.max_pool2d(F.interpolate(x, size=[2 * s for s in x.shape[-2:]]), 2),
    "in place": lambda n, x: x.__iadd__(n.conv(x)) + x,
    "zeros of a size": lambda n, x: n.conv(x) + torch.zeros(x.shape[0], x.shape[1], 8, 8, dtype=x.dtype),
    "a tensor made of sizes": lambda n, x: n.conv(x) * torch.linspace(1, 2, x.shape[-1]),
    "a buffer": lambda n, x: n.conv(x) * n.factor.view(1, -1, 1, 1).exp(),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_prepared_model_computes_what_the_network_computes(way: str) -> None:
    model = settle(Small(WAYS[way], conv=nn.Conv2d(8, 8, 1)))
    model.register_buffer("factor", torch.linspace(0, 1, 8))
    prepared = prepare(model, "w8a8", (IMAGES,)).eval()
    initialize(prepared, IMAGES)
    images = noise(5, 3, 8, 8, seed=1)
    with torch.no_grad():
        assert follows(model, prepared(images), model(images.clone()))
        prepared.network.get_buffer("factor").mul_(-1)
        model.get_buffer("factor").mul_(-1)
        assert follows(model, prepared(images), model(images.clone())), "buffers are read, not baked in"


def test_tracing_draws_no_random_numbers_and_changes_no_inputs() -> None:
    network, images = Small(lambda n, x: F.dropout(x, 0.5, n.training).add_(1)), IMAGES.clone()
    state = torch.get_rng_state()
    trace(network, (images,))
    assert torch.equal(images, IMAGES)
    assert torch.equal(state, torch.get_rng_state())
