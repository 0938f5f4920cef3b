"""Modules that read ``self.training`` are found by comparing the graphs of both modes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from placement import Small
from torch import Tensor, fx, nn

from qkd_deploy.graph.trace.modes import differences, owner
from qkd_deploy.graph.trace.trace import trace
from qkd_deploy.graph.trace.tracer import ConcreteTracer, Leaves

IMAGES = noise(3, 3, 8, 8)


def test_many_modules_that_read_the_mode_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Path(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rand(x.shape[0], 1, 1, 1) if self.training else x

    network = Small(lambda n, x: n.paths(x), paths=nn.Sequential(*(nn.Sequential(Path(), nn.ReLU()) for _ in range(8))))
    monkeypatch.setattr("qkd_deploy.graph.trace.trace._MAX_ROUNDS", 2)
    assert trace(network, (IMAGES,)).mode_leaves == {f"paths.{i}.0" for i in range(8)}


def traced(network: nn.Module, *, training: bool) -> fx.Graph:
    tracer = ConcreteTracer(network.train(training), {"x": IMAGES.clone()}, Leaves(frozenset(), (), {}))
    return tracer.record()


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x * 3


def test_the_module_and_the_line_that_differ() -> None:
    network = Small(lambda n, x: n.inner(x), inner=nn.Sequential(nn.ReLU(), Doubled()))
    found = differences(traced(network, training=True), traced(network, training=False))
    assert list(found) == ["inner.1"]
    assert found["inner.1"].line.startswith(f"{__file__}:") and not found["inner.1"].more


def test_dropout_differs_and_may() -> None:
    network = Small(lambda n, x: F.dropout(x, 0.5, n.training))
    assert differences(traced(network, training=True), traced(network, training=False)) == {}


def test_owners_are_the_calling_modules() -> None:
    network = Small(lambda n, x: n.inner(x), inner=nn.Sequential(nn.ReLU(), Doubled()))
    owners = {str(node.target): owner(node) for node in traced(network, training=False).nodes}
    assert owners["stem"] == ""
    assert owners["inner.0"] == "inner"
    assert owners["<built-in function mul>"] == "inner.1"
    assert owners[str(torch.relu)] == ""
