"""Batch statistics over all processes: networks whose batch norms are ``nn.SyncBatchNorm``."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.prepare import prepare
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.sync_batch_norm import synchronise

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """Batch norms behind a convolution, of tokens, and on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.linear, self.last = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(self.first(x))))
        logits: Tensor = self.last(self.linear(x.mean((2, 3))))
        return logits


def processes_on(device: str) -> Processes:
    """What ``synchronise`` asks of processes; converting takes no GPU."""
    processes = Processes(torch.device(device))
    processes.world = 2
    return processes


def synchronised(network: nn.Module) -> nn.Module:
    synchronise(network, processes_on("cuda"))
    return network


def trained(prepared: PreparedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs and gradients of one backward pass in train mode."""
    outputs = prepared.train()(IMAGES)
    (outputs * torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)).sum().backward()
    gradients = {name: p.grad for name, p in prepared.named_parameters() if p.grad is not None}
    return outputs.detach(), gradients


def assert_equal_codes(one: PreparedModel, two: PreparedModel) -> None:
    codes, others = (freeze(model.eval()).codes(IMAGES) for model in (one, two))
    assert codes and codes.keys() == others.keys()
    for name, value in codes.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def test_networks_with_synchronised_batch_norms_are_placed_like_others(network: nn.Module) -> None:
    plain, own = (prepare(made, "w4a4", IMAGES) for made in (network, synchronised(copy.deepcopy(network))))
    assert str(plain.account) == str(own.account)
    assert not plain.account.floats
    for prepared in (plain, own):
        initialize(prepared, IMAGES)
    assert_equal_codes(plain, own)


def test_a_prepared_network_trains_alike_with_synchronised_batch_norms(network: nn.Module) -> None:
    plain = prepare(network, "w4a4", IMAGES)
    initialize(plain, IMAGES)
    other = copy.deepcopy(plain)
    other.network = synchronised(other.network)
    (expected, gradients), (outputs, others) = trained(plain), trained(other)
    torch.testing.assert_close(outputs, expected)
    assert gradients.keys() == others.keys()
    # gradients of scales are sums in which large terms cancel, so that the rounding of these is what is allowed
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-5 * largest, rtol=1e-4, msg=name)
    # Plain and fused batch norms may sum in another order, so that codes are compared from equal statistics.
    other.load_state_dict(plain.state_dict())
    assert_equal_codes(plain, other)
    torch.testing.assert_close(other.eval()(IMAGES), plain.eval()(IMAGES), atol=0, rtol=0)


def test_modes_children_and_parameters_stay(network: nn.Module) -> None:
    prepared = prepare(network.eval(), "w4a4", IMAGES)
    names = [name for name, _ in prepared.named_parameters()]
    before = {id(parameter) for parameter in prepared.parameters()}
    modes = {path: module.training for path, module in prepared.named_modules()}
    synchronise(prepared.network, processes_on("cuda"))
    assert [type(m).__name__ for m in prepared.modules()].count("SyncBatchNorm") == 3
    assert [name for name, _ in prepared.named_parameters()] == names
    assert {id(parameter) for parameter in prepared.parameters()} == before
    assert {path: module.training for path, module in prepared.named_modules()} == modes


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm of its own class, as model libraries have them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def test_batch_norms_of_their_own_kind_are_refused_unless_preparation_took_them_apart() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndActivation(4))
    with pytest.raises(UserError, match=r"^1 \(NormAndActivation\) is derived .*; leave --sync-batch-norm out"):
        synchronise(network, processes_on("cuda"))
    assert type(network[1]) is NormAndActivation
    prepared = prepare(network, "w4a4", IMAGES)
    initialize(prepared, IMAGES)
    assert trained(prepared)[1]


def test_one_process_has_nothing_to_share(network: nn.Module) -> None:
    synchronise(network, Processes(torch.device("cpu")))
    assert type(network.get_submodule("norm")) is nn.BatchNorm2d


def test_processes_without_gpus_are_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match="--sync-batch-norm needs GPUs; leave it out, or use --device cuda"):
        synchronise(network, processes_on("cpu"))
