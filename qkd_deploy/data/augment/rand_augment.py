"""Change each image by two random operations out of a dozen, in the manner of RandAugment (Cubuk et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch

from qkd_deploy.data.augment.colour import brightness, contrast, saturation, to_pixels
from qkd_deploy.data.augment.geometry import affine
from qkd_deploy.data.augment.transform import Drawn

_TURN, _SHEAR, _SHIFT, _FACTOR = pi / 6, 0.3, 0.3, 0.9
"""The largest changes: 30 degrees, and shares of the image's width or height, and of a factor of 1."""

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RandAugment(Drawn):
    """Apply ``layers`` operations to each image, each chosen at random and with a random strength.

    An operation changes all images that it was chosen for at once. Strengths are uniform up to ``magnitude``, towards
    either side where an operation has two.

    Attributes:
        layers: operations per image.
        magnitude: largest strength, 0..1.
    """

    layers: int = 2
    magnitude: float = 0.5

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw numbers of operations int64 [count, layers], and strengths float32 [count, layers] in -1..1."""
        shape, device = (count, self.layers), generator.device
        chosen = torch.randint(len(OPERATIONS), shape, generator=generator, device=device)
        return chosen, self.magnitude * (2 * torch.rand(shape, generator=generator, device=device) - 1)

    def apply(self, images: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        """Apply the operations; returns uint8 [N, C, H, W]."""
        chosen, strengths = drawn
        images = images.clone()
        for layer in range(self.layers):
            for number, operation in enumerate(OPERATIONS):
                # Found on the CPU, where the choice was drawn: an accelerator is not waited for.
                where = torch.where(chosen[:, layer] == number)[0]
                if len(where):
                    place = where.to(images.device)
                    images[place] = operation(images[place], strengths[where, layer])
        return images


def _unchanged(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return images


def _rotate(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    # In float64, so that no rounding depends on how many images are turned together.
    maps, angle = _identity(strength), _TURN * strength.double()
    cosine, sine = torch.cos(angle).float(), torch.sin(angle).float()
    maps[:, 0, 0], maps[:, 0, 1] = cosine, -sine * height / width
    maps[:, 1, 0], maps[:, 1, 1] = sine * width / height, cosine
    return affine(images, maps)


def _entry(row: int, column: int, most: float) -> Operation:
    """Make an affine map with one entry of its own: a shear or a shift."""

    def operation(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        maps = _identity(strength)
        maps[:, row, column] = most * strength
        return affine(images, maps)

    return operation


def _identity(strength: torch.Tensor) -> torch.Tensor:
    return torch.eye(2, 3).repeat(len(strength), 1, 1)


def _by_factor(change: Operation) -> Operation:
    """Make a change of colour by a factor around 1."""

    def operation(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        factor = (1 + _FACTOR * strength).to(images.device).view(-1, 1, 1, 1)
        return to_pixels(change(images.to(torch.float32), factor))

    return operation


def _posterize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Keep the 8 to 4 highest bits."""
    lost = (4 * strength.abs()).round().to(torch.uint8).to(images.device).view(-1, 1, 1, 1)
    return (images >> lost) << lost


def _solarize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Invert the brightest pixels."""
    threshold = (256 * (1 - strength.abs())).to(images.device).view(-1, 1, 1, 1)
    return torch.where(images >= threshold, 255 - images, images)


def _stretch(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Spread each channel over 0..255; one of a single value stays as it is."""
    values = images.to(torch.float32)
    low, high = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, to_pixels((values - low) * (255 / (high - low).clamp(min=1))), images)


OPERATIONS: tuple[Operation, ...] = (
    _unchanged,
    _rotate,
    _entry(0, 1, _SHEAR),
    _entry(1, 0, _SHEAR),
    _entry(0, 2, 2 * _SHIFT),  # an image is 2 wide in these coordinates
    _entry(1, 2, 2 * _SHIFT),
    _by_factor(brightness),
    _by_factor(contrast),
    _by_factor(saturation),
    _posterize,
    _solarize,
    _stretch,
)
