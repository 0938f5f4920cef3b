"""In-place operations as ordinary ones, so that no tensor changes after a quantizer or autograd has seen it."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.graph.ir import Node

OPERATORS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ipow: operator.pow,
}
"""In-place operators and their ordinary twins."""


def switch_off(model: nn.Module) -> set[str]:
    """Make all modules with an ``inplace`` attribute return new tensors; returns the paths of those that did not."""
    found = {path for path, module in model.named_modules(remove_duplicate=False) if getattr(module, "inplace", False)}
    for path in found:
        model.get_submodule(path).inplace = False  # type: ignore[assignment]
    return found


def out_of_place(node: Node) -> bool:
    """Rewrite a call of an in-place function or method to its ordinary twin; returns whether it was one."""
    if node.kwargs.get("inplace") is True:
        node.kwargs["inplace"] = False
        return True
    twin = _twin(node)
    if twin is None:
        return False
    node.target = twin
    return True


def _twin(node: Node) -> Any:
    if node.method:
        name = str(node.target)
        plain = name[:-1]
        in_place = name.endswith("_") and not name.endswith("__")
        return plain if in_place and hasattr(torch.Tensor, plain) else None
    if isinstance(node.target, str) or node.target is None:
        return None
    if node.target in OPERATORS:
        return OPERATORS[node.target]
    name = getattr(node.target, "__name__", "")
    for home in (F, torch):
        if name.endswith("_") and not name.endswith("__") and getattr(home, name, None) is node.target:
            return getattr(home, name[:-1], None)
    return None
