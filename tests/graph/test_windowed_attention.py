"""Attention with position biases and masks: both products in integers, and every code the same everywhere.

The networks are small, and written as the libraries write theirs: timm adds to scores, a view per window between the
sums; Hugging Face gives ``scaled_dot_product_attention`` one mask that is repeated for every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from deployment import Deployed, assert_same_codes, deploy, finish, noise
from graph_text import parse_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from placement import check
from rewriting import assert_becomes, assert_stays
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.unary import exponential_scale
from qkd_deploy.graph.integer.offsets import with_offsets
from qkd_deploy.graph.integer.preview import preview_codes
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.passes.offsets_of_scores import offsets_of_scores
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.runtime import optimized_graph

WIDTH, HEADS, WINDOW, SIZE = 8, 2, 2, 4
IMAGES = noise(3, WIDTH, SIZE, SIZE, seed=5, scale=2.0)
WINDOWS = (SIZE // WINDOW) ** 2

Attend = Callable[["Windows", Tensor, Tensor, Tensor], Tensor]


def window_mask() -> Tensor:
    """-100 between tokens of a shifted image that were no neighbours, by window: [windows, tokens, tokens]."""
    regions = torch.tensor([0, 0, 1, 2])
    image = regions[:, None] * 3 + regions[None]
    windows = image.view(2, WINDOW, 2, WINDOW).transpose(1, 2).reshape(WINDOWS, WINDOW**2)
    apart = windows[:, None] != windows[:, :, None]
    return torch.zeros(WINDOWS, WINDOW**2, WINDOW**2).masked_fill(apart, -100.0)


class Windows(nn.Module):
    """Attention within shifted windows; ``attend`` takes queries, keys and values [windows, heads, tokens, width]."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.qkv, self.proj, self.attend = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), attend
        self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, HEADS))
        steps = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        apart = steps[:, None] - steps[None] + WINDOW - 1
        self.register_buffer("index", apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1], persistent=False)
        self.register_buffer("mask", window_mask(), persistent=False)
        self.drop, self.last = nn.Dropout(0.1), nn.Linear(WIDTH, 3)

    @property
    def bias(self) -> Tensor:
        tokens = WINDOW**2
        return self.table[self.index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        batch, tokens = x.shape[0], WINDOW**2
        x = x.view(batch, 2, WINDOW, 2, WINDOW, WIDTH).transpose(2, 3).reshape(-1, tokens, WIDTH)
        q, k, v = self.qkv(x).reshape(x.shape[0], tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.attend(self, q, k, v).transpose(1, 2).reshape(-1, tokens, WIDTH)
        y = self.proj(y).view(batch, 2, 2, WINDOW, WINDOW, WIDTH).transpose(2, 3).reshape(batch, SIZE, SIZE, WIDTH)
        return self.last(torch.roll(y, (1, 1), (1, 2)))  # type: ignore[no-any-return]


def as_timm(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens = q.shape[2]
    scores = (q * 0.5) @ k.transpose(-2, -1) + net.bias
    scores = scores.view(-1, WINDOWS, HEADS, tokens, tokens) + net.mask.unsqueeze(1).unsqueeze(0)
    return net.drop(scores.view(-1, HEADS, tokens, tokens).softmax(-1)) @ v


def as_hugging_face(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens, images = q.shape[2], q.shape[0] // WINDOWS
    mask = net.mask.unsqueeze(1).unsqueeze(0).expand(images, -1, -1, -1, -1).reshape(-1, 1, tokens, tokens)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=net.bias + mask, scale=0.5)


def as_timm_fused(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens = q.shape[2]
    mask = net.mask.view(1, WINDOWS, 1, tokens, tokens).expand(q.shape[0] // WINDOWS, -1, HEADS, -1, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=net.bias + mask.reshape(-1, HEADS, tokens, tokens))


def with_bias(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, net.bias)


def with_booleans(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, net.mask[1] == 0)


def causal(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


WAYS: dict[str, tuple[Attend, int]] = {
    "timm": (as_timm, 2),
    "timm, fused": (as_timm_fused, 2),
    "Hugging Face": (as_hugging_face, 2),
    "a bias": (with_bias, 1),
    "a mask of booleans": (with_booleans, 1),
    "a causal mask": (causal, 1),
}
"""Ways to write attention, with the number of offsets."""


def exponential_of(prepared: PreparedModel) -> Node:
    return next(node for node in prepared.graph.nodes if node.kind == "exponential")


@pytest.mark.parametrize(("way", "bits"), [(way, bits) for way, bits in zip(WAYS, ["w8a8", "w4a4"] * 3, strict=True)])
def test_every_code_is_equal_and_products_are_integer(way: str, bits: str) -> None:
    attend, offsets = WAYS[way]
    deployed = check(Windows(attend), (IMAGES,), bits, integer=False)
    assert len(exponential_of(deployed.prepared).args) == 1 + offsets
    assert {entry.operation for entry in deployed.prepared.account.floats} == {"exponential", "weighted_mean"}
    kernels = list_kernels(deployed.model, optimized_graph(deployed.model), read_metadata(deployed.model))
    assert {kernel.op for kernel in kernels if not kernel.integer} == {"Exp", "Div"}
    assert all("every CPU" in kernel.reason for kernel in kernels if not kernel.integer)
    assert not assert_same_codes(deployed, (noise(5, WIDTH, SIZE, SIZE, seed=8),), threads=2)


@pytest.fixture(scope="module")
def deployed() -> Deployed:
    return deploy(Windows(as_hugging_face).eval(), (IMAGES,), "w8a8")


def test_codes_are_those_of_the_formula(deployed: Deployed) -> None:
    """Offsets are rounded to steps of the scores; nothing else is, in front of the exponentials."""
    frozen, node = deployed.frozen, exponential_of(deployed.prepared)
    codes = frozen.codes(IMAGES)
    scores = codes["scaled_dot_product_attention.scores"].astype(int).reshape(-1, WINDOWS, HEADS, 4, 4)
    step, grid = np.float32(frozen.grid(str(node.source)).scale), frozen.grid(str(node.quantizer))
    network = deployed.prepared.network
    for offset in (network.bias, network.mask.unsqueeze(1)):
        scores = scores + np.rint(offset.detach().numpy() / step).astype(int)
    below = (scores - scores.max(-1, keepdims=True)).astype(np.float32) * step
    expected = np.rint(np.exp(below.astype(np.float64)) / float(grid.scale)).astype(int)
    np.testing.assert_array_equal(codes[node.name], expected)
    masked = np.broadcast_to(network.mask.unsqueeze(1).numpy() < 0, expected.shape)
    assert masked.any() and not expected[masked].any() and expected[~masked].any()


def test_masks_cost_the_scores_nothing(deployed: Deployed) -> None:
    """Scores have all codes of their grid for themselves, whatever is added to them."""
    network = Windows(as_hugging_face).eval()
    with torch.no_grad():
        expected, got = network(IMAGES), deployed.prepared(IMAGES)
    assert float((got - expected).norm() / expected.norm()) < 0.03
    used = len(np.unique(deployed.frozen.codes(IMAGES)["scaled_dot_product_attention.scores"]))
    assert used > 100


def test_the_prepared_model_and_the_frozen_one_agree(deployed: Deployed) -> None:
    frozen = qkd.freeze(deployed.prepared)
    for name, preview, made in preview_codes(deployed.prepared, frozen, IMAGES):
        np.testing.assert_array_equal(preview, made, err_msg=name)


def test_gradients_pass_the_rounding_of_offsets() -> None:
    network = Windows(as_hugging_face)
    prepared = qkd.prepare(network.eval(), "w8a8", IMAGES)
    qkd.initialize(prepared, IMAGES)
    for model in (network, prepared):
        model(IMAGES).square().sum().backward()
    own, expected = prepared.network.table.grad, network.table.grad
    assert own is not None and expected is not None
    assert float((own - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize("way", ["timm", "Hugging Face"])
def test_files_are_verified_at_every_batch(way: str, tmp_path: Path) -> None:
    model = qkd.prepare(Windows(WAYS[way][0]).eval(), "w4a4", IMAGES)
    qkd.initialize(model, IMAGES)
    qkd.export_onnx(model, tmp_path / "m.onnx")
    for images in (1, 4):
        inputs = noise(images, WIDTH, SIZE, SIZE, seed=images).numpy()
        report = qkd.verify_onnx(tmp_path / "m.onnx", inputs=inputs, frozen=qkd.freeze(model))
        assert report.passed, report.verdict


def test_offsets_are_whole_numbers_in_the_file(deployed: Deployed) -> None:
    """A bias of all windows and a mask of all heads are stored apart, and added once, when the file is loaded."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in deployed.model.graph.initializer}
    offsets = {name: value for name, value in constants.items() if ".offset_" in name}
    assert sorted((value.dtype.name, value.shape) for value in offsets.values()) == [
        ("int32", (1, HEADS, 4, 4)),
        ("int32", (WINDOWS, 1, 4, 4)),
    ]
    assert not any("table" in name for name in constants)
    adds = [node for node in optimized_graph(deployed.model).graph.node if node.op_type == "Add"]
    assert len(adds) == 1


def test_the_float_form_adds_them_to_the_scores(deployed: Deployed) -> None:
    session = onnxruntime.InferenceSession(build_float_model(deployed.prepared).SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    expected = Windows(as_hugging_face).eval()(IMAGES).detach().numpy()
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.03


def from_the_input(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(q - k).mean(-1, keepdim=True))


def by_image(net: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    numbers = torch.arange(4.0).view(1, 4, 1, 1).expand(q.shape[0] // WINDOWS, 4, 4, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=numbers.transpose(0, 1).reshape(-1, 1, 4, 4))


def test_masks_of_the_inputs_stay_in_float() -> None:
    account = qkd.prepare(Windows(from_the_input).eval(), "w8a8", IMAGES).account
    (entry,) = account.floats
    assert entry.operation == "scaled_dot_product_attention" and entry.reason.startswith("attention with a mask of")


def test_what_differs_between_images_is_added_on_its_own_grid() -> None:
    """A mask that is repeated in another order than the windows lie is none of a single image."""
    prepared = qkd.prepare(Windows(by_image).eval(), "w8a8", IMAGES)
    assert len(exponential_of(prepared).args) == 1
    assert any(node.name.endswith(".masked") and node.kind == "add" for node in prepared.graph.nodes)


@given(st.floats(1e-3, 0.5), st.integers(0, 400), st.booleans())
@settings(max_examples=50, deadline=None)
def test_exponentials_of_sums_keep_away_from_ties(step: float, spread: int, masked: bool) -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.tensor([[0.0, -spread * step, -1e4 if masked else 0.0]]))

    graph = parse_graph("""
        %x: f32[2?, 3, 3] = input()
        %table: f32[1, 3] = constant() {target='table'}
        %weights: f32[2?, 3, 3] = exponential(%x, %table)
        return %weights
        """)
    prepared = SimpleNamespace(network=Biased(), graph=graph)
    scores = CodeRange(float(np.float32(step)), 128, -128, 127)
    (widened,) = with_offsets(prepared, graph.node("weights"), [scores])  # type: ignore[arg-type]
    felt = spread <= 255 + np.ceil(6 / scores.scale)
    assert widened == replace(scores, lo=-128 - (spread if felt else 0))
    scale = exponential_scale(widened, CodeRange(2.0**-7, 0, 0, 128), "weights")
    below = np.arange(widened.lo - widened.hi, 1, dtype=np.float32) * np.float32(scores.scale)
    steps = np.exp(below.astype(np.float64)) / scale
    assert (np.abs(steps - np.floor(steps) - 0.5) * scale)[steps > 0.4].min() > 1e-6


@pytest.mark.parametrize("step", [2.0**-9, 2.0**-10, 1.1 * 2.0**-12, 2.0**-15, 2.0**-21, 1e-11])
def test_scores_of_very_fine_steps_are_halved(step: float) -> None:
    """Heads that attend by position alone have scores that differ by less than any weight tells."""
    prepared = qkd.prepare(Windows(as_timm).eval(), "w8a8", IMAGES)
    qkd.initialize(prepared, IMAGES)
    quantizer = prepared.activation(str(exponential_of(prepared).source))
    quantizer.set_scale(step)
    deployed = finish(prepared)
    assert not assert_same_codes(deployed, (IMAGES,))
    for name, preview, made in preview_codes(prepared, deployed.frozen, IMAGES):
        np.testing.assert_array_equal(preview, made, err_msg=name)
    shares = deployed.frozen.codes(IMAGES)[exponential_of(prepared).name]
    assert shares.min() == 0 and len(np.unique(shares)) > 10
    divided = [node for node in deployed.model.graph.node if node.output[0].endswith("softmax.halved")]
    assert bool(divided) == (step < 2.0**-10)


def test_an_addition_in_front_of_a_view_becomes_an_offset() -> None:
    assert_becomes(
        offsets_of_scores,
        """
        %x: f32[8?, 2, 3, 3] = input()
        %v: f32[8?, 2, 3, 5] = input()
        %bias: f32[1, 2, 3, 3] = constant()
        %mask: f32[1, 4, 1, 3, 3] = constant()
        %add: f32[8?, 2, 3, 3] = add(%x, %bias)
        %view: f32[2?, 4, 2, 3, 3] = reshape(%add, (-1, 4, 2, 3, 3))
        %add_2: f32[2?, 4, 2, 3, 3] = add(%view, %mask)
        %view_2: f32[8?, 2, 3, 3] = reshape(%add_2, (-1, 2, 3, 3))
        %softmax: f32[8?, 2, 3, 3] = exponential(%view_2) {clip=(0.0, 1.0)}
        %mean: f32[8?, 2, 3, 5] = weighted_mean(%softmax, %v, %softmax)
        return %mean
        """,
        """
        %x: f32[8?, 2, 3, 3] = input()
        %v: f32[8?, 2, 3, 5] = input()
        %bias: f32[1, 2, 3, 3] = constant()
        %mask: f32[1, 4, 1, 3, 3] = constant()
        %view: f32[2?, 4, 2, 3, 3] = reshape(%x, (-1, 4, 2, 3, 3))
        %softmax: f32[2?, 4, 2, 3, 3] = exponential(%view, %mask, %bias) {clip=(0.0, 1.0)}
        %view_2: f32[8?, 2, 3, 3] = reshape(%softmax, (-1, 2, 3, 3))
        %mean: f32[8?, 2, 3, 5] = weighted_mean(%view_2, %v, %view_2)
        return %mean
        """,
    )


@pytest.mark.parametrize(
    "scores",
    [
        "add(%x, %y)",  # no constant
        "add(%x, %bias) {clip=(0.0, inf)}",
        "mul(%x, %bias)",
        "reshape(%x, (-1, 2, 3, 3))",
    ],
)
def test_other_scores_stay(scores: str) -> None:
    assert_stays(
        offsets_of_scores,
        f"""
        %x: f32[8?, 2, 3, 3] = input()
        %y: f32[8?, 2, 3, 3] = input()
        %bias: f32[1, 2, 3, 3] = constant()
        %scores: f32[8?, 2, 3, 3] = {scores}
        %softmax: f32[8?, 2, 3, 3] = exponential(%scores)
        %mean: f32[8?, 2, 3, 3] = weighted_mean(%softmax, %y, %softmax)
        %unread: f32[8?, 2, 3, 3] = add(%mean, %bias)
        return %unread
        """,
    )
