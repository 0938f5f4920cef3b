"""Build models and data sets by name: from a built-in factory, or from the user's ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qkd_deploy.errors import UserError, hint_at

Factory = Callable[..., object]
_DEEPEST = 16


@dataclass(frozen=True)
class Alias:
    """An offered value whose keyword goes by another name in some libraries.

    Attributes:
        value: offered to the factory.
        other: the keyword that takes its place where only that one is in the signature.
        through_kwargs: a factory that names neither, but takes ``**kwargs``, receives it, as ``other``.
    """

    value: object
    other: str
    through_kwargs: bool


def build(
    kind: str, name: str, builtin: Mapping[str, Factory], args: Mapping[str, Any] | None = None, **offered: Any
) -> object:
    """Call the built-in factory of that name, or import and call the user's.

    Args:
        kind: of the thing that is built, in words ("model", "data set"); used in messages.
        name: a key of ``builtin``, or ``package.module:factory``.
        builtin: the factories that come with the package.
        args: the user's own keyword arguments; all of them must be accepted, and they win over what is offered.
        offered: keyword arguments (or an ``Alias``); each factory receives those that its signature accepts.

    Raises:
        UserError: the name is unknown, the module or attribute cannot be imported, or the factory does not take
            ``args``, cannot be called with the offered arguments, or fails.
    """
    given = dict(args or {})
    if name in builtin and not given:
        return builtin[name](**_accepted(builtin[name], offered))
    if name not in builtin and ":" not in name:
        raise UserError(_unknown(kind, name, list(builtin)))
    factory = builtin[name] if name in builtin else import_factory(name)
    keywords = _checked(name, factory, offered, given)
    try:
        return factory(**keywords)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends itself would end the command as if all went well
        advice = f"correct its arguments {_listed(given)} or" if given else "correct"
        raise UserError(f"{name} failed with {_reason(error)}; {advice} that {kind} factory") from error


def import_factory(name: str) -> Factory:
    """Import ``package.module:factory``; the current directory is searched first, as ``python -m`` does.

    Importing runs the user's module: call this only with names that the user typed, never with names from a file.

    Raises:
        UserError: the name is malformed, the module cannot be imported, or it has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith(".") or not attribute.isidentifier():
        raise UserError(f"'{name}' does not name a factory; write package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        advice = "check the name and the folder you start from"
        raise UserError(f"cannot import {module_name} for '{name}' ({_reason(error)}); {advice}") from error
    if not hasattr(module, attribute):
        hint = hint_at(attribute, [key for key in vars(module) if not key.startswith("_")])
        raise UserError(f"the module {module_name} has no '{attribute}'{hint}; check the part after the colon")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UserError(f"{name} is a {type(factory).__name__}; name a function or class that can be called")
    return factory  # type: ignore[no-any-return]


def plain_arguments(setting: str, value: object) -> dict[str, Any]:
    """Check that ``value`` is keyword arguments of data that a checkpoint and TOML can hold.

    Args:
        setting: where it comes from, such as "model_args"; used in messages.
        value: a mapping from keywords to text, numbers, true or false, and lists and tables of those.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{setting} is {reprlib.repr(value)}; it must map keywords to values, such as {{ depth = 3 }}")
    for key, item in value.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise UserError(f"{setting} has the key {key!r}; write letters, digits and underscores, no digit first")
        if not _is_plain(item):
            kinds = f"text, numbers, true or false, lists and tables, at most {_DEEPEST} within each other"
            raise UserError(f"{setting}: {key} is {reprlib.repr(item)}; a factory can be given only {kinds}")
    return dict(value)


def _is_plain(value: object, depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return False
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    return type(value) in (str, int, float, bool)


def _accepted(factory: Factory, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Select the offered keywords that ``factory`` takes: those in its signature, or all where that does not tell."""
    names, open_ended = _keywords(factory)
    accepted = {}
    for key, item in offered.items():
        alias = item if isinstance(item, Alias) else Alias(item, key, through_kwargs=True)
        if key in names:
            accepted[key] = alias.value
        elif alias.other in names or (open_ended and alias.through_kwargs):
            accepted[alias.other] = alias.value
    return accepted


def _keywords(factory: Factory) -> tuple[list[str], bool]:
    """List the keywords in the signature of ``factory``; true where it may take others, too."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return [], True
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _checked(name: str, factory: Factory, offered: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Collect all arguments of the call; refuse in one sentence where the factory takes fewer or demands more."""
    names, open_ended = _keywords(factory)
    for key in given:
        if key not in names and not open_ended:
            takes = f"it takes {', '.join(names)}" if names else "it takes none: leave the argument out"
            raise UserError(f"{name} takes no argument '{key}'{hint_at(key, names)}; {takes}")
    arguments = {**_accepted(factory, offered), **given}
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return arguments
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join({**offered, **given})
        advice = "give the rest as arguments or as defaults"
        raise UserError(f"{name} cannot be called: {error}; it is offered only {known}: {advice}") from error
    return arguments


def _reason(error: Exception | SystemExit) -> str:
    """Write type and first line of an exception, so that a message stays one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _listed(arguments: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{key} = {value!r}' for key, value in arguments.items())})"


def _unknown(kind: str, name: str, known: list[str]) -> str:
    return f"unknown {kind} '{name}'{hint_at(name, known)}; known: {', '.join(known)}, or package.module:factory"
