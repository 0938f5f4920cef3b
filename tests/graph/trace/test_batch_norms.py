"""Batch norms with an activation function inside become a batch norm and the steps after it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from deployment import noise, settle
from placement import check
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.graph.trace.batch_norms import batch_norm_chains

IMAGES = noise(3, 3, 8, 8)


class NormAct(nn.BatchNorm2d):
    """Batch norm, dropout and activation function in one class."""

    def __init__(self, features: int, drop: nn.Module | None = None) -> None:
        super().__init__(features)
        self.drop, self.act = drop or nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4 dimensions, got {x.ndim}")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.1,
            self.eps,
        )
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class NormActTwice(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class NormWithScale(NormAct):
    """A chain with a parameter of a single element."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class Derived(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, bias=False), norm
        self.conv, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_derived_batch_norms_run_in_integers() -> None:
    deployed = check(Derived(NormAct(8)), (noise(3, 3, 9, 14),))
    assert deployed.prepared.layers()[0].batch_norm == "norm"
    assert list(deployed.prepared.network.state_dict()) == list(Derived(NormAct(8)).state_dict())


def test_dropout_in_a_derived_batch_norm_is_active_in_training_only() -> None:
    prepared = prepare(settle(Derived(NormAct(8, nn.Dropout(0.5)))), "w4a4", (IMAGES,))
    assert prepared.account.floats == ()
    initialize(prepared, IMAGES)
    prepared.train()
    assert not torch.equal(prepared(IMAGES), prepared(IMAGES))


def test_a_batch_norm_that_computes_something_else_is_one_step() -> None:
    prepared = prepare(Derived(NormActTwice(8)), "w4a4", (IMAGES,))
    assert [entry.name for entry in prepared.account.floats] == ["norm"]
    assert prepared.layers()[0].batch_norm is None


def test_chains_are_found_whatever_their_weights_are() -> None:
    network = nn.ModuleList([NormAct(4), NormActTwice(4), NormWithScale(4), nn.BatchNorm2d(4), nn.ReLU()])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chains, others = batch_norm_chains(network)
    assert chains == {"0": ("drop", "act")}
    assert others == {"1", "2"}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
