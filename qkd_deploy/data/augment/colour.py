"""Change brightness, contrast and saturation of uint8 images, each image by its own amount."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qkd_deploy.data.augment.transform import Drawn

_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ColourJitter(Drawn):
    """Multiply brightness, contrast and saturation, in this order, by factors of ``1 - amount`` to ``1 + amount``.

    Attributes:
        amount: 0..1.
    """

    amount: float = 0.4

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw factors float32 [count, 3]."""
        uniform = torch.rand((count, 3), generator=generator, device=generator.device)
        return (1 + self.amount * (2 * uniform - 1),)

    def apply(self, images: torch.Tensor, *drawn: torch.Tensor) -> torch.Tensor:
        """Multiply and round to uint8 [N, C, H, W]."""
        brighter, crisper, colourful = drawn[0].to(images.device).view(-1, 3, 1, 1, 1).unbind(1)
        values = brightness(images.to(torch.float32), brighter)
        return to_pixels(saturation(contrast(values, crisper), colourful))


def brightness(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply pixels float32 [N, C, H, W] by ``factor`` [N, 1, 1, 1]."""
    return (values * factor).clamp_(0, 255)


def contrast(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move pixels from or towards the mean grey of their image."""
    # In float64, so that no rounding depends on how a sum is divided among threads.
    mean = grey(values).mean(dim=(2, 3), keepdim=True, dtype=torch.float64).to(values.dtype)
    return torch.lerp(mean, values, factor).clamp_(0, 255)


def saturation(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move pixels from or towards their own grey; images that are not RGB stay as they are."""
    return torch.lerp(grey(values), values, factor).clamp_(0, 255) if values.shape[1] == 3 else values


def grey(values: torch.Tensor) -> torch.Tensor:
    """Compute the luminance float32 [N, 1, H, W] of RGB pixels, or the mean of the channels of others."""
    if values.shape[1] != 3:
        return values.mean(dim=1, keepdim=True)
    return (values * values.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def to_pixels(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest uint8 pixel."""
    return values.round_().clamp_(0, 255).to(torch.uint8)
