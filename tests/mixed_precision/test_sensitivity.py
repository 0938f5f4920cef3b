"""``sensitivity``: the losses are those of networks in which one layer was really replaced by a rounded one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import UserError, create_model, load_dataset, prepare
from qkd_deploy.bits import TensorSpec
from qkd_deploy.data import normalize
from qkd_deploy.mixed_precision.sensitivity import CROSS_ENTROPY, OUTPUT_CHANGE, sensitivity
from qkd_deploy.quantizers.scale_search import initial_scale

DIGITS = load_dataset("digits")
IMAGES, LABELS = normalize(DIGITS.train.images[:96]), DIGITS.train.labels[:96]


class Twice(nn.Module):
    """A shared layer, a residual, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.shared, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.shared(F.relu(self.shared(x))) + x)
        return self.head(x.mean((2, 3))), x


def network(kind: str = "plaincnn") -> nn.Module:
    torch.manual_seed(3)
    made: nn.Module = Twice() if kind == "twice" else create_model(kind, 10, 1)
    made(IMAGES)  # batch norms get statistics of real images
    return made.eval()


def rounded(v: Tensor, spec: TensorSpec) -> Tensor:
    step = initial_scale(v, spec, "mse")
    return (v / step).round().clamp(spec.lo, spec.hi) * step


def replaced(model: nn.Module, name: str, weight_bits: int, activation_bits: int) -> nn.Module:
    """A copy in which one layer rounds its weights, and its input on the grid of all images."""
    found = copy.deepcopy(model)
    layer: Any = found.get_submodule(name)
    layer.weight.data = rounded(layer.weight.data, TensorSpec.weight(weight_bits))

    def round_input(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return rounded(args[0], TensorSpec.activation(activation_bits, signed=bool(args[0].min() < 0)))

    layer.register_forward_pre_hook(round_input)
    return found


@pytest.mark.parametrize("bits", ["w2a3", "w4a4", "w8a8"])
@torch.no_grad()
def test_losses_are_those_of_networks_with_one_layer_replaced(bits: str) -> None:
    model = network()
    found = sensitivity(model, [(IMAGES, LABELS)], bits)
    before = float(F.cross_entropy(model(IMAGES).double(), LABELS))
    assert (found.measure, found.images) == (CROSS_ENTROPY, 96)
    assert found.baseline == pytest.approx(before, rel=1e-6)
    with_weights = {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert {layer.module for layer in found.layers} == with_weights
    assert [layer.loss for layer in found.layers] == sorted((layer.loss for layer in found.layers), reverse=True)
    for layer in found.layers:
        other = replaced(model, layer.module, int(bits[1]), int(bits[3]))
        after = float(F.cross_entropy(other(IMAGES).double(), LABELS))
        assert layer.loss == pytest.approx(after - before, rel=1e-3, abs=1e-6), layer.module


@torch.no_grad()
def test_without_labels_outputs_are_compared_also_several_and_of_shared_layers() -> None:
    model = network("twice")
    found = sensitivity(model, IMAGES, "w3a8")
    assert (found.measure, found.baseline) == (OUTPUT_CHANGE, 0.0)
    assert sorted(layer.module for layer in found.layers) == ["head", "shared", "stem"]
    before = [output.flatten(1) for output in model(IMAGES)]
    for layer in found.layers:
        if layer.module != "shared":  # its two inputs have a step each, of which the other way knows one at a time
            after = [output.flatten(1) for output in replaced(model, layer.module, 3, 8)(IMAGES)]
            changes = (
                (a - b).square().sum(1).div(b.square().sum(1)).mean() for a, b in zip(after, before, strict=True)
            )
            assert layer.loss == pytest.approx(float(sum(changes)), rel=1e-3)
    shared = next(layer for layer in found.layers if layer.module == "shared")
    assert shared.macs == 2 * 64 * 6 * 6 * 9 and shared.parameters == 6 * 6 * 9 + 6 and shared.bytes == 162
    assert shared.loss > 0


def test_batches_and_data_sets_and_prepared_models_say_the_same() -> None:
    model = network()
    whole = sensitivity(model, [(IMAGES, LABELS)], "w4a4")
    parts = sensitivity(model, iter([(IMAGES[:40], LABELS[:40]), (IMAGES[40:], LABELS[40:])]), "w4a4")
    prepared = prepare(model, "w2a2", (IMAGES,))
    of_prepared = sensitivity(prepared.train(), [(IMAGES, LABELS)], "w4a4")
    assert prepared.training
    for other in (parts, of_prepared):
        assert {layer.module: layer.loss for layer in other.layers} == pytest.approx(
            {layer.module: layer.loss for layer in whole.layers}, rel=1e-4, abs=1e-6
        )
    of_set = sensitivity(model, DIGITS, ["w8a8", "w4a4"], images=70)
    assert (of_set.measure, of_set.images, len(of_set.layers)) == (CROSS_ENTROPY, 70, 2 * len(whole.layers))


def test_fewer_bits_cost_more_and_save_more() -> None:
    found = sensitivity(network(), IMAGES, ["w8a8", "w4a4", "w2a2"])
    sums = {bits: sum(layer.loss for layer in found.layers if layer.bits == bits) for bits in ("w8a8", "w4a4", "w2a2")}
    assert 0 < sums["w8a8"] < sums["w4a4"] < sums["w2a2"]
    saved = {bits: sum(layer.saved for layer in found.layers if layer.bits == bits) for bits in sums}
    weights = sum(layer.bytes for layer in found.layers if layer.bits == "w8a8")
    assert saved == {"w8a8": 0, "w4a4": weights // 2, "w2a2": weights * 3 // 4}


def test_the_pixels_of_a_raw_input_are_already_codes() -> None:
    prepared = prepare(network(), "w8a8", (IMAGES,), input_quantization=(1 / 64, 128))
    prepared.network.get_submodule("features.0").weight.data.round_()  # type: ignore[union-attr, operator]
    (first,) = (layer for layer in sensitivity(prepared, IMAGES, "w8a8").layers if layer.module == "features.0")
    assert first.loss < 1e-9  # neither weights nor pixels move


@pytest.mark.parametrize(
    ("data", "bits", "images", "complaint", "instead"),
    [
        ([], "w4a4", 5, "nothing to measure with; give at least one batch", ([IMAGES], "w4a4", 5)),
        (DIGITS, "w4a4", 0, "on 0 images is impossible; give 1 or more", (DIGITS, "w4a4", 1)),
        (DIGITS, "w9a9", 5, "out of range: .*; did you mean 'w8a8'?", (DIGITS, "w8a8", 5)),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_way_out(
    data: Any, bits: str, images: int, complaint: str, instead: tuple[Any, str, int]
) -> None:
    with pytest.raises(UserError, match=complaint):
        sensitivity(network(), data, bits, images=images)
    assert sensitivity(network(), *instead[:2], images=instead[2]).layers


def test_labels_of_other_classes_are_refused() -> None:
    """A network of three classes cannot be measured on the labels of ten."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    with pytest.raises(UserError, match=r"3 classes apart, .* labels 0\.\.9; measure on images of its own classes"):
        sensitivity(model, [(IMAGES, LABELS)])
    own = sensitivity(model, [(IMAGES[LABELS < 3], LABELS[LABELS < 3])])
    assert own.measure == CROSS_ENTROPY and sensitivity(model, [IMAGES]).measure == OUTPUT_CHANGE
