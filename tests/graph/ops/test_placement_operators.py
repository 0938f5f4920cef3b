"""Operators beyond convolutions and sums: each in a small network that must run in integers and equal ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish, noise, settle
from placement import IMAGES, Small, check
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.runtime import optimized_graph

Middle = Callable[[Any, Tensor], Tensor]


def kinds(model: nn.Module, **options: Any) -> set[str]:
    """Kinds of the nodes of a network that passed all checks."""
    return {node.kind for node in check(model, **options).frozen.graph.nodes}


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (lambda net, x: torch.sigmoid(x - 1), {"sigmoid", "add"}),
        (lambda net, x: F.silu(x - 1), {"sigmoid", "mul"}),
        (lambda net, x: F.silu(x - 1, inplace=True), {"sigmoid", "mul"}),
        (lambda net, x: net.swish(x - 1), {"hard_sigmoid", "mul"}),
        (lambda net, x: torch.tanh(x - 1), {"tanh"}),
        (lambda net, x: F.hardsigmoid(x - 1), {"hard_sigmoid"}),
        (lambda net, x: F.hardswish(x - 1), {"hard_sigmoid", "mul"}),
        (lambda net, x: x * F.relu6(x + 3) / 6, {"rescale", "mul", "add"}),
        (lambda net, x: x * (F.relu6(x + 3) / 6), {"hard_sigmoid", "mul"}),
        (lambda net, x: F.leaky_relu(x - 1, 0.1), {"leaky_relu"}),
        (lambda net, x: net.act(x - 1), {"leaky_relu"}),
        (lambda net, x: net.channels(x - 1), {"clip", "mul", "add"}),
        (lambda net, x: F.gelu(x - 1), {"lookup"}),
        (lambda net, x: F.gelu(x - 1, approximate="tanh"), {"lookup"}),
        (lambda net, x: net.elu(x - 1), {"lookup"}),
        (lambda net, x: torch.relu(F.mish(x - 1)), {"lookup", "clip"}),
        (lambda net, x: torch.cat([F.glu(x - 1, 1), net.glu(x)], 1), {"sigmoid", "mul", "slice"}),
        (lambda net, x: x * (x - 1).softmax(1), {"softmax", "transpose"}),
        (lambda net, x: F.softmax(x - 1, dim=-1, dtype=torch.float32).to(x.dtype) * 2, {"softmax"}),
        (lambda net, x: torch.softmax(x - 1, -1, torch.float64).float() * 2, {"softmax"}),
        (lambda net, x: F.softmax(x - 1, -1, 3, torch.float32) * 2, {"softmax"}),
        (lambda net, x: ((x - 1) ** 2).exp().abs().sqrt(), {"lookup"}),
    ],
)
def test_activation_functions(middle: Middle, expected: set[str]) -> None:
    assert expected <= kinds(
        Small(
            middle,
            act=nn.PReLU(),
            channels=nn.PReLU(8),
            elu=nn.ELU(0.7),
            swish=nn.Hardswish(inplace=True),
            glu=nn.GLU(1),
        )
    )


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (lambda net, x: x * 0.3, {"rescale"}),
        (lambda net, x: x / 3, {"rescale"}),
        (lambda net, x: net.second_branch(x).mul_(2) + x, {"rescale", "add"}),
        (lambda net, x: -x, {"mul"}),
        (lambda net, x: x * -0.7, {"mul"}),
        (lambda net, x: x + 0.31, {"add"}),
        (lambda net, x: x - 0.31, {"add"}),
        (lambda net, x: torch.add(x, net.second_branch(x), alpha=0.3), {"add", "rescale"}),
        (lambda net, x: torch.add(x, net.second_branch(x), alpha=-0.3), {"add"}),
        (lambda net, x: 1 - x, {"add", "mul"}),
        (lambda net, x: x - net.second_branch(x), {"add"}),
        (lambda net, x: x * net.second_branch(x), {"mul"}),
        (lambda net, x: x * x.mean((2, 3), keepdim=True), {"mul", "global_avg_pool"}),
        (lambda net, x: x + x.mean((2, 3), keepdim=True), {"add", "global_avg_pool"}),
        (lambda net, x: (x.unflatten(1, (1, 8))[..., :6] * net.gain).flatten(1, 2), {"mul"}),
        (lambda net, x: (x - net.shift) / net.spread, {"add", "mul"}),
        (lambda net, x: x * net.gain + net.offset, {"add", "mul"}),
        (lambda net, x: x * torch.sigmoid(x.sum((2, 3), keepdim=True)), {"global_avg_pool", "rescale", "mul"}),
        (lambda net, x: x.sum(2, keepdim=True) + torch.sum(x, 3, keepdim=True), {"global_avg_pool", "rescale"}),
        (lambda net, x: torch.einsum("bchw,bdhw->bcdh", x, x).flatten(2).view_as(x), {"matmul", "transpose"}),
        (lambda net, x: torch.einsum("b h i c, b h j c -> b h i j", x, x).softmax(-1), {"matmul", "softmax"}),
        (lambda net, x: torch.einsum("bhij,bhjc->bihc", [x, x]), {"matmul", "transpose"}),
        (lambda net, x: x @ x.mT, {"matmul", "transpose"}),
    ],
)
def test_arithmetic(middle: Middle, expected: set[str]) -> None:
    net = Small(middle, second_branch=nn.Conv2d(8, 8, 1))
    net.register_buffer("shift", noise(8, 1, 1, seed=1))
    net.register_buffer("spread", noise(1, 8, 1, 1, seed=2).abs() + 0.5)
    net.gain = nn.Parameter(noise(1, 8, 1, 1, seed=3))
    net.offset = nn.Parameter(noise(8, 8, seed=4))
    if "gain" not in middle.__code__.co_names:
        del net.gain, net.offset
    assert expected <= kinds(net)


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (lambda net, x: F.pad(x, (1, 2, 0, 1)), {"pad"}),
        (lambda net, x: F.pad(x, (1, 2, 2, 1), mode="reflect"), {"pad"}),
        (lambda net, x: F.pad(x, (1, 2, 2, 1), mode="replicate"), {"pad"}),
        (lambda net, x: net.zeros(x), {"pad"}),
        (lambda net, x: F.interpolate(x, scale_factor=2), {"resize"}),
        (lambda net, x: F.interpolate(x, size=(24, 16), mode="nearest"), {"resize"}),
        (lambda net, x: F.pixel_shuffle(torch.cat([x, x, x, x], 1), 2), {"reshape", "transpose"}),
        (lambda net, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2), {"pad", "max_pool"}),
        (lambda net, x: net.padded(F.pad(x, (0, 1, 0, 1))), {"pad"}),
        (lambda net, x: x.roll((2, -3), (2, 3)), {"roll"}),
        (
            lambda net, x: x * torch.sigmoid(x.max(1, keepdim=True)[0] - (-x).amin((2, 3), keepdim=True)),
            {"amax", "amin"},
        ),
        (lambda net, x: x * torch.sigmoid(torch.max(x, dim=2).values.unsqueeze(2)), {"amax", "mul"}),
        (lambda net, x: x.swapaxes(1, 2).swapdims(1, 2) + x.movedim(1, -1).moveaxis(-1, 1), {"transpose"}),
        (lambda net, x: F.pixel_unshuffle(x, 2)[:, ::4], {"transpose", "slice"}),
        (lambda net, x: torch.cat([x[..., ::2, 1::2], x[..., 1:7:3, ::2].repeat(1, 1, 2, 1)], 2), {"slice", "index"}),
        (lambda net, x: x.flip(3) + torch.flip(x, (1, -2)), {"index"}),
        (lambda net, x: x[:, [3, 1, 2, 0, 7, 5, 6, -4]] + x.index_select(1, net.order), {"index"}),
        (lambda net, x: x[..., net.order] + x.repeat_interleave(2, 1)[:, :8], {"index", "slice"}),
        (lambda net, x: x[:, :2].repeat(1, 4, 2, 1), {"index"}),
        (lambda net, x: torch.roll(x, 5, 1), {"roll"}),
        (lambda net, x: x + x.mean(1, keepdim=True), {"global_avg_pool", "add"}),
        (lambda net, x: x * x.permute(0, 2, 3, 1).mean((1, 2)).unflatten(1, (8, 1, 1)), {"global_avg_pool", "mul"}),
        (lambda net, x: x + x.flatten(2).mean(2).reshape(-1, 8, 1, 1), {"global_avg_pool", "add"}),
        (
            lambda net, x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).contiguous().view(-1, 8, 8, 8),
            {"transpose"},
        ),
        (lambda net, x: (x.flatten(2) * 0.3).softmax(-1).view_as(x), {"softmax"}),
        (lambda net, x: x + net.second(x.data), {"reshape"}),
        (lambda net, x: torch.cat([x.narrow(1, -4, 4), x.narrow(1, 0, 4)], 1), {"slice", "concat"}),
        (lambda net, x: F.interpolate(x, scale_factor=(2.0, 3)), {"resize"}),
        (lambda net, x: torch.stack([x, x * 0.5], 2).flatten(1, 2)[:, ::1][:, :8], {"concat", "slice"}),
        (lambda net, x: x.view(3 if False else x.size(0), 2, 4, 8, 8).transpose(1, 2).flatten(1, 2), {"transpose"}),
    ],
)
def test_data_movement(middle: Middle, expected: set[str]) -> None:
    net = Small(middle, padded=nn.Conv2d(8, 8, 3, stride=2), zeros=nn.ZeroPad2d((0, 1, 0, 1)))
    net.register_buffer("order", torch.tensor([3, 1, 2, 0, 7, 5, 6, 4]))
    assert expected <= kinds(net)


@pytest.mark.parametrize(
    ("middle", "integer"),
    [
        (lambda net, x: F.layer_norm(x, (8,), net.c, net.c) * net.c + x, False),
        (lambda net, x: F.layer_norm(x, (8,), x.mean((0, 1, 2))) + x, False),
        (lambda net, x: F.prelu(x - 1, net.c[:1].clone()) + x, False),
        (lambda net, x: F.prelu(x - 1, net.one) * net.one, True),
    ],
)
def test_constants_may_have_readers_of_floats_and_of_codes(middle: Middle, integer: bool) -> None:
    net = Small(middle)
    net.register_buffer("c", noise(8, seed=1))
    net.register_buffer("one", torch.tensor([0.2]))
    check(net, integer=integer)


def test_a_negative_scale_of_attention_is_a_product() -> None:
    net = Small(lambda net, x: F.scaled_dot_product_attention(x, x, x, scale=-0.5))
    assert "mul" in {node.kind for node in check(net, integer=False).frozen.graph.nodes}


def test_a_factor_that_only_comes_near_to_the_size_is_refused() -> None:
    net = Small(lambda net, x: F.interpolate(x, scale_factor=2.1))  # 8 pixels become 16, but not every one two
    with pytest.raises(UserError, match="recompute_scale_factor=True"):
        prepare(net.eval(), "w4a4", (IMAGES,))
    check(Small(lambda net, x: F.interpolate(x, scale_factor=2.1, recompute_scale_factor=True)))


@pytest.mark.parametrize(
    ("middle", "shape", "expected"),
    [
        (lambda net, x: x + net.linear(net.token.expand(x.shape[0], -1, -1, -1)), (1, 1, 8, 8), {"expand"}),
        (lambda net, x: x + net.linear(net.token.repeat(x.size(0), 8, 1, 1)), (1, 1, 8, 8), {"expand"}),
        (lambda net, x: x + net.linear(net.token.expand(x.shape[0], 8, 8, -1)), (8,), {"expand"}),
        (
            lambda net, x: torch.cat([x[:, :2], net.token.expand(x.shape[0], -1, -1, -1), x[:, 2:4], x[:, 4:7]], 1),
            (1, 1, 8, 8),
            {"pad", "add", "concat", "slice"},
        ),
        (
            lambda net, x: torch.cat([net.token.expand(x.shape[0], 1, 8, -1), x[:, 1:]], 1),
            (8,),
            {"expand", "concat"},
        ),
        (
            lambda net, x: torch.cat([net.token.expand(x.shape[0], 1, -1), x.flatten(2)[:, 1:]], 1).view_as(x),
            (64,),
            {"pad", "add"},
        ),
        (lambda net, x: x * net.token + x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8), (8,), {"expand", "add"}),
        (lambda net, x: x * net.token + x.mean((2, 3), keepdim=True).expand_as(x), (8,), {"expand", "add"}),
        (lambda net, x: x * net.token + torch.full((x.shape[0], 8, 1, 1), 0.3), (8,), {"add"}),
        (
            lambda net, x: torch.cat([torch.ones(x.shape[0], 1, 4, 8), x[:, :1, 4:] * net.token], 2) * x,
            (8,),
            {"pad", "add", "mul"},
        ),
    ],
)
def test_what_is_there_once_is_repeated_on_codes(middle: Middle, shape: tuple[int, ...], expected: set[str]) -> None:
    net = Small(middle, linear=nn.Linear(8, 8))
    net.token = nn.Parameter(noise(*shape, seed=1))
    if "linear" not in middle.__code__.co_names:
        del net.linear
    deployed = check(net)
    assert expected <= {node.kind for node in deployed.frozen.graph.nodes}
    assert_same_codes(deployed, (noise(2, 3, 8, 8, seed=9),))  # a batch that nothing has seen


def test_positions_in_a_buffer_are_those_of_the_weights_that_are_loaded() -> None:
    def network(order: list[int]) -> nn.Module:
        torch.manual_seed(0)
        net = Small(lambda net, x: x[:, net.order] * 2)
        net.register_buffer("order", torch.tensor(order))
        return net.eval()

    one, other = (
        prepare(network(order), "w4a4", (IMAGES,)) for order in ([3, 1, 2, 0, 7, 5, 6, 4], [7, -1, 0, 1, 2, 3, 4, 5])
    )
    initialize(other, IMAGES)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(IMAGES), other(IMAGES))
    assert_same_codes(finish(one.eval()), (IMAGES,))


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: x[:, :1] + net.token.repeat(x.shape[0], 2, 1, 1)[:, :8],
        lambda net, x: x + net.token.repeat(x.shape[0] * 2, 1, 1, 1)[: x.shape[0]],
        lambda net, x: x * net.token * torch.full((x.shape[0], 8, 1, 1), 3.0 / x.shape[0]),
        lambda net, x: x + net.token.expand(x.shape),
    ],
)
def test_what_repeats_along_the_batch_is_refused_in_one_sentence(middle: Middle) -> None:
    net = Small(middle)
    net.token = nn.Parameter(noise(1, 8, 8, 8, seed=1))
    with pytest.raises(UserError, match="batch"):
        prepare(net.eval(), "w4a4", (IMAGES,))


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: x * torch.cat([net.part.expand(x.shape[0], -1, -1, -1)] * 2, 1).view(x.shape[0], -1, 8, 8),
        lambda net, x: x * (net.token.expand(x.shape[0], -1, -1, -1) + net.token.exp()).view(x.shape[0], -1, 8, 8),
        lambda net, x: x * (net.token.exp() - net.token.expand(x.shape[0], -1, -1, -1)).view(x.shape[0], -1, 8, 8),
        lambda net, x: torch.einsum("bhij,bhjk->bhik", x, x[:, :, :1]),
        lambda net, x: torch.cat([x, x.flip([])], 1)[:, 8:],
        lambda net, x: x.repeat([1, 1, 2, 1])[:, :, 4:12],
        lambda net, x: F.conv2d(x, net.kernel[::2]),
    ],
)
def test_every_batch_gets_what_the_network_computes(middle: Middle) -> None:
    torch.manual_seed(0)
    net = Small(middle)
    net.token, net.part = nn.Parameter(noise(1, 8, 8, 8, seed=1)), nn.Parameter(noise(1, 4, 8, 8, seed=2))
    net.kernel = nn.Parameter(noise(16, 8, 1, 1, seed=3))
    prepared = prepare(settle(net).eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    deployed = finish(prepared.eval())
    for images in (IMAGES, IMAGES[:1]):
        expected, got = net(images), prepared(images)
        assert got.shape == expected.shape
        assert float((got - expected).norm() / expected.norm()) < 0.05
        assert_same_codes(deployed, (images,))


@pytest.mark.parametrize("nothing", [lambda x: x[:, []], lambda x: x.repeat(1, 0, 1, 1)])
def test_nothing_may_be_chosen(nothing: Callable[[Any], Any]) -> None:
    net = Small(lambda net, x: torch.cat([x, nothing(x)], 1))
    prepared = prepare(net.eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert float((prepared(IMAGES) - net(IMAGES)).abs().max()) < 0.05


def test_a_batch_of_images_may_be_repeated() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)).repeat(2, 1, 1, 1))  # type: ignore[no-any-return]

    prepared = prepare(Twice().eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert prepared(IMAGES[:1]).shape == (2, 4, 8, 8)
    assert "along the batch" in str(prepared.account)


def test_a_sum_of_constants_may_be_repeated_for_every_image() -> None:
    net = Small(lambda net, x: x * (net.token.expand(x.shape[0], -1, -1, -1) + net.token))
    net.token = nn.Parameter(noise(1, 8, 8, 8, seed=1))
    check(net)


def test_what_only_constants_make_is_not_said_to_stay_in_float() -> None:
    net = Small(lambda net, x: x * torch.rsqrt(net.variance + 1e-5))  # as in frozen batch norms
    net.register_buffer("variance", noise(8, 1, 1, seed=1).abs() + 0.1)
    check(net)


def test_values_that_are_hardly_negative_get_most_codes_for_positive_ones() -> None:
    deployed = check(Small(lambda net, x: net.conv(F.silu(net.conv(x))), conv=nn.Conv2d(8, 8, 1)))
    grid = deployed.frozen.grid("silu")
    assert (grid.lo, grid.hi, grid.zero_point) == (-2, 13, 2)
    assert deployed.frozen.grid("silu/gate").zero_point == 0


@pytest.mark.parametrize(
    ("middle", "name"),
    [
        (lambda net, x: F.leaky_relu(x - 1, 1), "leaky_relu"),
        (lambda net, x: torch.mul(y := x - 9, y.softmax(-1)), "mul"),  # no gate: large where all are negative
        (lambda net, x: F.silu(x - 1).clamp_max(0), "silu"),
    ],
)
def test_values_that_may_be_far_below_zero_get_half_of_the_codes(middle: Middle, name: str) -> None:
    prepared = prepare(Small(middle).eval(), "w4a4", (IMAGES,))
    (key,) = {node.quantizer for node in prepared.graph.nodes if node.name == name}
    spec = prepared.activation(str(key)).spec
    assert spec.zero_point == 2 ** (spec.bits - 1)


def test_a_lone_batch_norm_is_a_depthwise_convolution() -> None:
    deployed = check(Small(lambda net, x: torch.relu(net.bn(x * 0.5)), bn=nn.BatchNorm2d(8)))
    node = deployed.frozen.graph.node("bn")
    assert node.is_layer
    assert node.clip == (0.0, float("inf"))
    assert int(deployed.frozen.layer(node).codes.abs().min()) == 32


def test_a_batch_norm_of_features_is_one_of_sequences() -> None:
    net = Small(lambda net, x: x * torch.sigmoid(net.bn(x.mean((2, 3)))).unflatten(1, (8, 1, 1)), bn=nn.BatchNorm1d(8))
    deployed = check(net)
    assert deployed.frozen.graph.node("bn").is_layer
    assert {"bn.column", "bn.row"} <= {node.name for node in deployed.frozen.graph.nodes}


def test_codes_of_what_moved_as_floats_may_have_several_readers() -> None:
    net = Small(
        lambda net, x: F.pad(net.one(y := net.rows(x)[:, :, 1:]) + net.two(y) + torch.tanh(y.mT).mT, (0, 0, 1, 0)),
        one=nn.Linear(8, 8),
        two=nn.Linear(8, 8),
        rows=nn.LayerNorm(8),
    )
    settled = settle(net)
    prepared = prepare(settled.eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert not assert_same_codes(finish(prepared.eval()), (IMAGES,))


def test_attention_to_a_single_token_stays_in_float() -> None:
    net = Small(lambda net, x: x * F.scaled_dot_product_attention(x, x[:, :, :1], x[:, :, :1]))
    account = check(net, integer=False).prepared.account
    assert [entry.reason for entry in account.floats] == ["attention to a single token stays in float"]


class Attention(nn.Module):
    """Class token, position embedding, and one block of attention over four tokens."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(noise(1, 1, 16, seed=5))
        self.positions = nn.Parameter(noise(1, 5, 16, seed=6))
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        qkv = self.qkv(x).reshape(x.shape[0], 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(x.shape[0], 5, 16))
        return self.head(x[:, 0])


