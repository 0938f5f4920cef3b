"""Networks take pixels as they always did, and their codes are the pixels: gains, offsets and borders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish, settle
from graph_text import parse_graph
from onnxruntime import InferenceSession
from rewriting import assert_stays
from torch import Tensor, nn

from qkd_deploy import UserError, export_onnx, freeze, initialize, prepare
from qkd_deploy.data import normalize
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.passes import PassContext
from qkd_deploy.graph.passes.fold_normalization import fold_normalization
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import PRESETS, Normalization
from qkd_deploy.verification.verify import verify_onnx

UNEVEN = "0.4,0.5,0.6/0.05,0.25,0.9"


def pixels(channels: int = 3, size: int = 12, count: int = 8) -> Tensor:
    """Images with every value of a pixel, uint8 [N, C, size, size]."""
    count *= 1 if count * channels * size * size >= 256 else 8
    values = torch.randperm(count * channels * size * size, generator=torch.Generator().manual_seed(5)) % 256
    return values.view(count, channels, size, size).to(torch.uint8)


class Small(nn.Module):
    """A first part that a test chooses, and two convolutions behind it."""

    def __init__(self, first: nn.Module, channels: int = 3) -> None:
        super().__init__()
        self.first, self.norm = first, nn.BatchNorm2d(16)
        self.inner, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(F.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """A linear layer on patches of four by four pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 48)
        return self.embed(x).transpose(1, 2).reshape(n, 16, h // 4, w // 4)  # type: ignore[no-any-return]


class BackToFront(nn.Module):
    """Channels the other way round, on a border of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x[:, [2, 1, 0]], (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Two layers that read the same image, one of them every second pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.Conv2d(3, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) + self.narrow(x[:, :, ::2, ::2])  # type: ignore[no-any-return]


FIRST: dict[str, Callable[[], nn.Module]] = {
    "padded": lambda: nn.Conv2d(3, 16, 3, padding=1),
    "strided": lambda: nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False),
    "same": lambda: nn.Conv2d(3, 16, 4, padding="same", bias=False),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 16, 3)),
    "zero padded": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 16, 3, padding=1)),
    "a group": lambda: nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(12, 16, 1)),
    "back to front": BackToFront,
    "patches": Patches,
    "branches": Branches,
}


def ready(
    first: nn.Module, normalization: str, bits: str = "w8a8", channels: int = 3
) -> tuple[nn.Module, PreparedModel]:
    """A network with statistics of normalised pixels, and its prepared form."""
    torch.manual_seed(3)
    network, images = Small(first), normalize(pixels(channels), Normalization.parse(normalization))
    with torch.no_grad():
        network.train()(images)
    prepared = prepare(network.eval(), bits, (images[:2],), normalization=normalization)
    initialize(prepared, images)
    return network, prepared.eval()


@pytest.mark.parametrize("name", FIRST)
def test_at_eight_bits_the_network_computes_what_it_did(name: str) -> None:
    torch.manual_seed(1)
    network, prepared = ready(FIRST[name](), "imagenet")
    images = normalize(pixels(), PRESETS["imagenet"])
    with torch.no_grad():
        wanted, found = network(images), prepared(images)
    assert float((found - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


@pytest.mark.parametrize("name", FIRST)
def test_codes_of_pixels_and_of_floats_are_equal(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, prepared = ready(FIRST[name](), "imagenet", "w4a4")
    check_exact(prepared, "imagenet", 3, tmp_path)


@pytest.mark.parametrize("normalization", ["imagenet", "half", "cifar10", "127/128"])
@pytest.mark.parametrize("bits", ["w8a8", "w2a2"])
def test_codes_are_exact_for_every_normalization_and_width(normalization: str, bits: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, prepared = ready(nn.Conv2d(3, 16, 3, padding=1), normalization, bits)
    check_exact(prepared, normalization, 3, tmp_path)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a2"])
def test_grey_images_have_one_normalization(bits: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, prepared = ready(nn.Conv2d(1, 16, 3, padding=1), "0.3/0.25", bits, channels=1)
    check_exact(prepared, "0.3/0.25", 1, tmp_path)


def check_exact(prepared: PreparedModel, normalization: str, channels: int, folder: Path) -> None:
    """The codes of the input are the pixels, and all codes are equal in frozen model, reference and ONNX Runtime."""
    frozen, raw = freeze(prepared), pixels(channels)
    images = normalize(raw, Normalization.parse(normalization))
    (name,) = prepared.graph.inputs
    assert np.array_equal(frozen.codes(images)[name], raw.numpy())
    outputs = []
    for form in ("float32", "uint8"):
        path = folder / f"{form}.onnx"
        export_onnx(prepared, path, input=form)
        report = verify_onnx(path, frozen=frozen, prepared=prepared, inputs=raw.numpy())
        assert report.passed, report.verdict
        assert report.differing_codes == 0 < report.compared_codes
        assert {kernel.op for kernel in report.float_ops} == ({"Sub", "Div"} if form == "float32" else set())
        given = images if form == "float32" else raw
        outputs.append(InferenceSession(path).run(None, {name: given.numpy()})[0])
    assert np.array_equal(*outputs)
    assert np.array_equal(outputs[0], frozen(images).numpy())


# -- what stays --------------------------------------------------------------------------------------------------------


class Reads(nn.Module):
    """Something else than a layer reads the image."""

    def __init__(self, how: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 16, 3, padding=1), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.conv, x)


OTHERS: dict[str, tuple[Callable[[nn.Conv2d, Tensor], Tensor], str]] = {
    "pooled": (lambda conv, x: conv(F.avg_pool2d(x, 2)), "avg_pool2d reads the normalised image"),
    "added": (lambda conv, x: conv(x) + x.mean((1, 2, 3), keepdim=True), "mean reads the normalised image"),
    "called twice": (lambda conv, x: conv(conv(x)[:, :3].relu()), "first.conv reads other tensors, too"),
    "mixed": (lambda conv, x: conv(x.flip(1) * 0 + x), "reads the normalised image"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_image_that_others_read_keeps_a_learned_scale(name: str) -> None:
    how, reason = OTHERS[name]
    torch.manual_seed(1)
    network, prepared = ready(Reads(how), "imagenet")
    (remark,) = prepared.account.remarks
    assert reason in remark
    assert reason in str(prepared.account)
    images = normalize(pixels(), PRESETS["imagenet"])
    with torch.no_grad():
        wanted, found = network(images), prepared(images)
    assert float((found - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
    assert_same_codes(finish(prepared), (images,))
    with pytest.raises(UserError, match="--input uint8 needs a model whose 8-bit input codes are the raw pixels"):
        build_model(prepared, input="uint8")


def test_parameters_stay_where_the_user_put_them() -> None:
    torch.manual_seed(1)
    network, prepared = ready(nn.Conv2d(3, 16, 3, padding=1), "imagenet")
    own = prepared.network.state_dict()
    assert own.keys() == network.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert prepared.network.get_submodule("first").padding == (0, 0)  # the border is a node of its own
    assert network.get_submodule("first").padding == (1, 1)


def test_training_follows_the_folded_weights() -> None:
    """A step of training moves the user's own weights, by a gradient that is that of the float network."""
    torch.manual_seed(1)
    network, prepared = ready(nn.Conv2d(3, 16, 3), UNEVEN)
    images = normalize(pixels(), Normalization.parse(UNEVEN))
    gradients = []
    for model in (network, prepared):
        model.train()(images).square().sum().backward()
        weight = (model if model is network else prepared.network).get_parameter("first.weight")
        assert weight.grad is not None
        gradients.append(weight.grad.flatten())
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.9


@pytest.mark.parametrize("options", [{"bits": "w4a32"}, {"bits": "w4a4", "placement": "paper"}])
def test_other_placements_read_normalised_images(options: dict[str, str]) -> None:
    torch.manual_seed(1)
    network = settle(Small(nn.Conv2d(3, 16, 3, padding=1)))
    images = normalize(pixels(), PRESETS["imagenet"])
    given = prepare(network, example_inputs=(images[:2],), normalization="imagenet", **options)  # type: ignore[arg-type]
    plain = prepare(network, example_inputs=(images[:2],), **options)  # type: ignore[arg-type]
    for prepared in (given, plain):
        initialize(prepared, images)
    assert torch.equal(given(images), plain(images))


# -- the graph ---------------------------------------------------------------------------------------------------------


def test_graph() -> None:
    """A border of the mean pixel's distance to 128 in front of a convolution, and a gain and an offset at it."""
    model = nn.Module()
    model.add_module("conv", nn.Conv2d(3, 4, 3, padding=1))
    before = """
        %x: f32[2b, 3, 8, 8] = input()
        %y: f32[2b, 4, 8, 8] = conv(%x) {target='conv', label='conv'}
        return %y
    """
    graph = parse_graph(before)
    normalization = PRESETS["imagenet"]
    fold_normalization(PassContext(model, graph, lambda model, graph: {}, lambda graph: [], normalization))
    image, border, conv = graph.nodes
    assert (border.kind, border.sizes) == ("border", (2, 3, 10, 10))
    assert border.kwargs["values"] == tuple((pixel - 128) / 64 for pixel in (124, 116, 104))
    assert image.kwargs and conv.gain and conv.offset


def test_without_another_normalization_nothing_changes() -> None:
    graph = """
        %x: f32[2b, 3, 8, 8] = input()
        %y: f32[2b, 4, 8, 8] = conv(%x) {target='conv', label='conv'}
        return %y
    """
    assert_stays(fold_normalization, graph)
