"""The plain data in a checkpoint, beside its state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qkd_deploy.data import ImageDataset
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.pixels.normalization import Normalization

FORMAT = "qkd-deploy checkpoint"
"""How checkpoints call themselves."""


@dataclass(frozen=True)
class ModelRecord:
    """The network: ``name`` and ``args`` as for ``create_model``, and the shape [C, H, W] of one input image."""

    name: str
    num_classes: int
    in_channels: int
    image_shape: list[int]
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetRecord:
    """The data trained on: names, fingerprint, classes, what pixels are taken as (``Normalization.as_entry``).

    ``evaluation`` says how evaluation resizes and crops image files, where not as usual.
    """

    name: str
    known_as: str
    fingerprint: str
    classes: list[str]
    normalization: dict[str, Any]
    evaluation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came about, and what they reach: ``accuracy`` in percent over ``images`` held-out images.

    The accuracy is that of the frozen integer model where the network is quantized.
    """

    method: str
    epochs: int
    seed: int
    accuracy: float
    images: int


def dataset_record(dataset: ImageDataset) -> DatasetRecord:
    """Describe ``dataset`` for a checkpoint."""
    return DatasetRecord(
        name=dataset.name,
        known_as=dataset.known_as,
        fingerprint=dataset.fingerprint,
        classes=list(dataset.classes),
        normalization=dataset.normalization.as_entry(),
        evaluation=dict(dataset.evaluation),
    )


def is_checkpoint(content: Any) -> bool:
    """True where a file holds a checkpoint of this package, of whatever version."""
    return isinstance(content, Mapping) and content.get("format") == FORMAT


def as_now(values: Any) -> Any:
    """A record with the entries of today: of old data sets, mean and deviation were two numbers for all channels."""
    if not isinstance(values, dict) or not {"mean", "std"} <= values.keys():
        return values
    rest = {name: value for name, value in values.items() if name not in ("mean", "std")}
    return {**rest, "normalization": {"mean": values["mean"], "std": values["std"]}}


def quantization_entry(settings: QuantizationSettings) -> dict[str, Any]:
    """Turn the settings of a network for images into plain data."""
    assert settings.input_quantization is not None  # images are pixels, whose codes are known
    scale, zero_point = settings.input_quantization
    return {
        "bits": str(settings.bits),
        "overrides": {pattern: str(bits) for pattern, bits in settings.overrides.items()},
        "placement": settings.placement,
        "residual": settings.residual,
        "first_last_bits": settings.first_last_bits,
        "weight_range": settings.weight_range,
        "weight_scales": settings.weight_scales,
        "input_scale": scale,
        "input_zero_point": zero_point,
        "quantizer": settings.quantizer,
        "replace": dict(settings.replace),
        "normalization": None if settings.normalization is None else settings.normalization.as_entry(),
    }


def quantization_settings(entry: Mapping[str, Any]) -> QuantizationSettings:
    """Read the settings that ``quantization_entry`` wrote; older entries lack what was added later.

    Raises:
        KeyError, TypeError: the entry lacks a value, or has one that does not exist.
        UserError: a value is out of range.
    """
    given = {"weight_scales": "layer", **entry}  # what older versions knew
    known_input = (given.pop("input_scale"), given.pop("input_zero_point"))
    entry_of_pixels = given.pop("normalization", None)
    pixels = None if entry_of_pixels is None else Normalization.of_entry(entry_of_pixels)
    return QuantizationSettings(input_quantization=known_input, normalization=pixels, **given)
