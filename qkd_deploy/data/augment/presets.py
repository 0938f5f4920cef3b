"""Choose augmentations by name."""

from __future__ import annotations

from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.crop_and_flip import UNCHANGED, CropAndFlip
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
    """Augment photographs of that height: a resized crop of large ones, a shift of small ones; and a flip."""
    if height >= _LARGE:
        return Chain((ResizedCrop(), CropAndFlip(0, flip=mirrored)))
    return CropAndFlip(height // _PAD_SHARE, flip=mirrored)


def preset(name: str, own: Transform, height: int, *, mirrored: bool) -> Transform:
    """Look up the augmentation ``name`` for images of that height.

    Args:
        name: one of `PRESETS`.
        own: the data set's own augmentation.
        height: of the images, in pixels.
        mirrored: a mirrored image means the same.

    Raises:
        UserError: an unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown augmentation '{name}'; choose one of {', '.join(PRESETS)}")
    shifted = own if isinstance(own, CropAndFlip) and own.pad else CropAndFlip(height // _PAD_SHARE, flip=mirrored)
    before = usual(height, mirrored=mirrored) if height >= _LARGE else shifted
    by_name: dict[str, Transform] = {
        "auto": own,
        "none": UNCHANGED,
        "crop": shifted,
        "imagenet": Chain((ResizedCrop(), CropAndFlip(0, flip=mirrored), ColourJitter())),
        "randaugment": Chain((*(before.steps if isinstance(before, Chain) else (before,)), RandAugment())),
    }
    return by_name[name]


def divide_at_decoding(transform: Transform | None) -> tuple[ResizedCrop | None, Transform | None]:
    """Divide a transform into the resized crop that it begins with, and the rest.

    Images that are read from files are cropped where their full resolution is known; the rest works on batches.
    """
    if isinstance(transform, ResizedCrop):
        return transform, None
    if isinstance(transform, Chain) and transform.steps and isinstance(transform.steps[0], ResizedCrop):
        return transform.steps[0], Chain(transform.steps[1:])
    return None, transform
