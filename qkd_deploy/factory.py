"""From a name to the function that builds the thing: a built-in one, or the user's ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from qkd_deploy.errors import UserError

Factory = Callable[..., object]


def build(kind: str, name: str, builtin: Mapping[str, Factory], **offered: Any) -> object:
    """Build what ``name`` names: call the built-in factory, or import and call the user's.

    Args:
        kind: what the name stands for, in words ("model", "data set"); used in messages.
        name: a key of ``builtin``, or ``package.module:factory``.
        builtin: the factories that come with the package.
        offered: keyword arguments; each factory receives those that its signature accepts.

    Raises:
        UserError: the name is unknown, the module or attribute cannot be imported, or the user's factory
            cannot be called with the offered arguments or fails.
    """
    if name in builtin:
        return builtin[name](**_accepted(builtin[name], offered))
    if ":" not in name:
        raise UserError(_unknown(kind, name, list(builtin)))
    factory = import_factory(name)
    try:
        return factory(**_checked(name, factory, offered))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} failed with {_reason(error)}; correct that {kind} factory") from error


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
    except Exception as error:
        advice = "check the name and the folder you start from"
        raise UserError(f"cannot import {module_name} for '{name}' ({_reason(error)}); {advice}") from error
    if not hasattr(module, attribute):
        hint = _closest(attribute, [key for key in vars(module) if not key.startswith("_")])
        raise UserError(f"the module {module_name} has no '{attribute}'{hint}; check the part after the colon")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UserError(f"{name} is a {type(factory).__name__}; name a function or class that can be called")
    return factory  # type: ignore[no-any-return]


def _accepted(factory: Factory, offered: Mapping[str, Any]) -> dict[str, Any]:
    """The offered keywords that the signature of ``factory`` takes; all of them where it has no signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return dict(offered)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in offered.items() if key in by_keyword}


def _checked(name: str, factory: Factory, offered: Mapping[str, Any]) -> dict[str, Any]:
    """``_accepted``, and a clear sentence where the factory demands more than is offered."""
    accepted = _accepted(factory, offered)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return accepted
    try:
        signature.bind(**accepted)
    except TypeError as error:
        names = ", ".join(offered)
        raise UserError(
            f"{name} cannot be called: {error}; it is offered only {names}: give the rest defaults"
        ) from error
    return accepted


def _reason(error: Exception) -> str:
    """Type and first line of an exception, so that a message stays one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _unknown(kind: str, name: str, known: list[str]) -> str:
    return f"unknown {kind} '{name}'{_closest(name, known)}; known: {', '.join(known)}, or package.module:factory"


def _closest(name: str, known: list[str]) -> str:
    """A hint in brackets, led by a blank, at the known name that resembles ``name``; empty where none does."""
    folded = {key.lower(): key for key in known}
    matches = difflib.get_close_matches(name.lower(), folded, n=1)
    return f" (did you mean '{folded[matches[0]]}'?)" if matches else ""
