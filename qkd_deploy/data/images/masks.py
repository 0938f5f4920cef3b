"""Decode masks: the number of each pixel's class, as a file holds it, in the view of the mask's image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qkd_deploy.data.images.decode import Unreadable, View
from qkd_deploy.data.images.placement import framed, placements
from qkd_deploy.errors import UserError

Numbers = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
LARGEST = 255
_COLOURED = ("RGB", "RGBA", "RGBX", "P", "PA")


@dataclass(frozen=True)
class MaskView(View):
    """The view of an image, for its mask: the same box, each pixel the nearest one of the file."""

    def of_mask(self, numbers: Numbers) -> Numbers:
        """Bring a mask [H, W] of any size to the view's height and width; borders are ignored."""
        image = Image.fromarray(numbers)
        if self.fit != View.fit:
            image = framed(image, (self.width, self.height), self.fit, Image.Resampling.NEAREST, border=LARGEST)
        elif self.crop_pct:
            image = self._cut(image)
        elif image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling.NEAREST, box=self._middle(*image.size))
        return np.asarray(image, dtype=np.uint8)

    def within(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Say which rows and columns of the view show an image of that width and height; the rest is border."""
        if self.fit == View.fit:
            return slice(None), slice(None)
        left, top, width, height = placements([size], (self.width, self.height), self.fit)[0].tolist()
        return slice(top, top + height), slice(left, left + width)

    def _resample(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image.resize(size, Image.Resampling.NEAREST)


def mask_view(view: View) -> MaskView:
    """Make the view of masks that lies over ``view`` of their images."""
    return MaskView(1, view.height, view.width, view.interpolation, view.crop_pct, fit=view.fit)


def numbers_in(image: Image.Image, name: str, colours: Sequence[Colour]) -> Numbers:
    """Read the numbers uint8 [H, W] of a decoded mask: greys, places in a palette, or those of colours in a table.

    Args:
        image: of any mode.
        name: of the file, for messages.
        colours: of the classes, in their order; empty where no table gives any.

    Raises:
        UserError: it has colours that no table names, or numbers beyond a byte.
        Unreadable: pixels are of a type that holds no numbers.
    """
    if colours and image.mode in _COLOURED:
        return _by_colour(np.asarray(image.convert("RGB")), name, colours)
    if image.mode in ("L", "P", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("LA", "La", "PA"):
        return np.asarray(image)[:, :, 0].astype(np.uint8)
    if image.mode.startswith("I"):
        return _within_bytes(np.asarray(image), name)
    if image.mode in _COLOURED:
        raise UserError(
            f"the mask {name} has colours, and no table says whose they are; write class numbers, or a file "
            "classes.txt with a line 'NAME RED GREEN BLUE' for each class beside the folders"
        )
    raise Unreadable(f"pixels of type {image.mode}")


def _by_colour(pixels: npt.NDArray[Any], name: str, colours: Sequence[Colour]) -> Numbers:
    keys = _keys(pixels)
    known = _keys(np.asarray(colours, dtype=np.uint8))
    order: Numbers = np.argsort(known, kind="stable").astype(np.uint8)
    places = np.searchsorted(known[order], keys).clip(max=len(known) - 1)
    strange = known[order][places] != keys
    if strange.any():
        red, green, blue = pixels[strange][0].tolist()
        raise UserError(
            f"the mask {name} has the colour {red} {green} {blue}, which the table of classes does not name; add it "
            "there, and ignore its class if nothing counts where it is"
        )
    numbers: Numbers = order[places]
    return numbers


def _keys(colours: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _within_bytes(values: npt.NDArray[Any], name: str) -> Numbers:
    if values.min() < 0 or values.max() > LARGEST:
        worst = int(values.max()) if values.max() > LARGEST else int(values.min())
        raise UserError(f"the mask {name} has the value {worst}; class numbers are 0 to 254, and {LARGEST} is ignored")
    return values.astype(np.uint8)


def values_of(numbers: Numbers) -> list[int]:
    """List the numbers that a mask holds, in order."""
    found: list[int] = np.flatnonzero(np.bincount(numbers.ravel(), minlength=1)).tolist()
    return found


def table_of(renumbered: Mapping[int, int], otherwise: int) -> Numbers:
    """Make a table uint8 [256] from numbers of files to class numbers."""
    table = np.full(LARGEST + 1, otherwise, dtype=np.uint8)
    for number, label in renumbered.items():
        table[number] = label
    return table
