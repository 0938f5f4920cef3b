"""What a network says about the images that it expects, in the way of timm's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.pixels.normalization import Normalization

INTERPOLATIONS = ("bilinear", "bicubic")
"""How images of other sizes are resized, with Pillow's antialiasing."""
FITS = ("crop", "letterbox", "stretch")
"""How images of other proportions come to the network's: their middle, whole with a grey border, or distorted."""
_CONFIGURATIONS = ("pretrained_cfg", "default_cfg")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of the images that it is evaluated on; None where nothing is said.

    Attributes:
        normalization: of the pixels.
        interpolation: one of ``INTERPOLATIONS``.
        crop_pct: the share of the resized short side that the crop in the middle leaves.
        fit: one of ``FITS``.
    """

    normalization: Normalization | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    fit: str | None = None

    def otherwise(self, other: Preprocessing) -> Preprocessing:
        """Fill in what is not said here with what is said there."""
        return Preprocessing(
            self.normalization or other.normalization,
            self.interpolation or other.interpolation,
            other.crop_pct if self.crop_pct is None else self.crop_pct,
            self.fit or other.fit,
        )


def expected_by(network: object) -> Preprocessing:
    """Read ``pretrained_cfg`` or ``default_cfg`` of a network: a mapping or an object with timm's entries.

    Entries that are missing, or not understood, say nothing.
    """
    found = (getattr(network, name, None) for name in _CONFIGURATIONS)
    configuration: Any = next((value for value in found if value), {})
    interpolation, crop = _entry(configuration, "interpolation"), _entry(configuration, "crop_pct")
    known = isinstance(crop, (int, float)) and 0 < crop <= 1
    return Preprocessing(
        _normalization(_entry(configuration, "mean"), _entry(configuration, "std")),
        interpolation if interpolation in INTERPOLATIONS else None,
        float(crop) if known else None,
    )


def _entry(configuration: Any, key: str) -> Any:
    if isinstance(configuration, Mapping):
        return configuration.get(key)
    return getattr(configuration, key, None)


def _normalization(mean: Any, std: Any) -> Normalization | None:
    try:
        return Normalization.of_entry({"mean": mean, "std": std, "divisor": 255})
    except UserError:
        return None
