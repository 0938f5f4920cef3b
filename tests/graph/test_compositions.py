"""Chains of operators that nobody has thought of: each must equal ONNX Runtime and the reference in every code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish, noise, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from placement import IMAGES, Small
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.runtime import optimized_graph

Step = Callable[[Any, Tensor, Tensor], Tensor]

# every step maps the tensor before it, and any earlier one, to a tensor of the same shape [batch, 8, 8, 8]
STEPS: dict[str, Step] = {
    "minus": lambda n, x, y: x - 0.4,
    "negate": lambda n, x, y: -x,
    "clamp": lambda n, x, y: x.clamp(-0.5, 1.5),
    "ReLU6": lambda n, x, y: F.relu6(x * 1.3),
    "SiLU": lambda n, x, y: F.silu(x - 0.3),
    "GELU": lambda n, x, y: F.gelu(x - 0.3),
    "hard swish": lambda n, x, y: F.hardswish(x - 0.5),
    "leaky": lambda n, x, y: F.leaky_relu(x - 0.5, 0.1),
    "PReLU": lambda n, x, y: n.slopes(x - 0.3),
    "tanh": lambda n, x, y: torch.tanh(x - 0.2),
    "sigmoid": lambda n, x, y: torch.sigmoid(x) - 0.3,
    "square": lambda n, x, y: (x - 0.2).square(),
    "GLU": lambda n, x, y: F.glu(torch.cat([x, y], 1), 1),
    "sum of two": lambda n, x, y: x + y,
    "difference": lambda n, x, y: x - 0.7 * y,
    "gate": lambda n, x, y: x * torch.sigmoid(y),
    "gain": lambda n, x, y: x * n.gain,
    "convolution": lambda n, x, y: n.spatial(x),
    "depthwise": lambda n, x, y: F.relu(n.depthwise(x)),
    "linear": lambda n, x, y: n.linear(x),
    "batch norm": lambda n, x, y: n.bn(x),
    "LayerNorm": lambda n, x, y: n.rows(x),
    "softmax": lambda n, x, y: x.softmax(-1) * 3,
    "softmax of channels": lambda n, x, y: x * x.softmax(1),
    "product": lambda n, x, y: (x @ y.mT) * 0.1,
    "einsum": lambda n, x, y: torch.einsum("bchw,bcvw->bchv", x, y) * 0.1,
    "attention": lambda n, x, y: F.scaled_dot_product_attention(x, y, x),
    "largest": lambda n, x, y: x * torch.sigmoid(x.amax(1, keepdim=True) - 0.5),
    "minus mean": lambda n, x, y: x - x.mean((2, 3), keepdim=True),
    "sum of channels": lambda n, x, y: x * torch.sigmoid(x.sum(1, keepdim=True) * 0.1),
    "max pool": lambda n, x, y: F.max_pool2d(x, 3, 1, 1),
    "average pool": lambda n, x, y: F.avg_pool2d(x, 3, 1, 1),
    "uneven pool": lambda n, x, y: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "down and up": lambda n, x, y: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "concat": lambda n, x, y: torch.cat([x[:, :4], y[:, 2:6]], 1),
    "token": lambda n, x, y: torch.cat([n.token.expand(x.shape[0], -1, -1, -1), x[:, 1:]], 1),
    "stack": lambda n, x, y: torch.stack([x, y], 2).flatten(1, 2)[:, 4:12],
    "every other": lambda n, x, y: torch.cat([x[:, ::2], y[:, 1::2]], 1),
    "index": lambda n, x, y: x[:, [3, 1, 2, 0, 7, 5, 6, 4]],
    "flip": lambda n, x, y: x.flip(2) + y,
    "roll": lambda n, x, y: x.roll((1, 2), (2, 3)),
    "repeat": lambda n, x, y: x[:, :4].repeat(1, 2, 1, 1),
    "expand": lambda n, x, y: x + x.mean(1, keepdim=True).expand(-1, 8, -1, -1),
    "transpose": lambda n, x, y: x.transpose(2, 3),
    "shuffle": lambda n, x, y: x.view(x.size(0), 2, 4, 8, 8).transpose(1, 2).flatten(1, 2),
    "pixels": lambda n, x, y: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "pad": lambda n, x, y: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, :-2],
    "reflect": lambda n, x, y: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 2:, 2:],
}


class Chain(Small):
    """A small network with some of the steps in its middle; ``plan`` holds names and which earlier tensor they read."""

    def __init__(self, plan: list[tuple[str, int]]) -> None:
        def middle(net: Any, x: Tensor) -> Tensor:
            made = [x]
            for name, earlier in plan:
                made.append(STEPS[name](net, made[-1], made[-1 - earlier % len(made)]))
            return made[-1]

        super().__init__(middle)
        used = {attribute for name, _ in plan for attribute in STEPS[name].__code__.co_names}
        parts: dict[str, Callable[[], nn.Module | nn.Parameter]] = {
            "spatial": lambda: nn.Conv2d(8, 8, 3, padding=1),
            "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
            "linear": lambda: nn.Linear(8, 8),
            "bn": lambda: nn.BatchNorm2d(8),
            "rows": lambda: nn.LayerNorm(8),
            "slopes": lambda: nn.PReLU(8),
            "token": lambda: nn.Parameter(noise(1, 1, 8, 8, seed=1)),
            "gain": lambda: nn.Parameter(noise(1, 8, 1, 1, seed=2).abs() + 0.5),
        }
        for name in parts.keys() & used:
            setattr(self, name, parts[name]())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    plan=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5)), min_size=2, max_size=6),
    bits=st.sampled_from(["w8a8", "w4a4", "w3a3", "w2a4"]),
)
def test_any_chain_is_exact(plan: list[tuple[str, int]], bits: str) -> None:
    torch.manual_seed(0)
    network = Chain(plan)
    settle(network)
    prepared = prepare(network.eval(), bits, (IMAGES,))
    initialize(prepared, IMAGES)
    deployed = finish(prepared.eval())
    after_float = assert_same_codes(deployed, (IMAGES,)) | assert_same_codes(deployed, (noise(2, 3, 8, 8, seed=7),))
    assert not after_float
    kernels = list_kernels(deployed.model, optimized_graph(deployed.model), read_metadata(deployed.model))
    assert {kernel.op for kernel in kernels if not kernel.integer} <= {"LayerNorm", "Exp", "Div"}
