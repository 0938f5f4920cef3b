"""Random networks with harsh numbers: frozen model == reference == ONNX Runtime in every code of every tensor."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from deployment import Deployed, assert_same_codes, finish, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scales import learned, multiply
from torch import Tensor, nn

from qkd_deploy import initialize, prepare

GAMMAS = [0.0, 1e-9, -1e-9, 1e-3, -0.7, 1.0, -2.0, 1e4]
BIASES = [0.0, 1e-8, -0.5, 2.0, -300.0, 1e7]
VARIANCES = [0.0, 1e-12, 0.5, 3.0, 1e6]


class Random(nn.Module):
    """A stem, then steps drawn from a list, then pooling and a linear layer."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.steps: list[str] = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=4))
        self.final = draw(st.sampled_from(["mean", "max", "flatten"]))
        width = draw(st.sampled_from([3, 4, 8]))
        self.stem, self.stem_norm = nn.Conv2d(draw(st.sampled_from([1, 3])), width, 3, padding=1), nn.BatchNorm2d(width)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        size = 6
        for i, step in enumerate(self.steps):
            if step == "pool" and size < 2:
                step = self.steps[i] = "relu6"
            groups = width if step == "depthwise" else 1
            stride = draw(st.sampled_from([1, 2])) if step in ("conv", "depthwise") and size > 2 else 1
            out = width if step != "conv" else draw(st.sampled_from([2, 4, 7]))
            kernel = draw(st.sampled_from([1, 3]))
            self.layers.append(
                nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=draw(st.booleans()))
            )
            self.norms.append(nn.BatchNorm2d(out) if draw(st.booleans()) else nn.Identity())
            width, size = out * (2 if step == "concat" else 1), -(-size // stride)
            size = size // 2 if step == "pool" else size
        self.head = nn.Linear(width * (size * size if self.final == "flatten" else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for step, layer, norm in zip(self.steps, self.layers, self.norms, strict=True):
            y = norm(layer(x))
            x = _combine(step, x, y)
        x = {"mean": _mean, "max": _max, "flatten": _flat}[self.final](x)
        return self.head(x)  # type: ignore[no-any-return]


STEPS = ["conv", "conv", "depthwise", "residual", "signed residual", "concat", "pool", "relu6"]


def _combine(step: str, x: Any, y: Any) -> Any:
    if step == "residual":
        return F.relu(x + y)
    if step == "signed residual":
        return x + y
    if step == "concat":
        return torch.cat([x, F.relu(y)], 1)
    if step == "pool":
        return F.relu(F.avg_pool2d(y, 2))
    return F.relu6(y) if step == "relu6" else F.relu(y)


def _mean(x: Any) -> Any:
    return x.mean((2, 3))


def _max(x: Any) -> Any:
    return F.adaptive_max_pool2d(x, 1).flatten(1)


def _flat(x: Any) -> Any:
    return x.flatten(1)


@torch.no_grad()
def spoil(model: nn.Module, draw: Any) -> None:
    """Channels of all kinds: dead ones, without or with negative gamma, zero weights, huge and tiny biases."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.copy_(torch.tensor(draw(st.lists(st.sampled_from(GAMMAS), min_size=n, max_size=n))))
            module.bias.copy_(torch.tensor(draw(st.lists(st.sampled_from(BIASES), min_size=n, max_size=n))))
            assert module.running_var is not None
            module.running_var.copy_(torch.tensor(draw(st.lists(st.sampled_from(VARIANCES), min_size=n, max_size=n))))
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            if draw(st.sampled_from([False, False, True])):
                module.weight[0] = 0
            if module.bias is not None and draw(st.booleans()):
                module.bias.fill_(draw(st.sampled_from(BIASES)))


@st.composite
def deployments(draw: Any) -> tuple[Deployed, Tensor]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    model = Random(draw).eval()
    spoil(model, draw)
    bits = f"w{draw(st.integers(2, 8))}a{draw(st.integers(2, 8))}"
    options = {
        "residual": draw(st.sampled_from(["wide", "wide", "shared"])),
        "first_last_bits": draw(st.sampled_from([8, 8, 3])),
        "weight_range": draw(st.sampled_from(["safe", "safe", "narrow", "full"])),
    }
    x = noise(3, model.stem.in_channels, 6, 6, seed=draw(st.integers(0, 2**16)))
    prepared = prepare(model, bits, (x,), **options)
    initialize(prepared, x, method=draw(st.sampled_from(["mse", "lsq", "minmax"])))
    for quantizer in learned(prepared.weights, prepared.activations):
        multiply(quantizer, draw(st.sampled_from([1.0, 1.0, 1.0, 1.0, 0.03, 30.0, 1e-6])))
    weights = draw(st.sampled_from(["int8", "packed"])) if options["weight_range"] != "full" else "int8"
    return finish(prepared, weights=weights), x


@settings(max_examples=40)
@given(deployments())
def test_every_code_of_a_random_network(case: tuple[Deployed, Tensor]) -> None:
    deployed, x = case
    assert not assert_same_codes(deployed, (x,))
