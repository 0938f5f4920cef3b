"""The networks of the table of targets, with real images of their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pretrained_networks import NETWORKS, Images, Pretrained, photographs
from torch import Tensor, nn

from qkd_deploy.models.registry import create_model

_SETTLING = 32
"""Images on which batch norms of random networks get their statistics."""


@dataclass(frozen=True)
class Files:
    """Where weights and images are."""

    photographs: Path
    cifar: Path
    resnet20: Path
    lite0: Path


@dataclass(frozen=True)
class Subject:
    """A network of the table.

    Attributes:
        title: in the table.
        kind: what it takes pixels as, the size of its images, and how they are read.
        weights: the file of published ones; None draws them at random and settles batch norms on images.
        folder: of images.
    """

    title: str
    kind: Pretrained
    weights: Callable[[Files], Path | None]
    folder: Callable[[Files], Path]

    def images(self, files: Files) -> Images:
        """Read images for calibration and held-out ones."""
        return self.kind.images(self.folder(files), self.kind.size)

    def network(self, files: Files, pixels: Tensor) -> nn.Module:
        """Build the network; ``pixels`` are some of its normalised images."""
        weights = self.weights(files)
        if weights is not None:
            return self.kind.network(weights)
        torch.manual_seed(0)
        return settled(self.kind.make(), pixels[:_SETTLING])


def settled(network: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of images, as training would have."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # of all that they see
    network.train()
    with torch.no_grad():
        network(images)
    return network.eval()


class UNet(nn.Module):
    """Ronneberger et al. 2015 in small: three scales, joined by concatenation and by upsampling to the nearest pixel.

    float [N, 3, S, S] -> [N, 11, S, S] for S divisible by 4.
    """

    def __init__(self, width: int = 32, classes: int = 11) -> None:
        super().__init__()
        self.down1, self.down2 = _double(3, width), _double(width, 2 * width)
        self.bottom, self.pool = _double(2 * width, 4 * width), nn.MaxPool2d(2)
        self.up2, self.up1 = _up(4 * width), _up(2 * width)
        self.conv2, self.conv1 = _double(4 * width, 2 * width), _double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores of the classes at every place."""
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.conv2(torch.cat([self.up2(self.bottom(self.pool(two))), two], dim=1))
        maps: Tensor = self.head(self.conv1(torch.cat([self.up1(x), one], dim=1)))
        return maps


def _double(taken: int, given: int) -> nn.Sequential:
    units: list[nn.Module] = []
    for width in (taken, given):
        units += [nn.Conv2d(width, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]
    return nn.Sequential(*units)


def _up(taken: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(taken, taken // 2, 1))


def _none(files: Files) -> None:
    return None


def _of_photographs(make: Callable[[], nn.Module], size: int) -> Pretrained:
    return Pretrained(make, "imagenet", size, photographs)


SUBJECTS = {
    "resnet20": Subject("ResNet-20", NETWORKS["resnet20"], lambda f: f.resnet20, lambda f: f.cifar),
    "mobilenetv2": Subject(
        "MobileNetV2", _of_photographs(partial(create_model, "mobilenetv2", 1000), 224), _none, lambda f: f.photographs
    ),
    "efficientnet_lite0": Subject(
        "EfficientNet-Lite0", NETWORKS["efficientnet_lite0"], lambda f: f.lite0, lambda f: f.photographs
    ),
    "unet": Subject("U-Net", _of_photographs(UNet, 112), _none, lambda f: f.photographs),
    "vit_tiny": Subject(
        "ViT-Tiny",
        _of_photographs(partial(create_model, "vit_tiny", 1000), 224),
        _none,
        lambda f: f.photographs,
    ),
}
