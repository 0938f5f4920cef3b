"""Writes small data sets of images and masks for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from image_files import Size, picture, write
from PIL import Image

SIZE = (16, 12)


def numbers(seed: int, size: Size = SIZE, classes: int = 3) -> np.ndarray:
    """A random mask uint8 [H, W] in which every class occurs."""
    mask = np.random.default_rng(seed).integers(0, classes, (size[1], size[0]), dtype=np.uint8)
    mask[0, :classes] = np.arange(classes)
    return mask


def write_mask(path: Path, mask: np.ndarray, mode: str = "L") -> Path:
    """A mask as PNG; "P" gives it a palette, in which colours say nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask, None if mode == "P" else mode)
    if mode == "P":
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)
    return path


def write_pairs(
    images: Path, masks: Path, count: int, *, first: int = 0, classes: int = 3, size: Size = SIZE, mode: str = "L"
) -> list[np.ndarray]:
    """Images and masks of the same names in two folders; returns the masks."""
    written = []
    for seed in range(first, first + count):
        write(images / f"{seed:03}.png", seed, size)
        written.append(numbers(seed, size, classes))
        write_mask(masks / f"{seed:03}.png", written[-1], mode)
    return written


def write_camvid(root: Path, train: int = 4, held_out: int = 2, **form: int) -> list[np.ndarray]:
    """The layout of CamVid: train, trainannot, val and valannot; returns all masks."""
    return [
        *write_pairs(root / "train", root / "trainannot", train, **form),
        *write_pairs(root / "val", root / "valannot", held_out, first=100, **form),
    ]


def pixels(seed: int, size: Size = SIZE) -> np.ndarray:
    """The image [C, H, W] that was written with this seed."""
    return np.asarray(picture(seed, size)).transpose(2, 0, 1)
