"""Networks and example inputs that are refused before tracing, with the way out."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from refusals import Net, refusal
from torch import Tensor, nn

from qkd_deploy import UserError
from qkd_deploy.graph.trace.checks import named_inputs, own_copy

IMAGES = noise(2, 3, 8, 8)


def quantized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), torch.ao.nn.quantized.ReLU6())


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return plain()


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


MODELS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
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


class Held(nn.Module):
    """Holds something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_copied() -> None:
    with pytest.raises(UserError, match=r"the network \(Held\) cannot be copied .*locks, open files"):
        own_copy(Held())


def test_sparse_weights() -> None:
    network = nn.Linear(2, 2)
    network.weight = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(UserError, match=r"^weight is sparse; .*to_dense"):
        own_copy(network)


class Several(nn.Module):
    def forward(self, x: Tensor, *others: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale + sum(others)


def test_inputs_get_the_names_of_arguments() -> None:
    named = named_inputs(Several(), (IMAGES, IMAGES, IMAGES))
    assert list(named) == ["x", "others_0", "others_1"]
    assert torch.equal(named["x"], IMAGES)
    assert named["x"] is not IMAGES
