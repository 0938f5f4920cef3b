"""Networks that cannot be prepared: one sentence names the module (and the user's line) and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qkd_deploy import UserError, prepare

IMAGES = noise(2, 3, 8, 8)


class Inner(nn.Module):
    """The module with the code in question."""

    def __init__(self, step: Callable[[Any, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.step, self.memory, self.layers = step, None, [nn.Conv2d(8, 8, 1)]
        self.register_buffer("count", torch.zeros(8, 1, 1))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, x)  # type: ignore[no-any-return]


class Net(nn.Module):
    """conv -> ``inner`` -> mean -> linear."""

    def __init__(self, step: Callable[[Any, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 8, 3, padding=1), Inner(step, **modules), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.relu(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def decide(n: Any, x: Any) -> Any:
    if x.mean() > 0:
        return x * 2
    return x


def converge(n: Any, x: Any) -> Any:
    while (x.square().mean() - 1).abs() > 0.1:
        x = x / x.square().mean().sqrt()
    return x


def select(n: Any, x: Any) -> Any:
    return x - x[x > 0.5].mean()


def positions(n: Any, x: Any) -> Any:
    return x * len(x.flatten().nonzero())


def constant_batch(n: Any, x: Any) -> Any:
    return x.view(2, 8, 64).softmax(2).view(2, 8, 8, 8)


def item(n: Any, x: Any) -> Any:
    return x / x.abs().max().item()


def to_list(n: Any, x: Any) -> Any:
    return x * max(x.mean((1, 2, 3)).tolist())


def to_numpy(n: Any, x: Any) -> Any:
    return x + torch.from_numpy(x.numpy().mean(axis=0))


def many(n: Any, x: Any) -> Any:
    return x if x.shape[0] > 64 else x * 2


def sized(n: Any, x: Any) -> Any:
    return x + x.new_zeros(x.shape[0], 8, 1, 1)


def each(n: Any, x: Any) -> Any:
    return torch.stack([row - row.mean() for row in x])


def integer_batch(n: Any, x: Any) -> Any:
    return x.view(int(x.shape[0] / 1), -1, 8, 8)


def assign(n: Any, x: Any) -> Any:
    x[:, 0] = 0
    return x


def count(n: Any, x: Any) -> Any:
    n.count += x.mean((0, 2, 3)).view(8, 1, 1)
    return x - n.count


def replace_buffer(n: Any, x: Any) -> Any:
    n.count = n.count * 0.9 + x.mean() * 0.1
    return x - n.count


def remember(n: Any, x: Any) -> Any:
    n.memory = x if n.memory is None else x + n.memory
    return n.memory


def perturb(n: Any, x: Any) -> Any:
    return x + 0.1 * torch.randn_like(x)


def transform(n: Any, x: Any) -> Any:
    return torch.fft.fft2(x).abs()


def unregistered(n: Any, x: Any) -> Any:
    return n.layers[0](x)


def needs_targets(n: Any, x: Any) -> Any:
    if n.training:
        raise ValueError("targets are needed in training")
    return x


def wrong_channels(n: Any, x: Any) -> Any:
    return n.conv(x)


LEAF = r"leaf_modules=\(Inner,\)"
CODE: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "a decision by values": (decide, r"if x\.mean\(\) > 0.*reads the values", LEAF),
    "a loop until convergence": (converge, "while .*reads the values", LEAF),
    "a selection by values": (select, r"x\[x > 0\.5\].*depends on the values", "masks or torch.where"),
    "counted positions": (positions, r"nonzero\(\).*depends on the values", "masks or torch.where"),
    "a constant batch": (constant_batch, r"one batch size only.*x\.view\(2, 8, 64\)", r"x\.flatten\(1\)"),
    "item": (item, r"max\(\)\.item\(\).*reads the values", "compute with tensors"),
    "tolist": (to_list, "tolist.*reads the values", "compute with tensors"),
    "numpy": (to_numpy, "x.numpy.*reads the values", "compute with tensors"),
    "a decision by the batch size": (many, r"x\.shape\[0\] > 64.*batch size", LEAF),
    "a tensor of the batch size": (
        sized,
        "gives the batch size to new_zeros",
        r"broadcast, or pass leaf_modules=\(Inner,\)",
    ),
    "a loop over the batch": (each, "for row in x.*batch size", "write it for any batch"),
    "the batch size as a number": (integer_batch, r"int\(x\.shape\[0\].*batch size", "-1 in view"),
    "an assignment to a part": (assign, r"x\[:, 0\] = 0.*assigns to a part", "torch.cat"),
    "a buffer that counts": (count, r"changes its buffer inner\.count", "make forward free of memory"),
    "a buffer that is replaced": (replace_buffer, r"changes its buffer inner\.count", "make forward free of memory"),
    "a tensor kept for the next call": (remember, "keeps memory", "make forward free of memory"),
    "random numbers in eval mode": (perturb, "randn_like.*random numbers in eval", r"if self\.training"),
    "complex numbers": (transform, "fft2.*complex", LEAF),
    "a layer that is not registered": (unregistered, "Conv2d with weights that is not registered", r"nn\.ModuleList"),
    "targets in training": (needs_targets, "in train mode,.*targets are needed", LEAF),
}


def refusal(model: nn.Module, inputs: Any = (IMAGES,)) -> str:
    with pytest.raises(UserError) as caught:
        prepare(model, "w4a4", inputs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500, message
    return message


@pytest.mark.parametrize("case", CODE)
def test_code_that_cannot_be_traced(case: str) -> None:
    step, problem, way_out = CODE[case]
    message = refusal(Net(step))
    assert "inner (Inner)" in message
    assert "test_unpreparable.py:" in message or "count" in message or "keeps" in message, message
    assert re.search(f"{problem}.*; .*{way_out}", message), message


def quantized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), torch.ao.nn.quantized.ReLU6())


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net(decide)


def plain(conv: nn.Module | None = None) -> Net:
    return Net(lambda n, x: n.conv(x), conv=conv or nn.Conv2d(8, 8, 1))


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.auxiliary, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv(x)).mean((2, 3))
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class OptimizedModule(nn.Module):
    """What ``torch.compile`` returns, without the minute that it takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network

    def forward(self, x: Tensor) -> Any:
        return self._orig_mod(x)


