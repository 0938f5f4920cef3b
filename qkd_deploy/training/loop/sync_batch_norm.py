"""Batch norms with statistics over all processes."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qkd_deploy.errors import UserError
from qkd_deploy.training.distribution import Processes

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronise(network: nn.Module, processes: Processes) -> None:
    """Let the batch norms of ``network`` normalise by the statistics of the whole batch, whichever process holds it.

    A single process holds it anyway.

    PyTorch's own conversion also replaces classes derived from batch norms, and drops what they add, such as an
    activation function; here they are refused.

    Raises:
        UserError: the processes have no GPUs, or a batch norm is of a class of its own.
    """
    if processes.world == 1:
        return
    if processes.device.type != "cuda":
        raise UserError("--sync-batch-norm needs GPUs; leave it out, or use --device cuda")
    for path, module in network.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in (*_PLAIN, nn.SyncBatchNorm):
            raise UserError(
                f"{path} ({type(module).__name__}) is derived from a batch norm, and its statistics cannot be shared "
                "between processes; leave --sync-batch-norm out"
            )
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in _PLAIN:
                converted = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
                setattr(parent, name, converted.train(child.training))
