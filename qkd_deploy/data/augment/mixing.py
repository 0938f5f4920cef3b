"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) of uint8 batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from qkd_deploy.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """Mix neighbours of a shuffled batch: the first with the second image, the third with the fourth, and so on.

    Neighbours are strangers, since the order is random, and they stay together when a batch is divided among processes
    in parts of even size: so the mixtures do not depend on the number of processes. Each batch has one share and one
    box, and is mixed by mixup or cutmix, with equal probability where both are on.

    Attributes:
        mixup: parameter of the Beta distribution of the share that an image keeps when both are blended; 0 is off.
        cutmix: the same for the share of the area, when a box is taken from the partner; 0 is off.

    Raises:
        UserError: a parameter is negative.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0:
            raise UserError(f"mixup is {self.mixup:g} and cutmix {self.cutmix:g}; neither can be negative")

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, classes: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch, or the part of it that one process holds.

        Args:
            images: uint8 [N, C, H, W]; blends are rounded to pixels, so that an 8-bit input code still holds them.
            labels: int64 [N].
            classes: number of classes.
            generator: source of all randomness; its state advances alike for every part of a batch.

        Returns:
            images uint8 [N, C, H, W] and probabilities float32 [N, classes]. Without any mixing, the images as they
            are.
        """
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        random = np.random.default_rng(seed)
        one_hot = F.one_hot(labels, classes).to(torch.float32)
        if not self:
            return images, one_hot
        partner = _neighbours(len(images), images.device)
        cut = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(random.beta(alpha, alpha))
        if cut:
            mixed, share = _with_box(images, images[partner], share, random)
        else:
            blend = torch.lerp(images[partner].to(torch.float32), images.to(torch.float32), share)
            mixed = blend.round_().to(torch.uint8)
        return mixed, torch.lerp(one_hot[partner], one_hot, share)


def _neighbours(count: int, device: torch.device) -> torch.Tensor:
    """Pair neighbours: 1, 0, 3, 2, ...; an odd last one is its own partner."""
    return (torch.arange(count, device=device) ^ 1).clamp_(max=count - 1)


def _with_box(
    images: torch.Tensor, partners: torch.Tensor, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Paste a box of the partners into images; returns the share of the area that is still their own, too.

    The box is centred anywhere and cut at the border.
    """
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    centre_y, centre_x = random.random() * height, random.random() * width
    top, bottom = (round(min(max(centre_y + sign * side * height / 2, 0), height)) for sign in (-1, 1))
    left, right = (round(min(max(centre_x + sign * side * width / 2, 0), width)) for sign in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
