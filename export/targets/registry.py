"""Finds targets by name: those of this package, and those that others register.

Another package adds a target by an entry point of the group ``qkd_deploy.targets`` that leads to the ``TARGET`` of its
file.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from qkd_deploy.errors import UserError, closest
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.target import Target

GROUP = "qkd_deploy.targets"
_OWN = ("ort-mobile", "openvino", "litert", "qnn")


def target_names() -> tuple[str, ...]:
    """What ``--target`` takes; reads no more than the names of entry points."""
    return (ORT, *_OWN, *(name for name in _registered() if name not in (ORT, *_OWN)))


def target_named(name: str) -> Target:
    """Find a target other than ``ort``.

    Raises:
        UserError: there is none of that name, or what is registered under it cannot be imported.
    """
    if name in _OWN:
        found: Target = importlib.import_module(f"qkd_deploy.export.targets.{name.replace('-', '_')}").TARGET
        return found
    entry = _registered().get(name)
    if entry is None:
        known = ", ".join(target_names())
        raise UserError(f"there is no target {name!r}; {closest(name, target_names(), then=f'choose one of {known}')}")
    try:
        registered: Target = entry.load()
    except Exception as error:  # whatever the code of another package raises
        raise UserError(
            f"the target {name!r}, registered as {entry.value}, cannot be imported ({type(error).__name__}: {error}); "
            "mend or uninstall the package that registers it"
        ) from error
    return registered


def target_of(path: Path, content: bytes) -> tuple[Target, str] | None:
    """Find the target that a file was written for, and what the file says of itself; None for an ONNX file of ours."""
    for target in targets_by_suffix(path):
        record = target.record(content)
        if record is not None:
            return target, record
    return None


def targets_by_suffix(path: Path) -> list[Target]:
    """The targets whose files have names like this one."""
    return [target for target in map(target_named, target_names()[1:]) if path.name.endswith(target.suffix)]


def require_installed(target: Target) -> None:
    """Refuse a target whose runtime is missing.

    Raises:
        UserError: says which extra installs it.
    """
    missing = [module for module in target.modules if not _is_there(module)]
    if missing:
        extra = f"install it with `pip install 'qkd-deploy[{target.extra}]'`"
        raise UserError(f"{target.title} is not installed (no module {missing[0]}); {extra}")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or a stub has no spec
        return False


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
