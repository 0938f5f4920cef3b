"""Decode an image file to pixels of one size and one number of channels."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps

from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.images.placement import framed

FORMATS = ("JPEG", "PNG", "WEBP")
SIXTEEN_BITS = 65535
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

# All that Pillow's readers are known to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_LYING = (5, 6, 7, 8)
"""Values of a camera's orientation that turn an image by a quarter."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})


class Unreadable(Exception):
    """A file that is no image, or a damaged one; the text says why."""


def open_image(file: Path | IO[bytes] | bytes) -> Image.Image:
    """Decode the image in a JPEG, PNG or WebP file, and turn it upright where its camera says how.

    Raises:
        Unreadable: the file cannot be read or decoded completely.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        raise _unreadable(error) from error


def upright_size(file: Path) -> tuple[int, int]:
    """Read width and height of the image that ``open_image`` would give, without decoding it.

    Raises:
        Unreadable: the file cannot be read, or is no such image.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            # of a PNG file that says nothing in its beginning, Pillow would decode the whole image to look behind it
            told = image.format != "PNG" or "exif" in image.info
            turned = told and image.getexif().get(ExifTags.Base.Orientation) in _LYING
    except _DAMAGE as error:
        raise _unreadable(error) from error
    return (height, width) if turned else (width, height)


def _unreadable(error: BaseException) -> Unreadable:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
    return Unreadable("no JPEG, PNG or WebP image" if "cannot identify" in reason else reason)


def is_grey(image: Image.Image) -> bool:
    """True where an image has no colours by its type."""
    return image.mode in _GREY_MODES


@dataclass(frozen=True)
class View:
    """The form in which images enter a network.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height, width: in pixels.
        interpolation: of images that are resized, always with antialiasing.
        crop_pct: for evaluation, the share of the resized image's short side that the crop in the middle leaves; 0
            takes the largest box of the wanted proportions instead.
        input_range: the value of 16-bit greys that becomes 255.
        fit: for evaluation, one of ``FITS``; ``crop_pct`` belongs to "crop" alone.
    """

    channels: int
    height: int
    width: int
    interpolation: str = "bilinear"
    crop_pct: float = 0.0
    input_range: int = SIXTEEN_BITS
    fit: str = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    def of(self, image: Image.Image, crop: ResizedCrop | None = None, numbers: tuple[float, ...] = ()) -> Pixels:
        """Compute the pixels uint8 [C, H, W] of an image.

        Without a crop this is the view for evaluation: the largest box of the wanted proportions in the middle, brought
        to the wanted size, where an image of that size stays as it is; or, with ``crop_pct``, what torchvision and timm
        do: the short side is resized to the wanted one over ``crop_pct``, and the middle cut out; or the whole image,
        letterboxed or stretched. Transparent images lie on white, and ``input_range`` of 16-bit greys becomes 255.

        Args:
            image: of any size and mode.
            crop: takes another box, for training.
            numbers: those that ``crop`` drew for this image.

        Raises:
            Unreadable: the image has a mode that is not known here.
        """
        flat = _flat(image, "RGB" if self.channels == 3 else "L", self.input_range)
        if crop is None and self.fit != "crop":
            flat = framed(flat, (self.width, self.height), self.fit, _RESAMPLING[self.interpolation])
        elif crop is None and self.crop_pct:
            flat = self._cut(flat)
        elif crop is not None or flat.size != (self.width, self.height):
            box = self._middle(*flat.size) if crop is None else _box(crop, numbers, *flat.size)
            flat = flat.resize((self.width, self.height), _RESAMPLING[self.interpolation], box=box)
        pixels = np.asarray(flat, dtype=np.uint8).reshape(self.height, self.width, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def named(self) -> dict[str, Any]:
        """What evaluation does to images, where that is not the usual, for files."""
        resized = (self.interpolation, self.crop_pct) != (View.interpolation, View.crop_pct)
        named: dict[str, Any] = {"interpolation": self.interpolation, "crop_pct": self.crop_pct} if resized else {}
        if self.fit != View.fit:
            named["fit"] = self.fit
        return named if self.input_range == SIXTEEN_BITS else {**named, "input_range": self.input_range}

    def _cut(self, image: Image.Image) -> Image.Image:
        """Resize the short side, and cut the middle out; sizes and places are rounded as torchvision rounds them."""
        short = math.floor(min(self.height, self.width) / self.crop_pct)
        width, height = image.size
        size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        if image.size != size:
            image = self._resample(image, size)
        left, top = (round((own - wanted) / 2) for own, wanted in zip(size, (self.width, self.height), strict=True))
        return image.crop((left, top, left + self.width, top + self.height))

    def _resample(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image.resize(size, _RESAMPLING[self.interpolation])

    def _middle(self, width: int, height: int) -> Box:
        """Find the largest box of the view's proportions in the middle of an image."""
        scale = min(width / self.width, height / self.height)
        wide, high = min(self.width * scale, width), min(self.height * scale, height)
        left, top = (width - wide) / 2, (height - high) / 2
        return left, top, left + wide, top + high


def _box(crop: ResizedCrop, numbers: tuple[float, ...], width: int, height: int) -> Box:
    left, top, right, bottom = crop.boxes(torch.tensor([numbers]), height, width)[0].tolist()
    return left, top, right, bottom


def _flat(image: Image.Image, mode: str, input_range: int) -> Image.Image:
    """Convert an image of any mode to one of 8 bits without transparency."""
    try:
        return _without_alpha(_eight_bits(image, input_range)).convert(mode)
    except (ValueError, OSError) as error:
        raise Unreadable(f"pixels of type {image.mode}") from error


def _eight_bits(image: Image.Image, input_range: int) -> Image.Image:
    """Bring greys of 16 bits to 8 bits; Pillow's own conversion would cut all values above 255."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64).clip(0, input_range)
    return Image.fromarray(((values * 255 + input_range // 2) // input_range).astype(np.uint8))


def brightest(image: Image.Image) -> int:
    """The largest value of an image of 16-bit greys; 0 for images of 8 bits."""
    return int(np.asarray(image).max()) if image.mode.startswith("I") else 0


def _without_alpha(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
