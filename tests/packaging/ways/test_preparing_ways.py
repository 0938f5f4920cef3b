"""Ways out of networks that cannot be prepared: what the sentence recommends can be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from refusals import IMAGES
from to_a_file import goes_to_a_file
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.graph.trace import trace


def plain(conv: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), conv or nn.Conv2d(8, 4, 1)).eval()


def ways(wrong: Callable[[], nn.Module], said: str, right: Callable[[], nn.Module]) -> Way:
    return Way(lambda path: qkd.prepare(wrong(), "w8a8", IMAGES), said, lambda path: goes_to_a_file(right(), IMAGES))


class OptimizedModule(nn.Module):
    """What ``torch.compile`` returns, without the minute that it takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network

    def forward(self, x: Tensor) -> Any:
        return self._orig_mod(x)


def run_once(network: nn.Module) -> nn.Module:
    network(IMAGES)
    return network


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return plain()


def loaded(network: nn.Module) -> nn.Module:
    network.load_state_dict(plain().state_dict(), assign=True)
    return network


def sparse() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    network[1].weight = nn.Parameter(torch.eye(4, 192).to_sparse())  # type: ignore[assignment]
    return network


def dense(network: nn.Module) -> nn.Module:
    network[1].weight = nn.Parameter(network[1].weight.detach().to_dense())  # type: ignore[index, union-attr]
    return network


class Branches(nn.Module):
    """Takes another path in training, in a forward of its own or of a module inside it."""

    def __init__(self, features: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3) if not features else nn.Identity()
        self.head, self.auxiliary = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.stem(x)).mean((2, 3))
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class Noisy(nn.Module):
    """Tells the modes apart in as many modules as asked for, each of which computes something else."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 + self.number) if self.training else x + self.number


class Counts(nn.Module):
    """Adds up what it sees, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.memory = nn.Conv2d(3, 8, 3), None
        self.register_buffer("seen", torch.zeros(8, 6, 6))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        self.seen += x.mean(0)
        return x - self.seen


class Keeps(Counts):
    """Adds up what it sees, in an attribute."""

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        self.memory = x if self.memory is None else x + self.memory
        return self.memory


class FreeOfMemory(Counts):
    """Takes what it remembers as an input and returns it as an output."""

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        memory = self.stem(x) + memory
        return memory.mean((2, 3)), memory


class OutsideMemory(nn.Module):
    """Remembers what its last call made, where no attribute tells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        made: list[Tensor] = []
        self.remember = lambda x: made.append(x) or sum(made[-2:])

    def forward(self, x: Tensor) -> Any:
        return self.remember(self.stem(x)).mean((2, 3))


def remembering(path: Path) -> None:
    goes_to_a_file(FreeOfMemory(), IMAGES, torch.zeros(2, 8, 6, 6))


class Sized(nn.Module):
    def __init__(self, result: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.result = plain(), result

    def forward(self, x: Tensor) -> Any:
        return self.result(self.network(x))


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.lock = plain(), threading.Lock()

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def without_lock() -> nn.Module:
    network = Holds()
    del network.lock
    return network


WAYS: dict[str, Way] = {
    "TorchScript": ways(lambda: torch.jit.script(plain()), "use the module that was scripted", plain),
    "a wrapper for devices": ways(
        lambda: nn.DataParallel(plain()),
        "prepare what it wraps (model.module) and wrap that",
        lambda: nn.DataParallel(plain()).module,
    ),
    "a compiled network": ways(
        lambda: OptimizedModule(plain()),
        "prepare the original (model._orig_mod) and compile the prepared model",
        lambda: OptimizedModule(plain())._orig_mod,
    ),
    "a network that PyTorch has quantized": ways(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), torch.ao.nn.quantized.ReLU6()),
        "prepare the float network instead",
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6()),
    ),
    "weights without a shape": ways(
        lambda: plain(nn.LazyConv2d(4, 1)),
        "run the network once on the example inputs before preparing it",
        lambda: run_once(plain(nn.LazyConv2d(4, 1))),
    ),
    "weights without values": ways(
        on_meta,
        "load the weights with load_state_dict and assign=True before preparing the network",
        lambda: loaded(on_meta()),
    ),
    "sparse weights": ways(sparse, "prepare the network with dense weights (to_dense)", lambda: dense(sparse())),
    "complex weights": ways(
        lambda: plain(nn.Conv2d(8, 4, 1).to(torch.complex64)),
        "write it with real ones",
        lambda: plain(nn.Conv2d(8, 4, 1)),
    ),
    "half precision": ways(
        lambda: plain().half(), "prepare the network in float32 (model.float())", lambda: plain().half().float()
    ),
    "what cannot be copied": ways(
        Holds, "remove from its modules what copy.deepcopy refuses (locks, open files)", without_lock
    ),
    "another path in training": ways(
        Branches,
        "move that code into a module of its own, so that it can be kept as one step",
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Branches(features=8)),
    ),
    "a result that is no tensor": ways(
        lambda: Sized(lambda x: (x, x.shape[0] * 2)),
        "return tensors, alone or in tuples, lists and dicts",
        lambda: Sized(lambda x: {"alone": x, "others": (x + 1, [x * 2])}),
    ),
    "a buffer that changes": Way(
        lambda path: qkd.prepare(Counts(), "w8a8", IMAGES),
        "changes its buffer seen; make forward free of memory: take what it remembers as an input and return it",
        remembering,
    ),
    "a tensor that is kept": Way(
        lambda path: qkd.prepare(Keeps(), "w8a8", IMAGES),
        "keeps memory from one call to the next; make forward free of memory: take what it remembers as an input",
        remembering,
    ),
    "a memory elsewhere": Way(
        lambda path: qkd.prepare(OutsideMemory(), "w8a8", IMAGES),
        "it reads a tensor that an earlier call has left behind; make forward free of memory: take what it remembers",
        remembering,
    ),
    "nothing left to quantize": Way(
        lambda path: qkd.prepare(plain(), "w8a8", IMAGES, overrides={"*": "float"}),
        "outside the modules that stay in float; narrow the pattern '*'",
        lambda path: goes_to_a_file(plain(), IMAGES, overrides={"2*": "float"}),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)


def test_many_modules_that_tell_the_modes_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trace, "_MAX_ROUNDS", 3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*map(Noisy, range(1, 5))), nn.Conv2d(8, 4, 1))
    follow(
        Way(
            lambda path: qkd.prepare(network, "w8a8", IMAGES),
            "with one that holds them, keep that module in float: overrides={'PATH': 'float'}, or --float PATH",
            lambda path: goes_to_a_file(network, IMAGES, overrides={"1": "float"}),
        ),
        tmp_path,
    )
