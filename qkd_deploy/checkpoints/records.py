"""The plain data in a checkpoint, beside its state_dict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qkd_deploy.data import ImageDataset


@dataclass(frozen=True)
class ModelRecord:
    """The network: ``name`` and ``args`` as for ``create_model``, and the shape [C, H, W] of one input image."""

    name: str
    num_classes: int
    in_channels: int
    image_shape: list[int]
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizationRecord:
    """Arguments of ``prepare``, which a state_dict does not hold."""

    bits: str
    overrides: dict[str, str]
    placement: str
    residual: str
    first_last_bits: int
    weight_range: str
    input_scale: float
    input_zero_point: int
    quantizer: str = "interval"


@dataclass(frozen=True)
class DatasetRecord:
    """The data trained on: names, fingerprint, class names, and ``(pixel - mean) / std``."""

    name: str
    known_as: str
    fingerprint: str
    classes: list[str]
    mean: float
    std: float


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
        mean=dataset.mean,
        std=dataset.std,
    )
