"""The model that a function was given: taken out of the usual wrappers, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel

_WRAPPERS = (AveragedModel, DataParallel, DistributedDataParallel)


def unwrapped(model: object) -> object:
    """Take a model out of averages (EMA), wrappers for several devices and compiled forms, however nested."""
    while isinstance(model, nn.Module):
        inside = model.module if _is_wrapper(model) else getattr(model, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            break
        model = inside
    return model


def _is_wrapper(model: nn.Module) -> bool:
    return isinstance(model, _WRAPPERS) or type(model).__name__ == "_FabricModule"


def as_prepared(model: object, taker: str) -> PreparedModel:
    """The prepared model that a function was given.

    Args:
        model: as the user gave it, wrapped or not.
        taker: the function, or its argument.

    Raises:
        UserError: it is something else; says what to pass instead.
    """
    inside = unwrapped(model)
    if isinstance(inside, PreparedModel):
        return inside
    raise UserError(f"{taker} takes the model that prepare or load returned, {_instead(inside)}")


def as_frozen(model: object, taker: str) -> FrozenModel:
    """The frozen model that a function was given, with ``taker`` as for ``as_prepared``.

    Raises:
        UserError: it is something else; says what to pass instead.
    """
    inside = unwrapped(model)
    if isinstance(inside, FrozenModel):
        return inside
    if isinstance(inside, PreparedModel):
        raise UserError(f"{taker} takes the model that freeze returned, not a prepared one; pass freeze(model)")
    raise UserError(f"{taker} takes the model that freeze returned, {_instead(inside)}")


def _instead(model: object) -> str:
    """What was given in place of a model of ours, and the way to one."""
    if isinstance(model, FrozenModel):
        return "not a frozen one; pass the prepared model that it was frozen from"
    if isinstance(model, nn.Module):
        return _network_instead(model, type(model).__name__)
    if isinstance(model, (str, Path)):
        return f"not the path {str(model)!r}; open the checkpoint first, with load({str(model)!r})"
    if isinstance(model, Mapping):
        return "not a state_dict; prepare the network, and load the state into it with load_state_dict"
    return f"not {f'the class {model.__name__}' if isinstance(model, type) else repr(type(model))}; pass that model"


def _network_instead(model: nn.Module, kind: str) -> str:
    parts = (PreparedModel, FrozenModel)
    path = next((path for path, module in model.named_modules() if isinstance(module, parts)), None)
    if path is not None:
        return f"not the {kind} around it; pass model.get_submodule({path!r})"
    return f"not the {kind} before it; begin with prepare(network, bits, example_inputs)"


def require_deployable(prepared: PreparedModel, taker: str) -> None:
    """Refuse to make integers of a model that has no scales yet, no values, or is no longer in float32.

    Raises:
        UserError: nothing has set its scales, or a parameter or buffer has no values or another type; says what to
            call.
    """
    for path, tensor in (*prepared.named_parameters(), *prepared.named_buffers()):
        if tensor.is_meta:
            raise UserError(
                f"{path} is on the meta device and has no values; load a state with load_state_dict and assign=True "
                f"before {taker}"
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path} is {kind}, but {taker} takes float32; call model.float() first")
    prepared.require_initialized(taker)
