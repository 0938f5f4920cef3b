"""Where an image lies in the frame of a network that takes all images in one size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

BORDER = 114
"""The grey around a letterboxed image, as detectors of the YOLO family are used to."""

Integers = npt.NDArray[np.int64]


def placements(sizes: npt.ArrayLike, frame: tuple[int, int], fit: str) -> Integers:
    """Place whole images in a frame.

    Args:
        sizes: widths and heights of images, [N, 2].
        frame: width and height.
        fit: "letterbox" or "stretch".

    Returns:
        left, top, width and height in the frame, in whole pixels, int64 [N, 4]. Letterboxed images lie in the middle,
        with the odd pixel of a border to the right or below.
    """
    own, wanted = np.asarray(sizes, dtype=np.int64), np.array(frame, dtype=np.int64)
    if fit == "stretch":
        return np.tile(np.concatenate([np.zeros(2, np.int64), wanted]), (len(own), 1))
    scale = (wanted / own).min(axis=1, keepdims=True)
    scaled = np.clip(np.rint(own * scale).astype(np.int64), 1, wanted)
    return np.concatenate([(wanted - scaled) // 2, scaled], axis=1)


def framed(
    image: Image.Image, frame: tuple[int, int], fit: str, resampling: Image.Resampling, border: int = BORDER
) -> Image.Image:
    """Bring a whole image of 8 bits into a frame, and lay it on a border where it does not fill that."""
    left, top, width, height = placements([image.size], frame, fit)[0].tolist()
    if image.size != (width, height):
        image = image.resize((width, height), resampling)
    if (width, height) == frame:
        return image
    whole = Image.new(image.mode, frame, (border,) * len(image.getbands()))
    whole.paste(image, (left, top))
    return whole
