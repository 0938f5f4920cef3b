"""Refusing networks and example inputs that can be seen to be wrong before tracing, with a sentence for each."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.graph.computed_tensors import hooks_as_properties
from qkd_deploy.graph.trace.errors import in_words, module_name

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic", "torch.ao.nn.qat")

_OURS = ("qkd_deploy.graph.prepared", "qkd_deploy.graph.integer")

_REFUSED_MODULES: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is TorchScript, which has no Python code to trace; use the module that was scripted",
    ),
    (
        lambda module: isinstance(module, (DataParallel, DistributedDataParallel)),
        "is a wrapper for several devices; prepare what it wraps (model.module) and wrap that",
    ),
    (
        lambda module: hasattr(module, "_orig_mod"),
        "is compiled; prepare the original (model._orig_mod) and compile the prepared model",
    ),
    (
        lambda module: type(module).__module__.startswith(_QUANTIZED),
        "is quantized by PyTorch already; prepare the float network instead",
    ),
    (
        lambda module: type(module).__module__.startswith(_OURS),
        "is prepared already; prepare the float network that it was made from",
    ),
)
"""Modules that cannot be prepared, and the sentence after the module's name."""

_REFUSED_TENSORS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (is_lazy, "has no shape yet; run the network once on the example inputs before preparing it"),
    (
        lambda tensor: tensor.is_meta,
        "is on the meta device and has no values; load the weights with load_state_dict and assign=True before "
        "preparing the network",
    ),
    (
        lambda tensor: tensor.is_sparse or tensor.layout != torch.strided,
        "is sparse; prepare the network with dense weights (to_dense)",
    ),
    (
        lambda tensor: tensor.is_complex(),
        "holds complex numbers, which no integer kernel computes; write it with real ones",
    ),
    (
        lambda tensor: tensor.is_floating_point() and tensor.dtype != torch.float32,
        "is {type}; prepare the network in float32 (model.float())",
    ),
)
"""Parameters and buffers that cannot be prepared, and the sentence after the tensor's path; the first that fits."""


def own_copy(model: nn.Module) -> nn.Module:
    """Copy a network that can be prepared.

    Raises:
        UserError: no network, a wrapper, or a network whose modules or weights cannot be quantized; names the module.
    """
    require_kind(model, nn.Module, "model", "pass the network, an instance of a torch.nn.Module")
    for path, module in model.named_modules():
        _require_python(module, path)
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        _require_float32(tensor, path)
    try:
        network = copy.deepcopy(model, _without_history(model))
    except Exception as error:
        raise UserError(
            f"{module_name(model, '')} cannot be copied ({str(error).splitlines()[0]}); remove from its modules what "
            "copy.deepcopy refuses (locks, open files)"
        ) from error
    hooks_as_properties(network)
    _empty_caches(network)
    return network


def _empty_caches(network: nn.Module) -> None:
    """Let modules give up what they keep for evaluation mode only: their ``train`` does that."""
    modes = {module: module.training for module in network.modules()}
    network.train()
    for module, mode in modes.items():
        module.training = mode


def _without_history(model: nn.Module) -> dict[int, Any]:
    """Give the tensors that earlier calls left in modules as constants, by their ids: PyTorch copies no others."""
    left = [leaf for module in model.modules() for leaf in tree_leaves(vars(module)) if isinstance(leaf, Tensor)]
    return {id(tensor): tensor.detach().clone() for tensor in left if tensor.grad_fn is not None}


def _require_python(module: nn.Module, path: str) -> None:
    for is_refused, sentence in _REFUSED_MODULES:
        if is_refused(module):
            raise UserError(f"{in_words(path, module)} {sentence}")


def _require_float32(tensor: Tensor, path: str) -> None:
    for is_refused, sentence in _REFUSED_TENSORS:
        if is_refused(tensor):
            raise UserError(f"{path} {sentence.format(type=_type(tensor))}")


def named_inputs(network: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Give example inputs the names of the arguments of ``forward``.

    Raises:
        UserError: inputs that ``forward`` does not take, or that are no batches of tensors.
    """
    where = f"forward of {module_name(network, '')}"
    parameters = [p for p in inspect.signature(network.forward).parameters.values() if p.name != "self"]
    names = _names_by_position(parameters, len(inputs))
    _require_fit(parameters, names, len(inputs), where)
    named = dict(zip(names, inputs, strict=False))
    device = next((t.device for t in (*network.parameters(), *network.buffers())), None)
    for name, value in named.items():
        _require_batch(name, value, device, where)
    _require_one_size(named, where)
    return {name: value.detach().clone() for name, value in named.items()}


def _require_fit(parameters: list[inspect.Parameter], names: list[str], count: int, where: str) -> None:
    """Refuse more inputs than ``forward`` has arguments, and too few for those without a default."""
    missing = _names_without_default(parameters) - set(names[:count])
    if missing or len(names) < count:
        takes = ", ".join(p.name for p in parameters) or "nothing"
        raise UserError(
            f"{where} takes {takes}, but there are {count} example inputs; pass example_inputs=(one, two, ...) "
            "with one tensor for each argument that has no default"
        )


def _names_without_default(parameters: list[inspect.Parameter]) -> set[str]:
    single = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name for p in single if p.default is p.empty}


def _names_by_position(parameters: list[inspect.Parameter], count: int) -> list[str]:
    """Return the names of positional arguments; ``*rest`` gives rest_0, rest_1, ... up to ``count`` names."""
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    return names if rest is None else [*names, *(f"{rest}_{i}" for i in range(count - len(names)))]


def _require_batch(name: str, value: Any, device: torch.device | None, where: str) -> None:
    if not isinstance(value, Tensor):
        raise UserError(
            f"{name} of {where} is a {type(value).__name__}, but inputs have to be tensors; "
            "prepare a small module that takes tensors and calls the network with what it needs"
        )
    if not value.dim() or not value.shape[0]:
        raise UserError(f"{name} of {where} has shape {list(value.shape)}; pass at least one example, batch first")
    _require_type(name, value, where)
    if device not in (None, value.device):
        raise UserError(f"{name} of {where} is on {value.device}, the network on {device}; move one of them with .to()")


def _require_type(name: str, value: Tensor, where: str) -> None:
    if value.is_complex() or (value.is_floating_point() and value.dtype != torch.float32):
        raise UserError(f"{name} of {where} is {_type(value)}; pass float32 examples, or integers (x.float())")


def _require_one_size(named: dict[str, Tensor], where: str) -> None:
    """Refuse inputs whose first dimensions, the batch, differ."""
    batches = {name: value.shape[0] for name, value in named.items()}
    if len(set(batches.values())) > 1:
        sizes = ", ".join(f"{name}: {size}" for name, size in batches.items())
        raise UserError(
            f"the example inputs of {where} have different first dimensions ({sizes}); put the batch first in each"
        )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
