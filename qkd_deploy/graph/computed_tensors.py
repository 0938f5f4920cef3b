"""Weights that a layer computes before every call, from other parameters: as steps that tracing can see.

PyTorch computes weights in two ways. A *parametrization* (``torch.nn.utils.parametrize``, also weight norm and spectral
norm of ``parametrizations``) is a property of the layer, made by a child module. Older functions (``weight_norm``,
``spectral_norm``, all of ``prune``) and code of users register a *hook* that sets an attribute in front of every call.
Hooks become such properties in the copied network: then no result of a call is left behind in it, and the tensor is
computed whenever it is read, with gradients for what it is computed from. Names of parameters and buffers stay.
"""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_KNOWN_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_TENSORS = ("weight", "bias")
"""What hooks of a user's own compute."""


class HookedTensor(nn.Module):
    """One tensor of a module that forward pre-hooks make, computed when it is called."""

    def __init__(self, owner: nn.Module, name: str, hooks: tuple[Any, ...]) -> None:
        """Take the module, the attribute that the hooks set, and the hooks."""
        super().__init__()
        self._owner = (owner,)  # in a tuple: registered, it would be a child of its own child
        self._name, self._hooks = name, hooks

    def forward(self) -> Tensor:
        """Run the hooks; returns the tensor that they have set."""
        (owner,) = self._owner
        for hook in self._hooks:
            hook(owner, ())
        made: Tensor = vars(owner).pop(_made(self._name))
        return made

    def train(self, mode: bool = True) -> Self:
        """Set the mode, also of the module, which hooks ask for it."""
        self._owner[0].training = mode
        return super().train(mode)

    def double(self) -> Self:
        """Convert what the hooks read to float64."""
        self._owner[0].double()
        return self


def computes_its_tensors(module: nn.Module) -> bool:
    """Tell whether the weight or another tensor of a module is a step of its own."""
    return parametrize.is_parametrized(module) or isinstance(module, _OfHooks)


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before its tensors were computed."""
    return next(kind for kind in type(module).__mro__ if not _is_made_for_one(kind))


def _is_made_for_one(kind: type) -> bool:
    """Tell whether a class was derived for one module, to hold properties of it."""
    return _OfHooks in kind.__bases__ or kind.__module__ == parametrize.__name__


def hooks_as_properties(network: nn.Module) -> None:
    """Let tensors that hooks set be properties, in all modules but recurrent ones, which keep lists of them."""
    for module in list(network.modules()):
        hooks = module._forward_pre_hooks
        names = () if isinstance(module, nn.RNNBase) else _set_by_hooks(module)
        if names:
            owned = {key: hook for key, hook in hooks.items() if not _is_known(hook) or _name_of(hook) in names}
            for name in names:
                own = tuple(hook for hook in owned.values() if not _is_known(hook) or _name_of(hook) == name)
                vars(module).pop(name, None)
                module.add_module(_child(name), HookedTensor(module, name, own))
            for key in owned:
                del hooks[key]
            module.__class__ = _reading(type(module), names)


def _set_by_hooks(module: nn.Module) -> tuple[str, ...]:
    """Name the tensors that the hooks of a module set."""
    hooks = list(module._forward_pre_hooks.values())
    known = [_name_of(hook) for hook in hooks if _is_known(hook)]
    if len(known) < len(hooks):
        known += [name for name in _TENSORS if _is_set(module, name)]
    return tuple(dict.fromkeys(known))


def _is_set(module: nn.Module, name: str) -> bool:
    """Tell whether a tensor is neither a parameter nor a buffer: it was set by a call, or is not there before one."""
    if isinstance(vars(module).get(name), Tensor):
        return True
    return isinstance(module, _LAYERS) and not hasattr(module, name)


def _is_known(hook: Any) -> bool:
    return isinstance(hook, _KNOWN_HOOKS)


def _name_of(hook: Any) -> str:
    return str(hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name)


# -- classes with such properties --------------------------------------------------------------------------------------


class _OfHooks:
    """Marks the classes that are made here."""


def _reading(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Derive a class whose tensors of those names are computed when they are read."""
    properties = {name: _property(name) for name in names}
    return type(kind.__name__, (kind, _OfHooks), {**properties, "__module__": kind.__module__})


def _property(name: str) -> property:
    def read(module: Any) -> Any:
        return module.get_submodule(_child(name))()

    def write(module: Any, value: Any) -> None:
        vars(module)[_made(name)] = value

    return property(read, write)


def _child(name: str) -> str:
    return f"{name}_of_hooks"


def _made(name: str) -> str:
    return f"_{name}_of_hooks"
