"""How a setting is declared: once, as a field that says its name, type, range or choices, default, help and group.

    @dataclass(frozen=True, kw_only=True)
    class Optimisation(Settings):
        group = "optimisation"
        lr: Annotated[PositiveFloat, "Learning rate of the student's weights."] = 0.01
        schedule: Annotated[str, OneOf("cosine", "step"), "How it changes."] = "cosine"

A value is validated by pydantic when an instance is made, whether it comes from Python, TOML or the command line, whose
options and page of reference are generated from ``declarations``.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from qkd_deploy.errors import UserError, closest, in_brief
from qkd_deploy.factory import plain_arguments

LARGEST = 2**31 - 1
"""Of whole numbers whose setting declares no bound of its own: more than fits what they count."""
MOST_EPOCHS = 100_000
MOST_THREADS = 512
"""A million of them abort the process."""
_MOST_PHASES = 64
_LARGEST_TOML = 2**20
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}
_BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than_equal", "finite_number")


class OneOf:
    """Restrict a text to a few words; a wrong one is answered with the nearest.

    Args:
        words: what is allowed, usually the keys of the table that implements them.
    """

    def __init__(self, *words: str) -> None:
        self.words = words

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.words))


@dataclass(frozen=True)
class Wanted:
    """The advice for a value of a wrong type, where its type in words would not help."""

    text: str


def _as_tuple(value: Any) -> Any:
    return (value,) if type(value) is int else value


def _require_possible(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if len(epochs) > _MOST_PHASES or max(epochs, default=0) > MOST_EPOCHS:
        raise ValueError
    return epochs


Names = Annotated[tuple[str, ...], Field(strict=False), Wanted("it must be a list of names")]
"""Words, such as ``["self-study", "tutor"]``; with commas on the command line."""

Epochs = Annotated[
    tuple[int, ...],
    Field(strict=False),
    BeforeValidator(_as_tuple),
    AfterValidator(_require_possible),
    Wanted(f"give one number, or one per phase such as 30,100,70, each of at most {MOST_EPOCHS}"),
]
"""One whole number, or several; with commas on the command line."""

BitsTable = Annotated[dict[str, str], Wanted('it must map patterns to bits, such as { "layer3.*" = "w8a8" }')]
"""Bits by pattern of module paths; an option for each on the command line."""


@dataclass(frozen=True)
class Repeated:
    """The option of a list is given once for each of its texts, and what stands between commas is one text."""


Patterns = Annotated[tuple[str, ...], Field(strict=False), Repeated(), Wanted('it must be a list such as ["head.*"]')]
"""Patterns of module paths; an option for each on the command line."""

Replacements = Annotated[Mapping[str, str], Wanted('it must map functions to functions, such as { silu = "relu6" }')]
"""New functions by old ones, with a pattern of module paths before a colon; an option for each on the command line."""

Arguments = dict[str, Any]
"""Keyword arguments of a user's factory, of plain data; an option for each on the command line."""


