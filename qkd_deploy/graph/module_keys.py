"""Names of tensors and modules as keys of ``nn.ModuleDict``."""

from __future__ import annotations

from torch import nn

_TAKEN = frozenset(dir(nn.ModuleDict()))


def module_key(name: str) -> str:
    """Turn a name into a key: without dots, and no attribute of the dictionary, as that of a layer ``values`` is."""
    key = name.replace(".", "/")
    return f"{key}/" if key in _TAKEN else key


def before_key(name: str) -> str:
    """The key of what a tensor's codes stand for while they are made, where they are then read as another function."""
    return module_key(f"{name}.before")
