"""The network of FastestDet: a ShuffleNetV2 of three stages whose maps meet at 1/16, pooled three ways, and one head.

The names of the modules are those of the published weights. Written for weights that take RGB; ``weights`` makes them.
"""

from __future__ import annotations

from torch import Tensor, cat, nn

CHANNELS, REPEATS = (24, 48, 96, 192), (4, 8, 4)
"""Channels of the stem and of the three stages, and blocks of these."""
HEAD = CHANNELS[2]


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, *, depthwise: bool = False, relu: bool = True
) -> list[nn.Module]:
    """Make a convolution without bias, its batch norm, and a ReLU."""
    groups = inputs if depthwise else 1
    made: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)]
    return [*made, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class Block(nn.Module):
    """A block of ShuffleNetV2: every second channel passes by, the others are convolved; or both at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        own = inputs if stride == 2 else inputs // 2
        self.branch_main = nn.Sequential(
            *convolution(own, half, 1),
            *convolution(half, half, 3, stride, depthwise=True, relu=False),
            *convolution(half, outputs - own, 1),
        )
        self.branch_proj: nn.Sequential | None = None
        if stride == 2:
            passing = convolution(inputs, inputs, 3, stride, depthwise=True, relu=False)
            self.branch_proj = nn.Sequential(*passing, *convolution(inputs, inputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps [N, outputs, h, w]."""
        if self.branch_proj is not None:
            return cat((self.branch_proj(x), self.branch_main(x)), dim=1)
        return cat((x[:, 0::2], self.branch_main(x[:, 1::2])), dim=1)


def stage(inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    """Make a stage, whose first block halves the size."""
    return nn.Sequential(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(repeats - 1)))


class Backbone(nn.Module):
    """Maps at 1/8, 1/16 and 1/32 of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*convolution(3, CHANNELS[0], 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2 = stage(CHANNELS[0], CHANNELS[1], REPEATS[0])
        self.stage3 = stage(CHANNELS[1], CHANNELS[2], REPEATS[1])
        self.stage4 = stage(CHANNELS[2], CHANNELS[3], REPEATS[2])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the three maps, the finest first."""
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Pointwise(nn.Module):
    """A convolution of single places."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*convolution(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps [N, outputs, h, w]."""
        return self.conv1x1(x)


class Pyramid(nn.Module):
    """What is seen from one, two and three depthwise convolutions of 5x5, joined and added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Conv1x1 = Pointwise(inputs, outputs)
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(part for _ in range(n) for part in convolution(outputs, outputs, 5, depthwise=True)))
            for n in (1, 2, 3)
        )
        self.output = nn.Sequential(*convolution(3 * outputs, outputs, 1, relu=False))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps [N, outputs, h, w]."""
        x = self.Conv1x1(x)
        return self.relu(x + self.output(cat((self.S1(x), self.S2(x), self.S3(x)), dim=1)))


class Branch(nn.Module):
    """One of the three answers of the head."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(
            *convolution(inputs, inputs, 5, depthwise=True), *convolution(inputs, outputs, 1, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps [N, outputs, h, w]."""
        return self.conv5x5(x)


class Head(nn.Module):
    """Whether there is an object, its box, and its class, at every place."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Pointwise(channels, channels)
        self.obj_layers, self.reg_layers = Branch(channels, 1), Branch(channels, 4)
        self.cls_layers = Branch(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute [N, 5 + classes, h, w]: a probability, four numbers of a box, and probabilities of classes."""
        x = self.conv1x1(x)
        answers = self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(dim=1)
        return cat(answers, dim=1)


class FastestDet(nn.Module):
    """FastestDet for images whose sides are multiples of 32; it was trained on 352 x 352.

    Args:
        num_classes: number of classes.
    """

    pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # noqa: RUF012  # of pixel / 255, as timm says it

    def __init__(self, num_classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.avg_pool = nn.AvgPool2d(3, 2, 1)
        self.SPP = Pyramid(sum(CHANNELS[1:]), HEAD)
        self.detect_head = Head(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Answer for every place of 16 x 16 pixels, [N, 5 + classes, h, w]."""
        fine, middle, coarse = self.backbone(x)
        joined = cat((self.avg_pool(fine), middle, self.upsample(coarse)), dim=1)
        return self.detect_head(self.SPP(joined))
