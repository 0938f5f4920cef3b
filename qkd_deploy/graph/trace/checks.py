"""What can be seen to be wrong with a network or its example inputs before tracing it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from qkd_deploy.errors import UserError
from qkd_deploy.graph.trace.errors import module_name


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of a network that can be prepared.

    Raises:
        UserError: a wrapper, or a network whose modules or weights cannot be quantized; names the module.
    """
    for path, module in model.named_modules():
        _require_python(module, module_name(model, path))
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        _require_float32(tensor, path)
    try:
        return copy.deepcopy(model)
    except Exception as error:
        holder = next((path for path, module in model.named_modules() if _holds_computed(module)), None)
        if holder is not None:
            raise UserError(
                f"{module_name(model, holder)} computes its weight before every call (weight norm or spectral norm); "
                "fix it first with torch.nn.utils.remove_weight_norm or remove_spectral_norm"
            ) from error
        raise UserError(
            f"{module_name(model, '')} cannot be copied ({str(error).splitlines()[0]}); remove from its modules what "
            "copy.deepcopy refuses (locks, open files, results of a forward pass)"
        ) from error


def _require_python(module: nn.Module, name: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(f"{name} is TorchScript, which has no Python code to trace; use the module that was scripted")
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        raise UserError(f"{name} is a wrapper for several devices; prepare what it wraps (model.module) and wrap that")
    if hasattr(module, "_orig_mod"):
        raise UserError(f"{name} is compiled; prepare the original (model._orig_mod) and compile the prepared model")
    if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic", "torch.ao.nn.qat")):
        raise UserError(f"{name} is quantized by PyTorch already; prepare the float network instead")


def _require_float32(tensor: Tensor, path: str) -> None:
    if is_lazy(tensor):
        raise UserError(f"{path} has no shape yet; run the network once on the example inputs before preparing it")
    if tensor.is_meta:
        raise UserError(
            f"{path} is on the meta device and has no values; load the weights before preparing the network"
        )
    if tensor.is_sparse or tensor.layout != torch.strided:
        raise UserError(f"{path} is sparse; prepare the network with dense weights (to_dense)")
    if tensor.is_complex():
        raise UserError(f"{path} holds complex numbers, which no integer kernel computes; write it with real ones")
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise UserError(f"{path} is {_type(tensor)}; prepare the network in float32 (model.float())")


def _holds_computed(module: nn.Module) -> bool:
    return any(isinstance(value, Tensor) and value.grad_fn is not None for value in vars(module).values())


def named_inputs(network: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Example inputs by the names of the arguments of ``forward``.

    Raises:
        UserError: inputs that ``forward`` does not take, or that are no batches of tensors.
    """
    parameters = [p for p in inspect.signature(network.forward).parameters.values() if p.name != "self"]
    names = _names(parameters, len(inputs))
    where = f"forward of {module_name(network, '')}"
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(names) < len(inputs) or set(needed) - set(names[: len(inputs)]):
        takes = ", ".join(p.name for p in parameters) or "nothing"
        raise UserError(
            f"{where} takes {takes}, but there are {len(inputs)} example inputs; pass example_inputs=(one, two, ...) "
            "with one tensor for each argument that has no default"
        )
    named = dict(zip(names, inputs, strict=False))
    device = next((t.device for t in (*network.parameters(), *network.buffers())), None)
    for name, value in named.items():
        _require_batch(name, value, device, where)
    batches = {name: value.shape[0] for name, value in named.items()}
    if len(set(batches.values())) > 1:
        raise UserError(
            f"the example inputs of {where} have different first dimensions "
            f"({', '.join(f'{name}: {size}' for name, size in batches.items())}); put the batch first in each"
        )
    return {name: value.detach().clone() for name, value in named.items()}


def _names(parameters: list[inspect.Parameter], count: int) -> list[str]:
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
    if (value.is_floating_point() and value.dtype != torch.float32) or value.is_complex():
        raise UserError(f"{name} of {where} is {_type(value)}; pass float32 examples, or integers (x.float())")
    if device is not None and value.device != device:
        raise UserError(f"{name} of {where} is on {value.device}, the network on {device}; move one of them with .to()")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
