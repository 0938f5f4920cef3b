"""In-place operations as ordinary ones, so that no tensor changes after a quantizer or autograd has seen it."""

from __future__ import annotations

import operator
from collections.abc import Callable
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
    """Make all modules with an ``inplace`` attribute return new tensors; return the paths of those that did not."""
    found = {path for path, module in model.named_modules(remove_duplicate=False) if getattr(module, "inplace", False)}
    for path in found:
        model.get_submodule(path).inplace = False  # type: ignore[assignment]
    return found


def out_of_place(node: Node) -> bool:
    """Rewrite a call of an in-place function or method to its ordinary twin; return whether it was one."""
    if node.kwargs.get("inplace") is True:
        node.kwargs["inplace"] = False
        return True
    twin = _twin(node)
    if twin is None:
        return False
    node.target = twin
    return True


def _twin(node: Node) -> Any:
    """Find the ordinary twin of a node's function or method; None where it is not in place."""
    if node.method:
        return _twin_of_method(str(node.target))
    if isinstance(node.target, str) or node.target is None:
        return None
    return OPERATORS.get(node.target) or _twin_of_function(node.target)


def _twin_of_method(name: str) -> str | None:
    plain = _without_underscore(name)
    return plain if hasattr(torch.Tensor, plain) else None


def _twin_of_function(function: Callable[..., Any]) -> Any:
    """Find ``torch.relu`` for ``torch.relu_``; functions of the user's with such names are none of PyTorch's."""
    name = getattr(function, "__name__", "")
    home = next((home for home in (F, torch) if getattr(home, name, None) is function), None)
    return getattr(home, _without_underscore(name), None)


def _without_underscore(name: str) -> str:
    """Return ``relu`` for ``relu_``; "" for names that do not mean an operation in place."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else ""
