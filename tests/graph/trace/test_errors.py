"""Code that cannot be traced: one sentence names the module, the user's line and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployment import noise
from refusals import Net, refusal
from torch import nn

from qkd_deploy.graph.trace.errors import Failed, Untraceable, explain, module_name, user_line

IMAGES = noise(2, 3, 8, 8)


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
    first = x[:, :2]
    x[:, 0] = 0
    return x + first.mean()


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


LEAF = r"keep that module in float: overrides=\{'inner': 'float'\}, or --float inner on the command line"
CODE: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "a decision by values": (decide, r"if x\.mean\(\) > 0.*reads the values", r"torch\.where"),
    "a loop until convergence": (converge, "while .*reads the values", r"torch\.where"),
    "a selection by values": (select, r"x\[x > 0\.5\].*depends on the values", "masks or torch.where"),
    "counted positions": (positions, r"nonzero\(\).*depends on the values", "masks or torch.where"),
    "a constant batch": (constant_batch, r"one batch size only.*x\.view\(2, 8, 64\)", r"x\.flatten\(1\)"),
    "item": (item, r"max\(\)\.item\(\).*reads the values", "compute with tensors"),
    "tolist": (to_list, "tolist.*reads the values", "compute with tensors"),
    "numpy": (to_numpy, "x.numpy.*reads the values", "compute with tensors"),
    "a decision by the batch size": (many, r"x\.shape\[0\] > 64.*batch size", "write it for any batch"),
    "a tensor of the batch size": (
        sized,
        "gives the batch size to new_zeros",
        f"broadcast, or {LEAF}",
    ),
    "a loop over the batch": (each, "for row in x.*batch size", "write it for any batch"),
    "the batch size as a number": (integer_batch, r"int\(x\.shape\[0\].*batch size", "-1 in view"),
    "an assignment to a part": (assign, "assigns to a part of a tensor that is read under another name", "torch.cat"),
    "a buffer that counts": (count, r"changes its buffer inner\.count", "make forward free of memory"),
    "a buffer that is replaced": (replace_buffer, r"changes its buffer inner\.count", "make forward free of memory"),
    "a tensor kept for the next call": (remember, "keeps memory", "make forward free of memory"),
    "random numbers in eval mode": (perturb, "randn_like.*random numbers in eval", r"if self\.training"),
    "complex numbers": (transform, "fft2.*complex", LEAF),
    "a layer that is not registered": (unregistered, "Conv2d with weights that is not registered", r"nn\.ModuleList"),
    "targets in training": (needs_targets, "in train mode,.*targets are needed", LEAF),
}


@pytest.mark.parametrize("case", CODE)
def test_code_that_cannot_be_traced(case: str) -> None:
    step, problem, way_out = CODE[case]
    message = refusal(Net(step))
    assert "inner (Inner)" in message
    assert f"{Path(__file__).name}:" in message or "count" in message or "keeps" in message, message
    assert re.search(f"{problem}.*; .*{way_out}", message), message


def test_the_line_is_the_users() -> None:
    assert user_line().startswith(f"{__file__}:")


def test_modules_have_their_path_and_class() -> None:
    network = nn.Sequential(nn.ReLU())
    assert module_name(network, "0") == "0 (ReLU)"
    assert module_name(network, "") == "the network (Sequential)"


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_every_error_has_a_sentence() -> None:
    network = nn.Sequential(nn.ReLU()).eval()
    here = rf"at {re.escape(__file__)}:\d+ in raised \(raise error\)"
    problem = str(explain(raised(Untraceable("it does much", "do less, or {leaf}")), network, "0"))
    assert re.fullmatch(rf"cannot trace 0 \(ReLU\) {here}: it does much; do less, or keep .*--float 0 .*", problem)
    at_the_top = str(explain(raised(Untraceable("it does much", "{leaf}")), network, ""))
    assert at_the_top.endswith(
        "of its own and keep that module in float: overrides={'PATH': 'float'}, or --float PATH on the command line"
    )
    unknown = str(explain(raised(ValueError("\n first \nsecond")), network.train(), "0"))
    assert re.fullmatch(rf"cannot trace 0 \(ReLU\) {here}, in train mode,: first; .*control flow.*", unknown)
    assert "ValueError()" in str(explain(raised(ValueError()), network, "0"))


@pytest.mark.parametrize(("doubled", "words"), [(True, "one batch size only"), (False, "does not run on the example")])
def test_a_call_that_fails_names_its_cause(doubled: bool, words: str) -> None:
    error = Failed(doubled)
    error.__cause__ = ValueError("sizes differ.")
    message = str(explain(error, nn.Sequential(), ""))
    assert words in message
    assert "fails for twice the examples: sizes differ;" in message or "fails: sizes differ;" in message
