"""The state_dict in what training programs save: by itself, under the usual names, or inside a pickled network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.checkpoints.foreign_objects import NumpyArray

# Where training programs put a state_dict in what they save, and averaged weights only where there are no others.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "params", "weights")
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict")
_DEEPEST, _DEEPEST_MODULE, _MOST_MODULES = 3, 64, 100_000
"""More than any file needs; a file may say that a module lies in itself."""
_OWN_PARTS = ("_parameters", "_buffers", "_modules")
"""The attributes in which ``nn.Module`` keeps what is its own."""


def state_dict_in(content: Any, depth: int = 0) -> dict[str, Tensor] | None:
    """Find the state_dict that ``content`` is or wraps; None where there is none."""
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return None
    if _is_network(content):
        return _state_dict_of(content)
    found = {name: _as_tensor(value) for name, value in content.items()}
    if found and all(isinstance(name, str) and value is not None for name, value in found.items()):
        return {name: value for name, value in found.items() if value is not None}
    wrapped = (state_dict_in(content.get(wrapper), depth + 1) for wrapper in (*_WRAPPERS, *_AVERAGED))
    return next((weights for weights in wrapped if weights is not None), None)


def _as_tensor(value: Any) -> Tensor | None:
    """A weight as a tensor: numbers of NumPy too, but nothing sparse, nested, quantized or without data."""
    if isinstance(value, NumpyArray) and value.array is not None:
        return torch.from_numpy(value.array.copy())
    return value if isinstance(value, Tensor) and is_plain(value) else None


def is_plain(value: Tensor) -> bool:
    """True for a dense tensor with numbers in memory."""
    dense = value.layout == torch.strided and not value.is_nested and not value.is_quantized
    return dense and value.device.type == "cpu"


def _is_network(content: Any) -> bool:
    attributes = getattr(content, "__dict__", {})
    return all(isinstance(attributes.get(part), Mapping) for part in _OWN_PARTS)


def _state_dict_of(network: Any) -> dict[str, Tensor] | None:
    """Collect what ``state_dict()`` of a pickled network would give; None where it holds anything else than tensors."""
    weights: dict[str, Any] = {}
    waiting, seen = [("", network)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if not _is_network(module) or seen > _MOST_MODULES or prefix.count(".") > _DEEPEST_MODULE:
            return None
        parts = vars(module)
        unsaved = parts.get("_non_persistent_buffers_set") or ()
        own = {
            **parts["_parameters"],
            **{name: parts["_buffers"][name] for name in parts["_buffers"] if name not in unsaved},
        }
        weights |= {f"{prefix}{name}": _as_tensor(value) for name, value in own.items() if value is not None}
        children = [(f"{prefix}{name}.", child) for name, child in parts["_modules"].items() if child is not None]
        waiting += reversed(children)
    return None if any(value is None for value in weights.values()) or not weights else weights
