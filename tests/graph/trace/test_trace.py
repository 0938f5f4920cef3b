"""Python about sizes, derived layers and output classes: what networks of model libraries do in ``forward``."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise, settle
from placement import Small, check
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.graph.trace.trace import trace

IMAGES = noise(3, 3, 8, 8)


class SameConv(nn.Conv2d):
    """TensorFlow's padding: as much as the output size needs, more of it on the right."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        stride, kernel = self.stride[0], self.kernel_size[0]
        down = max((math.ceil(height / stride) - 1) * stride + kernel - height, 0)
        right = max((math.ceil(width / stride) - 1) * stride + kernel - width, 0)
        if down > 0 or right > 0:
            x = F.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class NormAct(nn.BatchNorm2d):
    """Batch norm, dropout and activation function in one class."""

    def __init__(self, features: int, drop: nn.Module | None = None) -> None:
        super().__init__(features)
        self.drop, self.act = drop or nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4 dimensions, got {x.ndim}")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.1,
            self.eps,
        )
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class NormActTwice(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Derived(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = SameConv(3, 8, 3, stride=2, bias=False), norm
        self.conv, self.head = SameConv(8, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_derived_layers_and_batch_norms_run_in_integers() -> None:
    images = noise(3, 3, 9, 14)
    deployed = check(Derived(NormAct(8)), (images,))
    assert deployed.prepared.layers()[0].batch_norm == "norm"
    assert list(deployed.prepared.network.state_dict()) == list(Derived(NormAct(8)).state_dict())


def test_dropout_in_a_derived_batch_norm_is_active_in_training_only() -> None:
    prepared = prepare(settle(Derived(NormAct(8, nn.Dropout(0.5)))), "w4a4", (IMAGES,))
    assert prepared.account.floats == ()
    initialize(prepared, IMAGES)
    prepared.train()
    assert not torch.equal(prepared(IMAGES), prepared(IMAGES))


def test_a_batch_norm_that_computes_something_else_is_one_step() -> None:
    prepared = prepare(Derived(NormActTwice(8)), "w4a4", (IMAGES,))
    assert [entry.name for entry in prepared.account.floats] == ["norm"]
    assert prepared.layers()[0].batch_norm is None


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


@dataclass
class Output(OrderedDict):  # type: ignore[type-arg]
    """Like the outputs of transformers: a dictionary with attributes."""

    logits: Any = None
    features: Any = None

    def __post_init__(self) -> None:
        self.update({key: value for key, value in vars(self).items() if value is not None})


class WithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Any:
        x = F.relu(self.conv(pixel_values))
        logits = self.head(x.mean((2, 3)))
        return Output(logits, x) if return_dict else (logits,)


def test_output_classes_are_kept() -> None:
    deployed = check(WithOutput())
    result = deployed.frozen(IMAGES)
    assert torch.equal(result.logits, result["logits"])
    assert [value.name for value in deployed.model.graph.output] == ["logits", "features"]


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


BATCH_DECISIONS: dict[str, Callable[[Any], Any]] = {
    "equal to one": lambda b: b == 1,
    "many": lambda b: b > 3000,
    "even": lambda b: b % 2 == 0,
    "blocks": lambda b: b // 4096,
    "as an index": lambda b: [0, 1][b],
}


@pytest.mark.parametrize("decision", BATCH_DECISIONS)
def test_decisions_that_another_batch_size_would_change_are_refused(decision: str) -> None:
    def choose(n: Any, x: Any) -> Any:
        return x if BATCH_DECISIONS[decision](x.shape[0]) else x * 2

    with pytest.raises(UserError, match="batch size"):
        prepare(Small(choose), "w4a4", (noise(2, 3, 8, 8),))


def test_decisions_that_hold_for_every_batch_are_taken() -> None:
    def choose(n: Any, x: Any) -> Any:
        same = x.shape == (2 * x).shape and x.numel() // x.shape[0] == 512 and x.shape[0] > 0
        return x if same else x.nonzero()

    assert prepare(Small(choose), "w4a4", (IMAGES,)).account.floats == ()


def test_tracing_draws_no_random_numbers_and_changes_no_inputs() -> None:
    network, images = Small(lambda n, x: F.dropout(x, 0.5, n.training).add_(1)), IMAGES.clone()
    state = torch.get_rng_state()
    trace(network, (images,))
    assert torch.equal(images, IMAGES)
    assert torch.equal(state, torch.get_rng_state())


def test_many_modules_that_read_the_mode_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Path(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rand(x.shape[0], 1, 1, 1) if self.training else x

    network = Small(lambda n, x: n.paths(x), paths=nn.Sequential(*(nn.Sequential(Path(), nn.ReLU()) for _ in range(8))))
    monkeypatch.setattr("qkd_deploy.graph.trace.trace._MAX_ROUNDS", 2)
    assert trace(network, (IMAGES,)).mode_leaves == {f"paths.{i}.0" for i in range(8)}
