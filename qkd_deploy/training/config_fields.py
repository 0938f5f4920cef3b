"""The kinds of settings: bounds, choices, and the types that a TOML file or a command line may give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, field
from math import inf
from typing import Any

from qkd_deploy.errors import UserError, closest
from qkd_deploy.factory import plain_arguments


def number(default: float | int, *, above: float = -inf, least: float = -inf, most: float = inf) -> Any:
    """A numeric field with its bounds."""
    return field(default=default, metadata={"above": above, "least": least, "most": most})


def choice(default: str, *choices: str) -> Any:
    """A text field with a fixed set of values."""
    return field(default=default, metadata={"choices": choices})


def checked(item: Field[Any], value: Any) -> Any:
    """``value`` in the type of its field (an int may stand for a float, a list for a tuple).

    Raises:
        UserError: it is of another type, out of bounds, or none of the choices.
    """
    kind = str(item.type)
    if value is None and "None" in kind:
        return None
    if kind == "float" and type(value) is int:
        value = float(value)
    if kind.startswith("tuple"):
        return _epochs(value) if item.name == "epochs" else _names(item.name, value)
    if kind == "dict[str, Any]":
        return plain_arguments(item.name, value)
    if kind.startswith("dict"):
        return _bits_table(item.name, value)
    expected = {"str": str, "int": int, "float": float, "bool": bool}[kind.removesuffix(" | None")]
    if type(value) is not expected:
        raise UserError(f"{item.name} is {value!r}; it must be {_in_words(expected)}")
    _check_range(item, value)
    return value


def _check_range(item: Field[Any], value: Any) -> None:
    choices = item.metadata.get("choices")
    if choices is not None and value not in choices:
        hint = closest(value, choices, then=f"choose one of {', '.join(choices)}")
        raise UserError(f"{item.name} is {value!r}; {hint}")
    if "least" in item.metadata:
        above, least, most = (item.metadata[key] for key in ("above", "least", "most"))
        if not (above < value < inf and least <= value <= most):
            bounds = ((f"above {above:g}", above), (f"at least {least:g}", least), (f"at most {most:g}", most))
            wanted = " and ".join(text for text, bound in bounds if abs(bound) != inf)
            raise UserError(f"{item.name} is {value}; it must be a number {wanted}")


def _epochs(value: Any) -> tuple[int, ...]:
    numbers = (value,) if type(value) is int else value
    if not isinstance(numbers, (list, tuple)) or any(type(number) is not int for number in numbers):
        raise UserError(f"epochs is {value!r}; give one number, or one per phase such as 30,100,70")
    return tuple(numbers)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or any(type(word) is not str for word in value):
        raise UserError(f"{name} is {value!r}; it must be a list of names")
    return tuple(value)


def _bits_table(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or any(type(text) is not str for pair in value.items() for text in pair):
        raise UserError(f'{name} is {value!r}; it must map patterns to bits, such as {{ "layer3.*" = "w8a8" }}')
    return dict(value)


def _in_words(kind: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
