"""Whole networks after real training steps: no code differs between frozen model, reference and ONNX Runtime."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, emitted, float_operations, noise
from torch import Tensor, nn

from qkd_deploy import create_model, freeze, initialize, load_dataset, prepare
from qkd_deploy.data import normalize
from qkd_deploy.graph.prepared import PreparedModel


def digits(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Embedded digits as RGB images of that size, with their labels."""
    split = load_dataset("digits").train
    images = normalize(split.images[:count])
    images = F.interpolate(images[:, :1], size=(size, size), mode="nearest")
    return images.expand(-1, 3, -1, -1).contiguous(), split.labels[:count]


def train(prepared: PreparedModel, images: Tensor, labels: Tensor, steps: int = 3) -> None:
    """A few steps of all parameters; quantization steps move too."""
    steps_group = {"params": [*prepared.weight_steps(), *prepared.activation_steps()], "lr": 2e-4}
    optimizer = torch.optim.Adam([{"params": prepared.network_parameters(), "lr": 1e-3}, steps_group])
    prepared.train()
    for step in range(steps):
        part = slice(16 * step % len(images), 16 * step % len(images) + 16)
        optimizer.zero_grad()
        F.cross_entropy(prepared(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    prepared.eval()


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a3", "w2a2"])
def test_resnet20_after_training(bits: str) -> None:
    torch.manual_seed(0)
    images, labels = digits(48, 32)
    prepared = prepare(create_model("resnet20", 10), bits, (images[:2],), input_quantization=(1 / 64, 128))
    initialize(prepared, images[:16])
    before = [float(step.detach()) for step in prepared.activation_steps()]
    train(prepared, images, labels)
    assert all(float(step.detach()) != old for step, old in zip(prepared.activation_steps(), before, strict=True))
    frozen = freeze(prepared)
    for weights in ("int8", "packed"):
        deployed = emitted(prepared, frozen, weights=weights)
        for threads in (1, 2):
            assert not assert_same_codes(deployed, (images[16:20],), threads=threads)
    assert float_operations(deployed.model) == []


def harsh(model: nn.Module) -> None:
    """Gammas of every kind on every batch norm."""
    generator = torch.Generator().manual_seed(5)
    gammas = torch.tensor([0.0, 1e-9, -1e-9, -0.8, 1.2, 30.0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            chosen = torch.randint(len(gammas), (module.num_features,), generator=generator)
            mild = torch.rand(module.num_features, generator=generator) > 0.3
            module.weight.data.copy_(torch.where(mild, module.weight, gammas[chosen]))
            module.bias.data.add_(torch.randn(module.num_features, generator=generator) * 0.3)
            assert module.running_var is not None
            module.running_var[0] = 0.0


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a3", "w2a2"])
def test_resnet18_with_harsh_gammas(bits: str) -> None:
    torch.manual_seed(0)
    images = noise(2, 3, 64, 64)
    prepared = prepare(create_model("resnet18", 10), bits, (images,))
    initialize(prepared, images)
    train(prepared, images, torch.tensor([1, 2]), steps=1)
    harsh(prepared.network)
    frozen = freeze(prepared)
    for weights, threads in (("int8", 1), ("packed", 2)):
        deployed = emitted(prepared, frozen, weights=weights)
        assert not assert_same_codes(deployed, (images,), threads=threads)
    assert float_operations(deployed.model) == []


class Inverted(nn.Module):
    """Expand, depthwise, project; with a residual where the shape allows it."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = 3 * width_in
        self.same = stride == 1 and width_in == width
        self.layers = nn.Sequential(
            nn.Conv2d(width_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.same else y  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a3", "w2a2"])
def test_depthwise_network_with_harsh_gammas(bits: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), Inverted(16, 16, 1), Inverted(16, 24, 2),
        Inverted(24, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 10),
    )  # fmt: skip
    images, labels = digits(48, 32)
    prepared = prepare(model, bits, (images[:2],), input_quantization=(1 / 64, 128))
    initialize(prepared, images[:16])
    train(prepared, images, labels)
    harsh(prepared.network)
    frozen = freeze(prepared)
    for weights in ("int8", "packed"):
        deployed = emitted(prepared, frozen, weights=weights)
        for threads in (1, 2):
            assert not assert_same_codes(deployed, (images[:4],), threads=threads)
    assert float_operations(deployed.model) == []
