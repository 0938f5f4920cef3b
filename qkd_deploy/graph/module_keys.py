"""Names of tensors and modules as keys of ``nn.ModuleDict``."""

from __future__ import annotations

from torch import nn

_TAKEN = frozenset(dir(nn.ModuleDict()))


def module_key(name: str) -> str:
    """The key of a name: without dots, and no attribute of the dictionary, as that of a layer ``values`` would be."""
    key = name.replace(".", "/")
    return f"{key}/" if key in _TAKEN else key
