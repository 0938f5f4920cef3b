"""Writes small image files for tests: folders with classes, and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

Size = tuple[int, int]


def picture(seed: int, size: Size = (12, 12), mode: str = "RGB") -> Image.Image:
    """A random image of ``size`` (width, height)."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def write(path: Path, seed: int, size: Size = (12, 12), mode: str = "RGB") -> Path:
    """A random image file; its kind follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, mode).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def write_tree(
    root: Path, per_class: int, *, classes: str = "abc", suffix: str = ".png", size: Size = (12, 12)
) -> Path:
    """``per_class`` images in each of some class folders."""
    for number, name in enumerate(classes):
        for index in range(per_class):
            write(root / name / f"{index:03}.png", 1000 * number + index, size)
    return root
