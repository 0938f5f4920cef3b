"""What the architectures share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def conv_bn(
    in_width: int,
    width: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution that keeps the size (but for the stride), batch norm, activation function."""
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=bias)
    tail = () if activation is None else (activation(),)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *tail)


class Classifier(nn.Module):
    """Global average pooling and one linear layer behind some features."""

    def __init__(self, features: nn.Module, width: int, classes: int = 10) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, width: int, squeezed: int, inner: Activation = nn.ReLU, gate: Activation = nn.Sigmoid) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.inner, self.gate = inner(), gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.inner(self.reduce(squeezed))))  # type: ignore[no-any-return]
