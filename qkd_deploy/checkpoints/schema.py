"""The content of a checkpoint, read once by the schema of its records and bounded before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor

from qkd_deploy.checkpoints.plain import is_plain_data
from qkd_deploy.checkpoints.records import (
    DatasetRecord,
    ModelRecord,
    Record,
    TrainingRecord,
    as_now,
    quantization_settings,
    read_record,
)
from qkd_deploy.checkpoints.state_dicts import is_plain
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.pixels.normalization import Normalization

VERSION = 1
"""Of the format of checkpoints."""
_MOST_VALUES = 2**26
"""Of an image: 64 million, a photograph of 4,700 pixels squared."""


class Parts(NamedTuple):
    """The content of a checkpoint; ``quantization`` is None for full precision."""

    state_dict: dict[str, Tensor]
    model: ModelRecord
    dataset: DatasetRecord
    training: TrainingRecord
    quantization: QuantizationSettings | None


def read_content(content: Mapping[Any, Any], path: Path | str) -> Parts:
    """Read the content of a checkpoint.

    Args:
        content: what the file holds, of which nothing is known but its ``format``.
        path: of the file, for messages.

    Raises:
        UserError: the content is of another version or damaged; names the entry.
    """
    version = content.get("format_version")
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int and abs(version) < 10**9 else "of another kind"
        raise UserError(
            f"{path} has checkpoint format {shown}, this program reads {VERSION}; "
            "use the program's version that wrote it"
        )
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not state or not all(map(_is_entry, state.items())):
        raise UserError(f"{path} is damaged: it holds no weights, or others than dense tensors; use another checkpoint")
    model = _record("model", ModelRecord, content, path)
    _require_possible(model, state, path)
    dataset = _record("dataset", DatasetRecord, content, path)
    _require_pixels(dataset, model, path)
    return Parts(
        dict(state),
        model,
        dataset,
        _record("training", TrainingRecord, content, path),
        None if content.get("quantization") is None else _quantization(content["quantization"], path),
    )


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor) and is_plain(item[1])


def _record(key: str, kind: type[Record], content: Mapping[Any, Any], path: Path | str) -> Record:
    values = content.get(key)
    try:
        if is_plain_data(values):
            return read_record(kind, as_now(values))
    except ValidationError as error:
        raise UserError(_unexpected(key, path)) from error
    raise UserError(_unexpected(key, path))


def _quantization(entry: Any, path: Path | str) -> QuantizationSettings:
    if not is_plain_data(entry):
        raise UserError(_unexpected("quantization", path))
    try:
        return quantization_settings(entry)
    except ValidationError as error:
        raise UserError(_unexpected("quantization", path)) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _require_pixels(dataset: DatasetRecord, model: ModelRecord, path: Path | str) -> None:
    """Refuse a normalisation that exported files could not be written with."""
    try:
        Normalization.of_entry(dataset.normalization).for_channels(model.in_channels)
    except UserError as error:
        raise UserError(_unexpected("dataset", path)) from error


def _unexpected(key: str, path: Path | str) -> str:
    return f"{path} is damaged: its entry {key!r} is not as expected; use another checkpoint"


def _require_possible(model: ModelRecord, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse sizes that the weights cannot have, before a network of these sizes is built."""
    channels, height, width = model.image_shape
    weights = sum(value.untyped_storage().nbytes() for value in state.values())
    if channels != model.in_channels or channels * height * width > _MOST_VALUES:
        raise UserError(f"{path} is damaged: its entry 'model' has an impossible image shape; use another checkpoint")
    if max(model.num_classes, model.in_channels) > weights:
        raise UserError(f"{path} is damaged: its entry 'model' has more classes than weights; use another checkpoint")
