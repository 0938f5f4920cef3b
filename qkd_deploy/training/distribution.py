"""The processes of a run: one by default, many under ``torchrun``; a thin layer over Lightning Fabric."""

from __future__ import annotations

import atexit
import gc
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


class Processes:
    """Exchange between the processes of a run; with one process, every method is the trivial one.

    Attributes:
        device: of this process.
        rank, world: number of this process, and how many there are.
    """

    def __init__(self, device: torch.device, fabric: Fabric | None = None) -> None:
        """``fabric``, launched, where there is more than one process."""
        self._fabric = fabric
        self.device = device if fabric is None else fabric.device
        self.rank = 0 if fabric is None else fabric.global_rank
        self.world = 1 if fabric is None else fabric.world_size

    @property
    def writes(self) -> bool:
        """True in the process that writes the files and reports of the run: the first one."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world), for what is divided between the processes."""
        return self.rank, self.world

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap a network for calls in training: gradients are averaged over all processes in the backward pass."""
        if self._fabric is None or not any(p.requires_grad for p in network.parameters()):
            return network
        return self._fabric.setup_module(network, move_to_device=False, _reapply_compile=False)

    def without_exchange(self, network: nn.Module) -> AbstractContextManager[object]:
        """Leave gradients of a wrapped network where they are, for all but the last part of a batch."""
        if self._fabric is None:
            return nullcontext()
        return self._fabric.no_backward_sync(network)  # type: ignore[arg-type]

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes."""
        return values if self._fabric is None else self._fabric.all_reduce(values, reduce_op="mean")  # type: ignore[return-value]

    def sum(self, values: Tensor) -> Tensor:
        """Add up over the processes."""
        return values if self._fabric is None else self._fabric.all_reduce(values, reduce_op="sum")  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Give every process the values of all, in order; plain data, pickled."""
        if self._fabric is None:
            return [value]
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def agree(self, value: T) -> T:
        """Give every process the first one's value: plain data or tensors."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def unite(self, network: nn.Module) -> None:
        """Give every process the first one's buffers: running statistics differ, since each saw its own images."""
        if self._fabric is not None:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._fabric is not None:
            self._fabric.barrier()


def resolve_device(name: str) -> torch.device:
    """Turn a name into a device: ``"auto"`` is an accelerator if there is one, else the CPU; others are torch's names.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device meta has tensors, but no values
    except Exception as error:  # devices fail in ways of their own
        raise UserError(f"the device {name!r} is not available here; use --device auto or cpu") from error
    return device


def launch(device: str) -> Processes:
    """Join the processes of this run: those that ``torchrun`` started, or this one alone.

    Raises:
        UserError: the device does not exist here, or several processes are to share one that is named by number.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(resolve_device(device))
    kind = resolve_device(device).type
    if ":" in device:
        raise UserError(f"--device {device} is one device for {world} processes; give --device {kind}")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    # Parts of a network may have no gradient in some batch or phase, such as an auxiliary head.
    strategy = DDPStrategy(find_unused_parameters=True)
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=world // local, strategy=strategy)
    fabric.launch()
    atexit.register(_leave)
    return Processes(fabric.device, fabric)


def _leave() -> None:
    """Leave the process group while the interpreter still runs.

    Threads of gloo release tensors, for which they need the interpreter: one that does so while Python shuts down
    aborts the process, whose work was done and whose files were written ("terminate called without an active
    exception", now and then).
    """
    gc.collect()  # wrapped networks refer to themselves and hold the group
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