@pytest.mark.parametrize("fused", [False, True])
def test_attention(fused: bool) -> None:
    deployed = check(Attention(fused), integer=False)
    nodes = {node.kind: node for node in deployed.frozen.graph.nodes}
    assert {"matmul", "rescale", "exponential", "weighted_mean"} <= {*nodes} and "softmax" not in nodes
    weights = deployed.frozen.grid(str(nodes["exponential"].quantizer))
    assert float(weights.scale) == pytest.approx(1 / 128, rel=1e-3)
    assert (weights.zero_point, weights.lo, weights.hi) == (0, 0, 128)
    assert len(deployed.prepared.account.floats) == 2
    assert not assert_same_codes(deployed, (IMAGES,))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("length", [8, 1024, 1536])
def test_layer_norm_is_exact_in_float(length: int, affine: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, length), nn.Linear(length, 4)
            self.norm = nn.LayerNorm(length, elementwise_affine=affine)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.norm(self.first(x))))

    net = Net()
    if affine:
        net.norm.weight.data, net.norm.bias.data = noise(length, seed=1), noise(length, seed=2)
    deployed = check(net, (noise(6, 5, 6, seed=3),), integer=False)
    assert [entry.name for entry in deployed.prepared.account.floats] == ["norm"]
    kernels = list_kernels(deployed.model, optimized_graph(deployed.model), read_metadata(deployed.model))
    assert [(kernel.op, kernel.module) for kernel in kernels if not kernel.integer] == [("LayerNorm", "norm")]
    assert not assert_same_codes(deployed, (noise(64, 5, 6, seed=4),))
