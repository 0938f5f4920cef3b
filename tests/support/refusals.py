"""A network with one module whose code is in question, and the sentence with which ``prepare`` refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deployment import noise
from torch import Tensor, nn

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


def refusal(model: nn.Module, inputs: Any = (IMAGES,)) -> str:
    with pytest.raises(UserError) as caught:
        prepare(model, "w4a4", inputs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500, message
    return message
