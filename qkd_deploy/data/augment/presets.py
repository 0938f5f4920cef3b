"""Augmentations by name."""

from __future__ import annotations

from qkd_deploy.data.augment.augment import UNCHANGED, Augmentation
from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.augment.rand_augment import RandAugment
from qkd_deploy.data.augment.transform import Chain, Transform
from qkd_deploy.errors import UserError

PRESETS = ("auto", "none", "crop", "imagenet", "randaugment")

_LARGE = 96
"""Images of at least this height are cropped and resized by default, smaller ones shifted."""
_PAD_SHARE = 8
"""A shift moves an image by up to an eighth of its height: 4 pixels of CIFAR's 32."""


def usual(height: int, *, mirrored: bool = True) -> Transform:
    """What suits photographs of that height: a resized crop of large ones, a shift of small ones; and a flip."""
    if height >= _LARGE:
        return Chain((ResizedCrop(), Augmentation(0, flip=mirrored)))
    return Augmentation(height // _PAD_SHARE, flip=mirrored)


def preset(name: str, own: Transform, height: int, *, mirrored: bool) -> Transform:
    """The augmentation ``name`` for images of that height.

    Args:
        name: one of `PRESETS`.
        own: what suits the data set best.
        height: of the images, in pixels.
        mirrored: whether a mirrored image means the same.

    Raises:
        UserError: an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown augmentation '{name}'; choose one of {', '.join(PRESETS)}")
    shifted = own if isinstance(own, Augmentation) and own.pad else Augmentation(height // _PAD_SHARE, flip=mirrored)
    before = usual(height, mirrored=mirrored) if height >= _LARGE else shifted
    by_name: dict[str, Transform] = {
        "auto": own,
        "none": UNCHANGED,
        "crop": shifted,
        "imagenet": Chain((ResizedCrop(), Augmentation(0, flip=mirrored), ColourJitter())),
        "randaugment": Chain((*(before.steps if isinstance(before, Chain) else (before,)), RandAugment())),
    }
    return by_name[name]


def divide_at_decoding(transform: Transform | None) -> tuple[ResizedCrop | None, Transform | None]:
    """The resized crop that a transform begins with, and what comes after it.

    Images that are read from files are cropped where their full resolution is known; the rest works on batches.
    """
    if isinstance(transform, ResizedCrop):
        return transform, None
    if isinstance(transform, Chain) and transform.steps and isinstance(transform.steps[0], ResizedCrop):
        return transform.steps[0], Chain(transform.steps[1:])
    return None, transform