def old_weight_norm() -> nn.Module:
    network = plain(torch.nn.utils.weight_norm(nn.Conv2d(8, 8, 1)))
    network(IMAGES)
    return network


MODELS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "weight norm": (lambda: plain(parametrizations.weight_norm(nn.Conv2d(8, 8, 1))), "inner.conv", "remove_param"),
    "spectral norm": (lambda: plain(parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))), "inner.conv", "remove_param"),
    "old weight norm": (old_weight_norm, r"inner\.conv \(Conv2d\)", "remove_weight_norm"),
    "nothing to quantize": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Softmax(1)), "no convolution or linear", "layer"),
    "a layer without a shape": (lambda: plain(nn.LazyConv2d(8, 1)), r"inner\.conv\.weight has no shape", "run the net"),
    "TorchScript": (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3))), r"^0 \(", "that was scripted"),
    "data parallel": (lambda: nn.DataParallel(plain()), r"the network \(DataParallel\)", r"model\.module"),
    "a compiled network": (lambda: OptimizedModule(plain()), r"\(OptimizedModule\)", r"model\._orig_mod"),
    "a quantized layer": (quantized, r"1 \(ReLU6\) is quantized", "prepare the float network"),
    "no weights": (on_meta, r"stem\.weight is on the meta device", "load the weights"),
    "half precision": (lambda: plain().half(), r"stem\.weight is float16", r"model\.float\(\)"),
    "complex weights": (lambda: plain(nn.Conv2d(8, 8, 1).to(torch.complex64)), r"inner\.conv\.weight", "real ones"),
    "two ways at the top": (Top, r"the network \(Top\) takes another path in train.*\.py:\d+", "module of its own"),
    "channels that do not fit": (lambda: plain(nn.Conv2d(4, 8, 1)), r"inner\.conv \(Conv2d\).*\.py:\d+", "as forward"),
}


@pytest.mark.parametrize("case", MODELS)
def test_networks_that_are_not_ready(case: str) -> None:
    build, problem, way_out = MODELS[case]
    message = refusal(build())
    assert re.search(f"{problem}.*{way_out}", message), message


INPUTS: dict[str, tuple[Any, str, str]] = {
    "too many": ((IMAGES, IMAGES), r"forward of the network \(Net\) takes x, but there are 2", "one tensor for each"),
    "none": ((), "takes x, but there are 0", "one tensor for each"),
    "double precision": ((IMAGES.double(),), r"x of forward.* is float64", r"x\.float\(\)"),
    "another device": ((IMAGES.to("meta"),), "x of forward.* is on meta, the network on cpu", r"\.to\(\)"),
    "a dictionary": (({"image": IMAGES},), "x of forward.* is a dict", "small module that takes tensors"),
    "no batch": ((torch.tensor(1.0),), r"has shape \[\]", "batch first"),
    "an empty batch": ((IMAGES[:0],), r"has shape \[0, 3, 8, 8\]", "at least one example"),
    "a single image": ((IMAGES[0],), r"one batch size only: stem \(Conv2d\)", "batch"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_example_inputs_that_do_not_fit(case: str) -> None:
    inputs, problem, way_out = INPUTS[case]
    message = refusal(plain(), inputs)
    assert re.search(f"{problem}.*{way_out}", message), message


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.b(y)  # type: ignore[no-any-return]


def test_inputs_of_different_batches() -> None:
    message = refusal(Two(), (noise(3, 8), noise(4, 8)))
    assert "x: 3, y: 4" in message
    assert "put the batch first" in message
