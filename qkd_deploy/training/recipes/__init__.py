"""Settings of sweeps in benchmarks/, by name: a TOML file each, whose first lines say what it is for."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from qkd_deploy.errors import UserError, closest
from qkd_deploy.training.config import read_config

_SUFFIX = ".toml"


def recipe_names() -> tuple[str, ...]:
    """The names of all recipes, in order."""
    found = (entry.name for entry in files(__name__).iterdir() if entry.name.endswith(_SUFFIX))
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, to be completed by ``make_config``; other sources may be laid over them.

    Raises:
        UserError: there is none of that name.
    """
    known = recipe_names()
    if name not in known:
        hint = closest(name, known, then="choose one of " + ", ".join(known))
        raise UserError(f"there is no recipe {name!r}; {hint}")
    return read_config(str(files(__name__) / f"{name}{_SUFFIX}"))
