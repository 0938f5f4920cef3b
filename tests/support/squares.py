"""A small data set of boxes that a detector can learn: coloured squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_squares(folder: Path) -> None:
    """Grey images 64x64 with a red or a blue square each, in YOLO's layout; one image has none."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((64, 64, 3), 100, np.uint8)
            rows = []
            if index:
                number, x, y, side = index % 2, *rng.integers(0, 32, 2), int(rng.integers(16, 32))
                pixels[y : y + side, x : x + side] = (0, 0, 255) if number else (255, 0, 0)
                rows.append(f"{number} {(x + side / 2) / 64} {(y + side / 2) / 64} {side / 64} {side / 64}")
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.png")
            (folder / "labels" / split / f"{index}.txt").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("red\nblue\n")
