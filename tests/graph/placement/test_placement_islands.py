"""Operations without integer kernels: they stay in float between integer layers, with a reason, and are exported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from deployment import feeds_of, noise
from placement import IMAGES, Small, check
from torch import Tensor, nn

from qkd_deploy import UserError, prepare
from qkd_deploy.verification.runtime import CodesModel


def trained_norm() -> nn.Module:
    """A batch norm with statistics, which it keeps while scales are initialised."""
    norm = nn.BatchNorm3d(8)
    nn.init.constant_(norm.running_mean, 0.1)  # type: ignore[arg-type]
    return norm


ISLANDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LayerNorm": (
        lambda: Small(lambda n, x: n.norm1(x), norm1=nn.LayerNorm([8, 8, 8])),
        "more than the last dimension",
    ),
    "GroupNorm": (lambda: Small(lambda n, x: n.norm1(x), norm1=nn.GroupNorm(2, 8)), "contract table"),
    "ConvTranspose": (
        lambda: Small(lambda n, x: n.up(x), up=nn.ConvTranspose2d(8, 8, 2, 2)),
        "no integer ConvTranspose",
    ),
    "smooth upsampling": (
        lambda: Small(lambda n, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
        "only nearest upsampling",
    ),
    "smooth upsampling to a size": (
        lambda: Small(lambda n, x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="bicubic")),
        "only nearest upsampling",
    ),
    "quotient": (lambda: Small(lambda n, x: x / (x.mean((2, 3), keepdim=True) + 1)), "integer Div"),
    "clamp without zero": (lambda: Small(lambda n, x: x.clamp(0.5, 1)), "range without zero"),
    "softmax": (lambda: Small(lambda n, x: x.softmax(0)), "over the batch"),
    "double": (lambda: Small(lambda n, x: torch.cumsum(x, 1, dtype=torch.float64).float() * 0.1), "no integer kernel"),
    "softmax of a number": (lambda: Small(lambda n, x: x * x.mean().softmax(0)), "of a single number"),
    "a choice": (lambda: Small(lambda n, x: torch.where(x > 0.5, x, x * 0.1)), "contract table"),
    "a guard": (lambda: Small(lambda n, x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 0.5)), "between floats"),
    "norm of volumes": (
        lambda: Small(lambda n, x: n.norm1(x[..., None])[..., 0], norm1=trained_norm()),
        "contract table",
    ),
    "padding with a number": (lambda: Small(lambda n, x: F.pad(x, (1, 1), value=0.5)), "other values"),
}


@pytest.mark.parametrize("case", ISLANDS)
def test_float_islands(case: str) -> None:
    torch.manual_seed(2)
    build, reason = ISLANDS[case]
    account = check(build(), integer=False, idle_steps=1).prepared.account
    assert any(reason in entry.reason for entry in account.floats), str(account)
    assert "Stays in float:" in str(account)


def test_only_the_island_is_in_float() -> None:
    net = Small(lambda n, x: n.norm1(n.conv(x)), conv=nn.Conv2d(8, 8, 1), norm1=nn.GroupNorm(2, 8))
    account = check(net, integer=False).prepared.account
    assert [entry.name for entry in account.floats] == ["norm1"]


class Condition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the error names
            x = x * 2
        return self.conv(x)  # type: ignore[no-any-return]


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 3, 1), inner, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.relu(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_control_flow_names_its_line_and_the_way_out() -> None:
    with pytest.raises(UserError) as caught:
        prepare(Holder(Condition()), "w4a4", (IMAGES,))
    message = str(caught.value)
    assert "test_placement_islands.py" in message
    assert "if x.sum() > 0" in message
    assert "torch.where" in message
    assert "\n" not in message


def test_a_leaf_module_is_one_float_step() -> None:
    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (x.abs().amax((1, 2, 3), keepdim=True) + 1.0) if x.dim() == 4 else x

    model = Small(lambda n, x: n.leaf(x), leaf=Norm())
    prepared = prepare(model, "w4a4", (IMAGES,), leaf_modules=(Norm,))
    assert [entry.name for entry in prepared.account.floats] == ["leaf"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"secnd": "w8a8"}}, "'secnd' matches no layer.*did you mean 'second'"),
        ({"overrides": {"layer4.*": "w8a8"}}, "matches no layer"),
        ({"overrides": {"second": "w9a8"}}, "did you mean 'w8a8'"),
        ({"overrides": {"second": "w4a32"}}, "for the whole network"),
        ({"placement": "papr"}, "did you mean 'paper'"),
        ({"residual": "narrow"}, "choose one of wide, shared"),
        ({"weight_range": "ful"}, "did you mean 'full'"),
        ({"first_last_bits": 1}, "first_last_bits is 1; it must be a number at least 2 and at most 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(Small(lambda n, x: x), "w4a4", (IMAGES,), **options)  # type: ignore[arg-type]


def test_networks_that_cannot_be_quantized_are_refused() -> None:
    with pytest.raises(UserError, match="no convolution or linear layer"):
        prepare(nn.Sequential(nn.ReLU()), "w4a4", (IMAGES,))
    with pytest.raises(UserError, match="does not run on the example inputs"):
        prepare(Small(lambda n, x: x), "w4a4", (torch.zeros(2, 4, 8, 8),))


class Functional(nn.Module):
    """A layer that torch.fx sees as a function of a constant."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.convolves = len(shape) == 4
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (x.mean() + 2.0)  # computed from the input, so that it can have no quantizer
        return F.conv2d(x, weight) if self.convolves else F.linear(x, weight)