@dataclass(frozen=True)
class Declaration:
    """One setting.

    Attributes:
        name: in Python and in TOML.
        type: of its value, without annotations and None.
        default: what holds where nothing is given; ``dataclasses.MISSING`` where something must be.
        help: one or two sentences; names and values stand between backticks.
        group: the heading under which it is listed.
        choices: the words that are allowed; empty where there is no such list.
        repeated: its option is given once for each text of a list.
        bounds: by "gt", "ge" or "le" the limit of a number.
        wanted: the advice for a value of a wrong type.
        validator: converts a value, or raises ``ValidationError``.
    """

    name: str
    type: Any
    default: Any
    help: str
    group: str
    choices: tuple[str, ...]
    repeated: bool
    bounds: Mapping[str, float]
    wanted: str
    validator: TypeAdapter[Any]

    def checked(self, value: Any) -> Any:
        """A value in the setting's type (an int may stand for a float, a list for a tuple).

        Raises:
            UserError: it is of another type, out of range, or none of the choices.
        """
        if self.type == Arguments:
            return plain_arguments(self.name, value)
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{self.name} is {value!r}; leave out the zero byte")
        try:
            return self.validator.validate_python(value)
        except ValidationError as error:
            raise UserError(self._complaint(value, error.errors()[0]["type"])) from error

    def _complaint(self, value: Any, kind: str) -> str:
        """Say in one line what is wrong; ``kind`` is pydantic's name of the error."""
        if kind == "literal_error":
            hint = closest(value, self.choices, then=f"choose one of {', '.join(self.choices)}")
            return f"{self.name} is {in_brief(value)}; {hint}"
        if kind in _BOUND_ERRORS and self.bounds:
            told = {key: x for key, x in self.bounds.items() if x != LARGEST or kind == "less_than_equal"}
            bounds = " and ".join(f"{_BOUNDS[key]} {limit:.12g}" for key, limit in told.items())
            return f"{self.name} is {value}; it must be a number {bounds}"
        return f"{self.name} is {in_brief(value)}; {self.wanted}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the frozen dataclasses that declare settings; see the module's docstring."""

    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Replace every field's value by its checked one.

        Raises:
            UserError: a value is of a wrong type, out of range, or none of the choices.
        """
        for declared in declarations(type(self)):
            object.__setattr__(self, declared.name, declared.checked(getattr(self, declared.name)))


_KNOWN: dict[type, tuple[Declaration, ...]] = {}


def declarations(kind: type[Settings]) -> tuple[Declaration, ...]:
    """The settings of a class: those of its bases, in the order in which these are listed, then its own."""
    if kind not in _KNOWN:
        hints = get_type_hints(kind, include_extras=True)
        homes, defaults = _homes(kind), {item.name: _default(item) for item in fields(kind)}
        _KNOWN[kind] = tuple(_declaration(name, hints[name], defaults[name], homes[name].group) for name in homes)
    return _KNOWN[kind]


def _homes(kind: type) -> dict[str, type[Settings]]:
    """By setting the class that declared it first, even where another gives it another default."""
    homes: dict[str, type[Settings]] = {}
    for base in kind.__bases__:
        homes |= _homes(base)
    for item in fields(kind) if is_dataclass(kind) else ():
        homes.setdefault(item.name, kind)
    return homes


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _declaration(name: str, hint: Any, default: Any, group: str) -> Declaration:
    info = FieldInfo.from_annotation(hint)
    kind: Any = info.annotation
    bounds = {key: getattr(item, key) for item in info.metadata for key in _BOUNDS if hasattr(item, key)}
    if kind is int and "le" not in bounds:
        bounds["le"], hint = LARGEST, Annotated[hint, Field(le=LARGEST)]
    choices = next((item.words for item in info.metadata if isinstance(item, OneOf)), ())
    plain: Any = get_args(kind)[0] if isinstance(kind, UnionType) else kind  # of ``str | None``: str
    usual = f"it must be {_TYPES.get(plain, getattr(plain, '__name__', plain))}"
    wanted = next((item.text for item in info.metadata if isinstance(item, Wanted)), usual)
    # a dataclass of ours says itself how it is read
    validator: TypeAdapter[Any] = TypeAdapter(hint, config=None if is_dataclass(plain) else _STRICT)
    text = next((item for item in info.metadata if isinstance(item, str)), "")
    repeated = any(isinstance(item, Repeated) for item in info.metadata)
    return Declaration(name, plain, default, text, group, choices, repeated, bounds, wanted, validator)


def require_known(names: Iterable[str], kind: type[Settings], where: str = "") -> None:
    """Refuse names that are no settings of a class.

    Args:
        names: as a user wrote them.
        kind: the class that declares what there is.
        where: the file in which they stand, if any.

    Raises:
        UserError: a name is unknown; suggests the nearest.
    """
    known = [item.name for item in fields(kind)]
    for name in names:
        if name not in known:
            hint = closest(name, known, otherwise="remove it")
            raise UserError(f"{f'{where}: ' if where else ''}unknown setting {name!r}; {hint}")


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """Read a TOML file of at most a megabyte.

    Args:
        path: of the file.
        kind: of what is in it, in words ("configuration", "sweep"); used in messages.

    Raises:
        UserError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_TOML + 1)
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {error.strerror}; check the path") from error
    if len(content) > _LARGEST_TOML:
        raise UserError(f"the {kind} {path} is larger than a megabyte; check the path")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise UserError(f"the {kind} {path} is nested too deep; correct it") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of too many digits
        raise UserError(f"{path} is not a TOML file ({error}); correct it") from error
