"""Read what a data.yaml of YOLO says: class names, and where the images of each split lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qkd_deploy.errors import UserError, unreadable

_MOST_BYTES = 2**18
_DEEPEST = 16
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_SPLITS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class YoloFile:
    """What a data.yaml says.

    Attributes:
        names: class names; empty where it tells none.
        splits: for each split that it names, folders of images, or lists of them (``.txt``), as they stand there.
        path: where relative ones start, as it stands there.
    """

    names: tuple[str, ...] = ()
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: str = ""


def read_yolo(path: Path) -> YoloFile:
    """Read a data.yaml.

    Raises:
        UserError: it cannot be read, is no such file, or is dangerous to read.
    """
    content = _content(path)
    splits = {split: _places(path, split, content[split]) for split in _SPLITS if content.get(split)}
    root = content.get("path")
    return YoloFile(_names(path, content), splits, root if isinstance(root, str) else "")


def _content(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(text) > _MOST_BYTES:
        raise UserError(f"{path} is larger than 256 KiB; name the data.yaml of a data set")
    try:
        _require_plain(path, text)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} is no YAML file ({reason}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no entries such as names; name the data.yaml of a data set")
    return content


def _require_plain(path: Path, text: bytes) -> None:
    """Refuse what lets a short file stand for an endless one, or take endless time."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > _DEEPEST:
            raise UserError(f"{path} is nested too deep; name the data.yaml of a data set")
        if isinstance(token, yaml.AliasToken):
            raise UserError(f"{path} has references (*), which are refused; write their values instead")


def _places(path: Path, split: str, value: Any) -> tuple[str, ...]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise UserError(f"{path}: {split} is no folder of images; write its path")
    return tuple(places)


def _names(path: Path, content: dict[Any, Any]) -> tuple[str, ...]:
    """Take names from a list, or from a table of numbers; where there are none, numbers as many as ``nc`` says."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{path} does not number its classes 0 to {len(names) - 1}; number them without gaps")
        names = [names[number] for number in range(len(names))]
    count = content.get("nc")
    if names is None and type(count) is int and 0 < count < 2**16:
        names = list(range(count))
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names) or not names:
        raise UserError(f"{path} has names that are no list of class names; write names: [first, second]")
    if len(set(map(str, names))) < len(names):
        raise UserError(f"{path} gives two classes the same name; name them apart")
    return tuple(map(str, names))
