"""The plain data in a checkpoint, beside its state_dict: the schema by which ``read_record`` judges a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter

from qkd_deploy.data import ImageDataset
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.pixels.normalization import Normalization

FORMAT = "qkd-deploy checkpoint"
"""How checkpoints call themselves."""

_KNOWN_FIELDS = ConfigDict(extra="forbid")
Record = TypeVar("Record")
Text = Annotated[str, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Table = Annotated[dict[Text, Any], Field(strict=True)]


@dataclass(frozen=True)
class ModelRecord:
    """The network: ``name`` and ``args`` as for ``create_model``, and the shape [C, H, W] of one input image."""

    __pydantic_config__: ClassVar[ConfigDict] = _KNOWN_FIELDS

    name: Text
    num_classes: Size
    in_channels: Size
    image_shape: Annotated[list[Size], Field(min_length=3, max_length=3)]
    args: Table = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetRecord:
    """The data trained on: names, fingerprint, classes, what pixels are taken as (``Normalization.as_entry``).

    ``evaluation`` says how evaluation resizes and crops image files, where not as usual.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _KNOWN_FIELDS

    name: Text
    known_as: Text
    fingerprint: Text
    classes: list[Text]
    normalization: Table
    evaluation: Table = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came about, and what they reach: ``accuracy`` in percent over ``images`` held-out images.

    The accuracy is that of the frozen integer model where the network is quantized. ``figures`` are all that the task
    measures, by name, of which the first is the accuracy; empty in files of older versions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _KNOWN_FIELDS

    method: Text
    epochs: Count
    seed: Count
    accuracy: Annotated[float, Field(strict=True)]
    images: Count
    figures: dict[Text, Annotated[float, Field(strict=True)]] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizationRecord:
    """The settings of a quantized network for images as plain data; older files lack what has a default here."""

    __pydantic_config__: ClassVar[ConfigDict] = _KNOWN_FIELDS

    bits: Text
    overrides: dict[Text, Text]
    placement: Text
    residual: Text
    first_last_bits: Count
    weight_range: Text
    input_scale: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    input_zero_point: Annotated[int, Field(strict=True, ge=0, le=255)]
    weight_scales: Text = "layer"
    quantizer: Text = "interval"
    replace: dict[Text, Text] = field(default_factory=dict)
    normalization: Table | None = None


def read_record(kind: type[Record], values: Any) -> Record:
    """Make one record of the values in a file.

    Raises:
        pydantic.ValidationError: a field is missing or unknown, of another type, or out of its bounds.
    """
    return TypeAdapter(kind).validate_python(values)


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
    known = content.get("format") if isinstance(content, Mapping) else None
    return isinstance(known, str) and known == FORMAT


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
    record = QuantizationRecord(
        bits=str(settings.bits),
        overrides={pattern: str(bits) for pattern, bits in settings.overrides.items()},
        placement=settings.placement,
        residual=settings.residual,
        first_last_bits=settings.first_last_bits,
        weight_range=settings.weight_range,
        weight_scales=settings.weight_scales,
        input_scale=scale,
        input_zero_point=zero_point,
        quantizer=settings.quantizer,
        replace=dict(settings.replace),
        normalization=None if settings.normalization is None else settings.normalization.as_entry(),
    )
    return asdict(record)


def quantization_settings(entry: Any) -> QuantizationSettings:
    """Read the settings that ``quantization_entry`` wrote.

    Raises:
        pydantic.ValidationError: as ``read_record``.
        UserError: a value is none of its choices, or out of range.
    """
    given = asdict(read_record(QuantizationRecord, entry))
    known_input = (given.pop("input_scale"), given.pop("input_zero_point"))
    pixels = given.pop("normalization")
    normalization = None if pixels is None else Normalization.of_entry(pixels)
    return QuantizationSettings(input_quantization=known_input, normalization=normalization, **given)
