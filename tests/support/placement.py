"""The checks that every prepared network has to pass, and a small network to put constructs into."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from deployment import Deployed, assert_same_codes, finish, float_operations, noise, settle
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.export.onnx_export import flat_tensors
from qkd_deploy.graph.interpreter import run
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.layers import layer_forward, layer_parameters, with_folded
from qkd_deploy.graph.prepared import PreparedModel

IMAGES = noise(3, 3, 8, 8)


class Small(nn.Module):
    """conv + bn + relu -> ``middle`` -> conv + relu -> mean -> linear; ``middle`` sees the network and its tensor."""

    def __init__(self, middle: Callable[[Any, Any], Any], width: int = 8, **modules: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        for name, module in modules.items():
            self.add_module(name, module)
        self.second = nn.Conv2d(width, 8, 1)
        self.head = nn.Linear(8, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self, torch.relu(self.norm(self.stem(x))))
        x = torch.relu(self.second(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def check(
    model: nn.Module,
    inputs: tuple[Tensor, ...] = (IMAGES,),
    bits: str = "w4a4",
    *,
    integer: bool = True,
    idle_steps: int = 0,
    **options: Any,
) -> Deployed:
    """Prepare, train one step, freeze, export; integer networks must equal ONNX Runtime in every code.

    ``integer``: nothing of the network computes in float. ``idle_steps``: steps that may have no gradient.
    """
    settle(model)
    assert_follows(model, inputs)
    prepared = prepare(model, bits, inputs, **options)
    initialize(prepared, *inputs)
    assert_trains(prepared, model, inputs, idle_steps)
    deployed = finish(prepared.eval())
    for batch in (3, 1):
        part = tuple(tensor[:batch] for tensor in inputs)
        after_float = assert_same_codes(deployed, part)
        assert not (integer and after_float), after_float
    assert bool(prepared.account.floats) != integer, str(prepared.account)
    if integer:
        assert not (found := float_operations(deployed.model)), found
        assert "Everything runs in integers." in str(prepared.account)
    return deployed


def unquantized(prepared: PreparedModel, *inputs: Tensor) -> Any:
    """What the prepared graph computes without any quantizer."""

    def evaluate(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.is_layer:
            weight, bias = layer_parameters(prepared.network, node)
            layer = prepared.network.get_submodule(str(node.target))
            value = layer_forward(layer, args[0], weight, bias)
            value = with_folded(prepared.network, node, value)
        else:
            value = apply(prepared.network, node, args, kwargs, training=False)
        return value if node.clip is None else value.clamp(*node.clip)

    return run(prepared.graph, inputs, evaluate)


@torch.no_grad()
def assert_follows(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """At 8 bits the prepared model computes nearly what the float network computes, in the same structure."""
    prepared = prepare(model.eval(), "w8a8", inputs)
    initialize(prepared, *inputs)
    expected, got = model(*copy.deepcopy(inputs)), prepared(*inputs)
    assert type(got) is type(expected)
    for one, two in zip(flat_tensors(expected), flat_tensors(got), strict=True):
        assert one.shape == two.shape
        assert float((one - two).norm() / (one.norm() + 1e-6)) < 0.1


def assert_trains(prepared: PreparedModel, model: nn.Module, inputs: tuple[Tensor, ...], idle_steps: int = 0) -> None:
    """One backward pass reaches every step, and every parameter that it reaches in the float network."""
    prepared.train()
    loss = torch.stack([t.float().square().mean() for t in flat_tensors(prepared(*inputs))]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    steps = [*prepared.weight_steps(), *prepared.activation_steps()]
    gradients = [step.grad for step in steps]
    assert all(g is None or bool(torch.isfinite(g).all()) for g in gradients)
    idle = sum(g is None or not bool(g.any()) for g in gradients)
    assert idle <= idle_steps, f"{idle} of {len(steps)} steps have no gradient"
    twin = copy.deepcopy(model).train()
    torch.stack([t.float().square().mean() for t in flat_tensors(twin(*copy.deepcopy(inputs)))]).sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in twin.named_parameters() if p.grad is not None}
    assert {name for name, p in prepared.network.named_parameters() if p.grad is not None} == reached
    for parameter in prepared.parameters():
        parameter.grad = None
