"""How pixels become the numbers that a network takes: ``(pixel / divisor - mean) / std``, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qkd_deploy.errors import UserError, closest, require_kind

PIXELS = 255.0
"""The divisor of means and deviations as timm and torchvision write them."""
ZERO_POINT, SCALE = 128, 1 / 64
"""The grid of the integer model's input: codes are the pixels, whatever the network's own normalisation is."""


@dataclass(frozen=True)
class Normalization:
    """A network takes ``(pixel / divisor - mean) / std``.

    Attributes:
        mean, std: one number for every channel, or one for all.
        divisor: of the pixels 0..255 first: 255 for numbers as timm and torchvision write them, 1 for plain pixels.

    Raises:
        UserError: numbers that cannot be a mean and a deviation of pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    divisor: float = PIXELS

    def __post_init__(self) -> None:
        counts = {len(self.mean), len(self.std)}
        if 0 in counts or len(counts - {1}) > 1:
            raise UserError(f"normalization {self}: give as many means as deviations, or one for all channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise UserError(f"normalization {self}: means must be finite and deviations above 0")
        if not 0 <= min(self.mean) <= max(self.mean) <= 255 / self.divisor:
            raise UserError(f"normalization {self}: a mean lies outside of the pixels, 0 to {255 / self.divisor:g}")

    def __str__(self) -> str:
        """The text that ``parse`` reads: a preset's name, or numbers."""
        named = next((name for name, known in PRESETS.items() if known == self), None)
        return named or "/".join(",".join(f"{value!r}" for value in values) for values in (self.mean, self.std))

    @property
    def channels(self) -> int:
        """The number of channels that it is for; 1 where one number serves any."""
        return max(len(self.mean), len(self.std))

    def for_channels(self, channels: int) -> Normalization:
        """The same with one mean and one deviation for each of that many channels.

        Raises:
            UserError: it is for another number of channels.
        """
        if self.channels not in (1, channels):
            raise UserError(
                f"normalization {self} is for {self.channels} channels, but the images have {channels}; "
                "give one mean and one deviation, such as 0.5/0.5"
            )
        mean, std = (values * channels if len(values) == 1 else values for values in (self.mean, self.std))
        return Normalization(mean, std, self.divisor)

    @property
    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Gain and offset by channel that make a network's input of ``(pixel - 128) / 64``."""
        each = self.for_channels(self.channels)
        gain = tuple(1 / (SCALE * self.divisor * std) for std in each.std)
        pairs = zip(each.mean, each.std, strict=True)
        return gain, tuple((ZERO_POINT / self.divisor - mean) / std for mean, std in pairs)

    @property
    def zero_pixels(self) -> tuple[int, ...]:
        """By channel the pixel nearest to what becomes zero (half to even): what a zero padding means."""
        return tuple(min(255, max(0, round(mean * self.divisor))) for mean in self.for_channels(self.channels).mean)

    def as_entry(self) -> dict[str, Any]:
        """Plain data for files: single numbers where one serves all channels; a divisor of 1 is left out."""
        mean, std = (values[0] if len(values) == 1 else list(values) for values in (self.mean, self.std))
        return {"mean": mean, "std": std} | ({} if self.divisor == 1 else {"divisor": self.divisor})

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Normalization:
        """Read what ``as_entry`` wrote.

        Raises:
            UserError: it is something else, or the numbers are impossible.
        """
        try:
            mean, std = (_numbers(entry[key]) for key in ("mean", "std"))
            divisor = float(entry.get("divisor", 1.0))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{entry!r} is no normalization of pixels; use another file") from error
        return cls(mean, std, divisor)

    @classmethod
    def parse(cls, text: str | Normalization) -> Normalization:
        """Read a preset's name, or ``MEANS/DEVIATIONS`` such as ``0.485,0.456,0.406/0.229,0.224,0.225``.

        Where a number is above 1, all are in units of pixels, as in ``127/128``.

        Raises:
            UserError: anything else.
        """
        if isinstance(text, Normalization):
            return text
        require_kind(text, str, "normalization", f"give one of {', '.join(PRESETS)}, or MEANS/DEVIATIONS")
        if text in PRESETS:
            return PRESETS[text]
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
        except ValueError:
            form = f"give one of {', '.join(PRESETS)}, or MEANS/DEVIATIONS such as 0.485,0.456,0.406/0.229,0.224,0.225"
            raise UserError(f"normalization {text!r} is not known; {closest(text, PRESETS, then=form)}") from None
        return cls(mean, std, 1.0 if max((*mean, *std)) > 1 else PIXELS)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)


CENTERED = Normalization((128.0,), (64.0,), 1.0)
"""The normalisation of the networks of this package: the only one that pixels survive without rounding."""

PRESETS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization((0.5,), (0.5,)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "centered": CENTERED,
}
