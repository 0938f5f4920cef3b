"""Ways out of operations that have no kernel or no place in a file: written as the sentence says, they get both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from refusals import IMAGES, Net
from to_a_file import goes_to_a_file
from torch import Tensor, fx, nn
from ways import Way, follow

from qkd_deploy import UserError, prepare

KEEP = "keep that module in float: overrides={'inner': 'float'}, or --float inner on the command line"
Step = Callable[[Any, Any], Any]


def ways(wrong: Step, said: str, *right: Step, **modules: nn.Module) -> Way:
    return Way(
        lambda path: goes_to_a_file(Net(wrong, **modules), IMAGES),
        said,
        lambda path: [goes_to_a_file(Net(step, **modules), IMAGES) for step in right],
    )


def sized(n: Any, x: Any) -> Any:
    return x + x.new_zeros(x.shape[0], 8, 1, 1)


@fx.wrap
def halves(x: Tensor) -> list[Tensor]:
    """A function whose inside the user does not want to be traced."""
    return list(x.chunk(2, 1))


def joined(n: Any, x: Any) -> Any:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


WAYS: dict[str, Way] = {
    "a dropout that is always on": ways(
        lambda n, x: F.dropout(x, 0.5),
        "call it with training=self.training",
        lambda n, x: F.dropout(x, 0.5, training=n.training),
    ),
    "a list that is computed": ways(
        lambda n, x: torch.cat(halves(x), 1), "name its parts, as in a, b = x.chunk(2, 1)", joined
    ),
    "a factor that the sizes come near to": ways(
        lambda n, x: F.interpolate(x, scale_factor=2.1),
        "use recompute_scale_factor=True or size=",
        lambda n, x: F.interpolate(x, scale_factor=2.1, recompute_scale_factor=True),
        lambda n, x: F.interpolate(x, size=(16, 16)),
    ),
    "a divisor of one's own": ways(
        lambda n, x: F.avg_pool2d(x, 2, divisor_override=8),
        "multiply instead",
        lambda n, x: F.avg_pool2d(x, 2) * 0.5,
    ),
    "padding that counts in part": ways(
        lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        "use count_include_pad=False or ceil_mode=False",
        lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda n, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=False),
    ),
    "a tensor of the batch size": Way(
        lambda path: goes_to_a_file(Net(sized), IMAGES),
        f"let it make one sample and broadcast, or {KEEP}",
        lambda path: [
            goes_to_a_file(Net(lambda n, x: x + x.new_zeros(1, 8, 1, 1)), IMAGES),
            goes_to_a_file(Net(sized), IMAGES, overrides={"inner": "float"}),
        ],
    ),
    "an operation that ONNX lacks": ways(
        lambda n, x: x.cumprod(1)[:, -1:] + x,
        "replace the operation, or let the network end in front of it and compute it outside",
        lambda n, x: x.prod(1, keepdim=True) + x,
        lambda n, x: x,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)


def test_pytorch_says_why_it_cannot_write_an_operation_without_advice_to_others() -> None:
    with pytest.raises(UserError, match=r"either: No ONNX function found for \S+ overload='default'\)>; replace"):
        prepare(Net(lambda n, x: x.mode(1, keepdim=True)[0] + x), "w8a8", IMAGES)
