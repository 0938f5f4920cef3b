"""Residual networks, tensors with readers of several widths, and the placements that trade exactness or accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from deployment import assert_same_codes, deploy, noise, settle
from placement import IMAGES, check
from torch import Tensor, nn

from qkd_deploy import initialize, prepare


class Basic(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or width_in != width
        self.down = nn.Sequential(nn.Conv2d(width_in, width, 1, stride), nn.BatchNorm2d(width)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """bn -> relu -> conv, twice, around an identity; the batch norms follow no convolution of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(y)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self, *blocks: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def basic_network() -> Residual:
    return Residual(Basic(8, 8, 1), Basic(8, 12, 2), width=12)


def test_basic_blocks_with_identity_and_projection() -> None:
    deployed = check(basic_network())
    keys = ("stem", "stem/a4", "blocks/0/conv1", "blocks/0/conv2", "blocks/0/add", "blocks/1/add")
    assert [deployed.frozen.grid(key).bits for key in keys] == [8, 4, 4, 8, 4, 8]


def test_low_bit_quantizers_behind_the_residual_stream_need_no_clip() -> None:
    model = check(basic_network()).model
    clips = {n.name for n in model.graph.node if n.op_type == "Clip"}
    assert "blocks.0.conv1/Clip" in clips
    assert not any("a4" in name for name in clips)


def test_signed_residual_stream() -> None:
    """Without a ReLU behind the sum, its low-bit quantizer is signed and needs a clip."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)  # type: ignore[no-any-return]

    deployed = check(Residual(Linear(), Linear()))
    grid = deployed.frozen.grid("blocks/0/add/a4")
    assert (grid.zero_point, grid.lo, grid.hi) == (8, -8, 7)


def test_batch_norms_of_preactivation_blocks_are_layers_of_their_own() -> None:
    deployed = check(Residual(PreActivation(8), PreActivation(8)))
    names = {node.name for node in deployed.prepared.layers()}
    assert {"blocks.0.bn1", "blocks.1.bn1"} <= names
    # a batch norm behind a convolution is fused with it, wherever the block ends
    assert "blocks.0.bn2" not in names


def test_one_tensor_with_readers_of_three_widths() -> None:
    class Fan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.a(x) + self.b(x) + self.c(x))

    deployed = check(Residual(Fan()), overrides={"blocks.0.b": "w4a3", "*.c": "w2a2"})
    grids = {name: deployed.frozen.grid(name).bits for name in ("stem", "stem/a4", "stem/a3", "stem/a2")}
    assert grids == {"stem": 8, "stem/a4": 4, "stem/a3": 3, "stem/a2": 2}
    assert deployed.prepared.layer_bits["blocks.0.c"].weight == 2


def test_readers_of_different_widths_without_an_eight_bit_one() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.a(x)) + F.relu(self.b(x))

    deployed = check(Residual(Fork()), bits="w3a5", overrides={"blocks.0.b": "w3a2"})
    assert (deployed.frozen.grid("stem").bits, deployed.frozen.grid("stem/a2").bits) == (5, 2)


def test_shared_residual_uses_one_low_bit_grid() -> None:
    deployed = check(basic_network(), residual="shared")
    assert deployed.frozen.grid("blocks/0/add").bits == 4
    assert not any("requantize" in entry.operation for entry in deployed.prepared.account.entries)


def test_paper_placement_quantizes_inputs_of_layers_only() -> None:
    model = settle(basic_network())
    deployed = deploy(model, (IMAGES,), placement="paper")
    account = deployed.prepared.account
    assert {e.name for e in account.floats} >= {"stem", "blocks.0.add", "blocks.0.conv2"}
    assert "Stays in float:" in str(account)
    quantized = {name for name, entry in ((e.name, e) for e in account.entries) if entry.bits in ("4", "8")}
    assert quantized == {n.name for n in deployed.frozen.graph.nodes if n.kind in ("input", "requantize")}
    assert_same_codes(deployed, (IMAGES,))
    assert not any(n.op_type == "Clip" and n.name == "blocks.0.add/Clip" for n in deployed.model.graph.node)


def test_paper_placement_keeps_the_last_linear_layer_exact() -> None:
    """What an integer layer reads on codes is exact, whatever computes the codes."""
    deployed = deploy(settle(basic_network()), (IMAGES,), placement="paper")
    head = next(e for e in deployed.prepared.account.entries if e.name == "head")
    assert (head.kernel, head.reason) == ("QGemm", "")


def test_weights_only() -> None:
    model = settle(basic_network())
    prepared = prepare(model, "w2a32", (IMAGES,))
    initialize(prepared, IMAGES)
    assert prepared.activation_steps() == []
    assert len(prepared.weight_steps()) == 7
    assert all("weights only" in e.reason for e in prepared.account.entries if e.operation in ("conv", "linear"))
    deployed = deploy(model, (IMAGES,), "w2a32")
    assert deployed.frozen.codes(IMAGES) == {}
    assert_same_codes(deployed, (IMAGES,))
    torch.testing.assert_close(deployed.frozen(IMAGES), prepared.eval()(IMAGES), rtol=1e-4, atol=1e-5)


def test_first_and_last_layers_have_eight_bits_unless_told_otherwise() -> None:
    bits = {name: str(b) for name, b in prepare(basic_network(), "w4a4", (IMAGES,)).layer_bits.items()}
    assert bits.pop("stem") == bits.pop("head") == "w8a8"
    assert set(bits.values()) == {"w4a4"}
    lower = prepare(basic_network(), "w4a4", (IMAGES,), first_last_bits=6, overrides={"head": "w3a7"})
    assert (str(lower.layer_bits["stem"]), str(lower.layer_bits["head"])) == ("w6a6", "w3a7")


def test_the_last_matching_override_wins() -> None:
    prepared = prepare(basic_network(), "w4a4", (IMAGES,), overrides={"blocks.*": "w5a5", "blocks.1.*": "w2a3"})
    assert str(prepared.layer_bits["blocks.0.conv2"]) == "w5a5"
    assert str(prepared.layer_bits["blocks.1.down.0"]) == "w2a3"


def test_known_pixels_keep_their_grid() -> None:
    images = (noise(3, 3, 8, 8).mul(64).round().clamp(-128, 127)) / 64
    prepared = check(basic_network(), (images,), input_quantization=(1 / 64, 128)).prepared
    pixels = prepared.activation("x")
    assert pixels.scale().item() == 1 / 64 and pixels.learned() == []
