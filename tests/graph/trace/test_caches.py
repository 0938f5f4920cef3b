"""Networks that keep what they have computed: caches are constants, memory of earlier inputs is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from deployment import assert_same_codes, finish, noise, settle
from placement import IMAGES, Small, unquantized
from refusals import Net, refusal
from torch import Tensor, nn

from qkd_deploy import initialize, prepare


class Biases(nn.Module):
    """Position biases as LeViT has them: looked up once in evaluation mode, and always in training."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.Parameter(noise(8, 4, seed=1))
        self.register_buffer("places", torch.arange(64).reshape(8, 8) % 4)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.biases[:, self.places]
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.biases[:, self.places]
        return x + self.cache[key]


class Anchors(nn.Module):
    """Positions as detectors have them: made anew when the shape of the input changes."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: Any = None
        self.anchors = torch.empty(0)
        self.register_buffer("stride", torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.shape != x.shape:
            rows = (torch.arange(x.shape[2]) + 0.5) * self.stride
            self.anchors, self.shape = rows[:, None] - rows, x.shape
        return x * torch.sigmoid(self.anchors)


class Rotary(nn.Module):
    """Angles of positions, made for the longest row so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 0.5 ** torch.arange(8.0), persistent=False)
        self.length, self.cosines = 0, None

    def forward(self, x: Tensor) -> Tensor:
        if self.cosines is None or x.shape[3] > self.length:
            self.length = x.shape[3]
            self.cosines: Any = torch.outer(torch.arange(self.length).float(), self.frequencies).cos()
        return x * self.cosines[: x.shape[3]]


class RotaryInBuffers(Rotary):
    """The same in a buffer that forward registers."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] > self.length:
            self.length = x.shape[3]
            angles = torch.outer(torch.arange(self.length).float(), self.frequencies)
            self.register_buffer("angles", angles, persistent=False)
        return x * self.angles[: x.shape[3]].cos()


CACHES: dict[str, Callable[[], nn.Module]] = {
    "biases": Biases,
    "anchors": Anchors,
    "angles": Rotary,
    "angles in a buffer": RotaryInBuffers,
}


@pytest.mark.parametrize("case", CACHES)
def test_a_network_keeps(case: str) -> None:
    network = settle(Small(lambda n, x: n.cache(n.one(x)), one=nn.Conv2d(8, 8, 1), cache=CACHES[case]()))
    prepared = prepare(network, "w8a8", (IMAGES,))
    with torch.no_grad():
        torch.testing.assert_close(unquantized(prepared, IMAGES), network(IMAGES), atol=1e-5, rtol=1e-4)
    initialize(prepared, IMAGES)
    assert not prepared.account.floats
    assert not assert_same_codes(finish(prepared.eval()), (IMAGES,))


@pytest.mark.parametrize("gradients", [False, True])
def test_a_cache_that_a_call_has_filled_is_emptied_and_what_it_holds_is_trained(gradients: bool) -> None:
    network = settle(Small(lambda n, x: n.cache(x), cache=Biases()))
    with torch.set_grad_enabled(gradients):
        network(IMAGES)
    assert network.cache.cache
    prepared = prepare(network, "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    prepared.train()(IMAGES).square().mean().backward()
    biases = dict(prepared.network.named_parameters())["cache.biases"]
    assert biases.grad is not None and biases.grad.any()
    assert network.cache.cache


def remember_inputs(n: Any, x: Any) -> Any:
    kept, n.kept = getattr(n, "kept", None), x
    return n.conv(x) if kept is None or kept.shape[2:] != x.shape[2:] else n.conv(x + kept.mean(0))


def remember_a_product(n: Any, x: Any) -> Any:
    n.factor = getattr(n, "factor", n.conv.weight.mean()) * 2
    return n.conv(x) * n.factor


def swing(n: Any, x: Any) -> Any:
    n.state = n.conv.bias - getattr(n, "state", 0)
    return n.conv(x) + n.state.reshape(-1, 1, 1)


@pytest.mark.parametrize("forward", [remember_inputs, remember_a_product, swing])
def test_memory_is_refused(forward: Callable[[Any, Any], Any]) -> None:
    assert "free of memory" in refusal(Net(forward, conv=nn.Conv2d(8, 8, 1)))
