"""The tracer makes one node of every call that the user's forward makes on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from torch import Tensor, fx, nn

from qkd_deploy.graph.trace.errors import Untraceable
from qkd_deploy.graph.trace.tracer import ConcreteTracer, Leaves

IMAGES = noise(3, 4)
NONE = Leaves(frozenset(), (), {})


class Net(nn.Module):
    def __init__(self, step: Callable[[Any, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.step = step
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        return self.step(self, x)


def traced(step: Callable[[Any, Any], Any], leaves: Leaves = NONE, **modules: nn.Module) -> ConcreteTracer:
    tracer = ConcreteTracer(Net(step, **modules).eval(), {"x": IMAGES.clone()}, leaves)
    tracer.record()
    return tracer


def targets(tracer: ConcreteTracer) -> list[str]:
    nodes = [node for node in tracer.graph.nodes if node.op not in ("placeholder", "output")]
    return [getattr(node.target, "__name__", str(node.target)) for node in nodes]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Inner(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sigmoid()


class Paired(nn.Module):
    def forward(self, x: Any) -> Any:
        return Pair(x, x * 2)


class Named(nn.Module):
    def forward(self, x: Any) -> Any:
        return {"one": x, "two": x * 2}


STEPS: dict[str, tuple[Callable[[Any, Any], Any], list[str]]] = {
    "decisions by sizes": (lambda n, x: x * (2 if x.size(1) == 4 and x.dtype == torch.float32 else 3), ["mul"]),
    "a constant on the left": (lambda n, x: torch.ones(4) + x, ["_tensor_constant0", "add"]),
    "a module": (lambda n, x: n.relu(x), ["relu"]),
    "a module of the user's": (lambda n, x: n.inner(x), ["sigmoid"]),
    "a module made in forward": (lambda n, x: nn.ReLU()(x), ["relu"]),
    "a layer called by its weight": (lambda n, x: F.linear(x, n.fc.weight, n.fc.bias), ["fc.weight", "fc.bias", "fc"]),
    "parts": (lambda n, x: x.chunk(2, 1)[1], ["chunk", "getitem", "getitem"]),
    "a parameter": (lambda n, x: x * n.fc.bias, ["fc.bias", "mul"]),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps(case: str) -> None:
    step, expected = STEPS[case]
    found = traced(step, relu=nn.ReLU(), inner=Inner(), fc=nn.Linear(4, 4))
    assert targets(found) == expected


def test_leaves_are_single_steps() -> None:
    for leaves in (Leaves(frozenset({"inner"}), (), {}), Leaves(frozenset(), (Inner,), {}), NONE.and_paths({"inner"})):
        assert targets(traced(lambda n, x: n.inner(x), leaves, inner=Inner())) == ["inner"]


def test_children_run_after_a_derived_batch_norm() -> None:
    class NormAct(nn.BatchNorm1d):
        def __init__(self) -> None:
            super().__init__(4)
            self.act = nn.ReLU()

        def forward(self, input: Tensor) -> Tensor:
            return self.act(super().forward(input))  # type: ignore[no-any-return]

    tracer = traced(lambda n, x: n.norm(x), Leaves(frozenset(), (), {"norm": ("act",)}), norm=NormAct())
    assert targets(tracer) == ["norm", "norm.act"]
    assert tracer.expanded == {"norm"}


def test_large_modules_are_their_steps() -> None:
    attention = nn.MultiheadAttention(4, 1, batch_first=True)
    tracer = traced(lambda n, x: n.attention(*[x.unsqueeze(1)] * 3)[0], attention=attention)
    assert targets(tracer).count("linear") == 1
    assert "softmax" in targets(tracer)
    kept = traced(
        lambda n, x: n.attention(*[x.unsqueeze(1)] * 3)[0], NONE.and_paths({"attention"}), attention=attention
    )
    assert targets(kept) == ["unsqueeze", "attention", "getitem", "getitem"]


def test_parts_keep_the_class_of_their_whole() -> None:
    seen: list[Any] = []
    leaves = NONE.and_paths({"paired", "named"})
    tracer = traced(lambda n, x: seen.extend([n.paired(x), n.named(x)]) or x, leaves, paired=Paired(), named=Named())
    assert isinstance(seen[0], Pair)
    assert list(seen[1]) == ["one", "two"]
    assert targets(tracer) == ["paired", "getitem", "getitem", "named", "getitem", "getitem"]


def test_a_batch_that_is_taken_apart_is_refused() -> None:
    with pytest.raises(Untraceable, match="takes the batch apart"):
        traced(lambda n, x: x.unbind(0)[0])


def test_modules_with_weights_have_to_be_registered() -> None:
    hidden = nn.Linear(4, 4)
    with pytest.raises(Untraceable, match="Linear with weights that is not registered"):
        traced(lambda n, x: hidden(x))


def test_the_innermost_module_is_named_when_tracing_fails() -> None:
    tracer = ConcreteTracer(Net(lambda n, x: n.inner(x.unbind(0)), inner=Inner()), {"x": IMAGES}, NONE)
    with pytest.raises(Untraceable):
        tracer.record()
    assert tracer.path == ""
    tracer = ConcreteTracer(Net(lambda n, x: n.inner([x]), inner=Inner()), {"x": IMAGES}, NONE)
    with pytest.raises(AttributeError):
        tracer.record()
    assert tracer.path == "inner"


def test_tensors_of_an_earlier_call_are_refused() -> None:
    network = Net(lambda n, x: x * n.memory if hasattr(n, "memory") else setattr(n, "memory", x) or x)
    first = ConcreteTracer(network, {"x": IMAGES}, NONE)
    first.record()
    with pytest.raises(Untraceable, match="an earlier call has left behind"):
        first.again({"x": IMAGES}).record()


def test_every_node_has_its_facts() -> None:
    tracer = traced(lambda n, x: F.linear(x, n.fc.weight.t()) + torch.ones(4), fc=nn.Linear(4, 4))
    nodes: list[fx.Node] = [node for node in tracer.graph.nodes if node.op != "output"]
    shapes = {str(node.target): node.meta["facts"].shape for node in nodes if node.op in ("get_attr", "placeholder")}
    assert shapes == {"x": (3, 4), "fc.weight": (4, 4), "_tensor_constant0": (4,)}
    assert all(node.meta["facts"].line.startswith(f"{__file__}:") for node in nodes if node.op == "call_function")
