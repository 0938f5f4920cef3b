"""Read a sweep from a TOML file with common settings and axes, and multiply the axes out.

``[settings]`` holds settings of ``TrainConfig`` that all entries share. In ``[grid]`` every key is an axis: a setting
with a list of values, or any other name with a list of tables, whose settings change together. ``[verify]`` holds
options of ``verify``. Every combination of the axes' values is an entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from qkd_deploy.errors import UserError, hint_at
from qkd_deploy.settings import read_toml
from qkd_deploy.training.config import TrainConfig, make_config
from qkd_deploy.verification.settings import VerifyOptions

_TABLES = ("settings", "grid", "verify")
_SETTINGS = [item.name for item in fields(TrainConfig)]
_ID_DIGITS = 12


@dataclass(frozen=True)
class Entry:
    """One training run of a sweep.

    Attributes:
        given: the settings that the file names, as ``make_config`` takes them.
        axes: by axis, the value that this entry has; for a table, that of its first key if it tells.
        config: everything resolved.
    """

    given: dict[str, Any]
    axes: dict[str, Any]
    config: TrainConfig

    @property
    def id(self) -> str:
        """Hash of the resolved settings, so that the same run has the same name in every sweep."""
        text = json.dumps(asdict(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]

    @property
    def label(self) -> str:
        """The entry's place in the grid, in words."""
        return ", ".join(f"{axis} {shown(value)}" for axis, value in self.axes.items()) or "the only entry"


@dataclass(frozen=True)
class _Choice:
    """One value of an axis, and the settings that it stands for."""

    value: Any
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep: its file, its axes in order, and all entries."""

    file: Path
    axes: tuple[str, ...]
    entries: tuple[Entry, ...]
    verify: VerifyOptions


def read_plan(path: Path | str) -> Plan:
    """Read a sweep and check every entry's settings.

    Raises:
        UserError: the file cannot be read or is no TOML, has an unknown table or setting, an axis without values,
            settings that do not fit together, or the same entry twice.
    """
    file = Path(path)
    content = read_toml(file, "sweep")
    for table in content:
        if table not in _TABLES or not isinstance(content[table], dict):
            raise UserError(
                f"{file} has {table!r}{hint_at(table, _TABLES)}; a sweep has the tables {', '.join(_TABLES)}"
            )
    common, grid = content.get("settings", {}), content.get("grid", {})
    axes = [_axis(file, name, values) for name, values in grid.items()]
    _require_settings_once(file, common, axes)
    entries = tuple(_entry(file, common, list(grid), choices) for choices in product(*axes))
    _require_different(file, entries)
    return Plan(file, tuple(grid), entries, _verify_options(file, content.get("verify", {})))


def shown(value: Any) -> str:
    """Write a setting's value in short."""
    return value if isinstance(value, str) else json.dumps(value)


def _axis(file: Path, name: str, values: Any) -> list[_Choice]:
    """Read the values of an axis, each with the settings that it stands for."""
    if not isinstance(values, list) or not values:
        raise UserError(f"{file}: the axis {name!r} is {values!r}; give a list of values, such as [0, 1, 2]")
    if name in _SETTINGS:
        return [_Choice(value, {name: value}) for value in values]
    if not all(isinstance(value, dict) and value for value in values):
        raise UserError(f"{file}: {name!r} is no setting{hint_at(name, _SETTINGS)}; an axis of that name needs tables")
    heads = [next(iter(table.values())) for table in values]
    distinct = len({shown(head) for head in heads}) == len(heads)
    return [_Choice(head if distinct else table, table) for head, table in zip(heads, values, strict=True)]


def _require_settings_once(file: Path, common: Mapping[str, Any], axes: list[list[_Choice]]) -> None:
    """Refuse settings that do not exist, and those that two places decide."""
    places: list[set[str]] = [set(common), *({key for choice in axis for key in choice.settings} for axis in axes)]
    seen: set[str] = set()
    for place in places:
        for key in sorted(place):
            if key not in _SETTINGS:
                raise UserError(f"{file}: unknown setting {key!r}{hint_at(key, _SETTINGS)}; correct it")
            if key in seen:
                raise UserError(f"{file} sets {key!r} in two places; leave it in one of them")
        seen |= place


def _entry(file: Path, common: dict[str, Any], axes: list[str], choices: tuple[_Choice, ...]) -> Entry:
    given = dict(common)
    for choice in choices:
        given |= choice.settings
    places = {axis: choice.value for axis, choice in zip(axes, choices, strict=True)}
    try:
        return Entry(given, places, make_config(given))
    except UserError as error:
        where = ", ".join(f"{axis} {shown(value)}" for axis, value in places.items())
        raise UserError(f"{file}{f' ({where})' if where else ''}: {error}") from error


def _require_different(file: Path, entries: tuple[Entry, ...]) -> None:
    labels: dict[str, str] = {}
    for entry in entries:
        if entry.id in labels:
            raise UserError(f"{file}: {labels[entry.id]} and {entry.label} are the same run; leave one of them out")
        labels[entry.id] = entry.label


def _verify_options(file: Path, given: dict[str, Any]) -> VerifyOptions:
    known = [item.name for item in fields(VerifyOptions)]
    for key in given:
        if key not in known:
            raise UserError(
                f"{file}: unknown setting {key!r} of verify{hint_at(key, known)}; it has {', '.join(known)}"
            )
    try:
        return VerifyOptions(**given)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