INEXACT = {
    "softmax": lambda: Small(lambda n, x: n.conv(x).softmax(0), conv=nn.Conv2d(8, 8, 1)),
    "ConvTranspose": lambda: Small(lambda n, x: n.up(x), up=nn.ConvTranspose2d(8, 8, 2, 2)),
    "F.conv2d": lambda: Small(lambda n, x: n.inner(x), inner=Functional(8, 8, 1, 1)),
    "F.linear": lambda: Small(lambda n, x: n.inner(x), inner=Functional(8, 8)),
}


@pytest.mark.parametrize("case", INEXACT)
def test_the_runtime_does_not_quantize_islands_on_its_own(case: str) -> None:
    """Without a barrier it does: with 8-bit weights of its own, or with codes that are off by one."""
    deployed = check(INEXACT[case](), integer=False)
    runtime = CodesModel(deployed.model).run(feeds_of(deployed.model, (IMAGES,)))[1]
    for tensor, codes in deployed.frozen.codes(IMAGES).items():
        assert (codes != runtime[deployed.values[tensor]]).mean() < 1e-3, tensor


@pytest.mark.parametrize(
    "middle",
    [
        lambda n, x: F.max_pool2d(F.pad(n.conv(x) - 3, (1, 1, 1, 1)), 3, 2),
        lambda n, x: F.avg_pool2d(F.pad(n.conv(x) - 3, (1, 1, 1, 1)), 3, 2),
        lambda n, x: F.avg_pool2d(F.pad(n.conv(x) - 3, (1, 1, 1, 1)), 3, 2, 1, count_include_pad=False),
        lambda n, x: F.avg_pool2d(F.pad(n.conv(x) - 3, (1, 0, 0, 1)), 2, 2, ceil_mode=True),
        lambda n, x: n.norm1(n.conv(x) + 100),
        lambda n, x: F.group_norm(n.conv(x) + 100, 2, eps=1e-3),
    ],
)
def test_floats_are_those_of_pytorch(middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """What the runtime makes of operations in float is the same up to roundings."""
    torch.manual_seed(3)
    net = Small(middle, conv=nn.Conv2d(8, 8, 1), norm1=nn.GroupNorm(4, 8))
    if "norm1" not in middle.__code__.co_names:
        del net.norm1
    deployed = check(net, bits="w8a32", integer=False)
    images = noise(2, 3, 8, 8, seed=4)
    outputs, _ = CodesModel(deployed.model, 1, {}).run(feeds_of(deployed.model, (images,)))
    (output,) = outputs.values()
    torch.testing.assert_close(torch.from_numpy(output), deployed.frozen(images), atol=1e-4, rtol=1e-4)
