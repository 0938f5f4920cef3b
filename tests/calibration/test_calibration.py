"""``calibrate``: the same steps as ``initialize`` for one batch, close ones for the same images in many batches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import UserError, calibrate, create_model, initialize, load_dataset, prepare
from qkd_deploy.data import normalize
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.quantizers.scale_search import METHODS

DIGITS = load_dataset("digits")
IMAGES = normalize(DIGITS.train.images[:256])

pytestmark = pytest.mark.filterwarnings("ignore::qkd_deploy.CalibrationWarning")


def prepared_resnet(bits: str = "w4a4", seed: int = 0) -> PreparedModel:
    return copy.deepcopy(_prepared_resnet(bits, seed))


@functools.cache
def _prepared_resnet(bits: str, seed: int) -> PreparedModel:
    torch.manual_seed(seed)
    network = create_model("resnet8", 10, 1)
    network(IMAGES)  # batch norms get statistics of real images
    return prepare(network.eval(), bits, (IMAGES[:1],), input_quantization=(1 / 64, 128))


def scales(prepared: PreparedModel) -> Tensor:
    return torch.stack([prepared.activation(key).scale().detach() for key in prepared.activations])


def calibrated(data: Any, method: str = "mse", **options: Any) -> Tensor:
    prepared = prepared_resnet()
    calibrate(prepared, data, method=method, **{"correction": False, **options})
    return scales(prepared)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_one_batch_gives_what_initialize_gives(method: str) -> None:
    prepared = prepared_resnet()
    initialize(prepared, IMAGES, method=method)
    assert torch.equal(calibrated(IMAGES, method), scales(prepared))
    assert torch.equal(calibrated([IMAGES], method), scales(prepared))
    # the pass over all batches is no other rule than the first pass: two equal batches are one
    assert torch.equal(calibrated([IMAGES, IMAGES], method), scales(prepared))


@pytest.mark.parametrize("method", METHODS)
def test_many_batches_are_close_to_one_big_batch(method: str) -> None:
    together = calibrated(IMAGES, method)
    many = (calibrated(IMAGES.split(64), method) / together).log().abs()
    first = (calibrated(IMAGES[:64], method) / together).log().abs()
    assert many.max() < (0.25 if method == "minmax" else 0.1)  # single values decide there
    assert many.mean() < first.mean() / 2


def test_the_largest_value_of_any_batch_counts() -> None:
    """In a network without anything upstream of the tensor, minmax over batches is exact."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    batches = [IMAGES[:8], IMAGES[8:16] * 3, IMAGES[16:24]]
    steps = []
    for data in (batches, torch.cat(batches)):
        prepared = prepare(network, "w8a8", (-IMAGES[:1].abs(),), first_last_bits=8)
        calibrate(prepared, data, method="minmax")
        steps.append(scales(prepared))
    assert steps[0][0] == steps[1][0]
    assert float(steps[0][0]) * 127 == pytest.approx(float(batches[1].abs().max()), rel=0.02)


def test_batches_may_carry_labels_and_come_from_an_iterator() -> None:
    labels = torch.zeros(128)
    parts = IMAGES[:64].split(32)
    expected = calibrated(parts)
    assert torch.equal(calibrated([(part, labels) for part in parts]), expected)
    assert torch.equal(calibrated([[part, labels] for part in parts]), expected)
    assert torch.equal(calibrated(iter(parts)), expected)


def test_a_data_set_gives_evenly_spaced_training_images() -> None:
    chosen = torch.arange(150) * len(DIGITS.train) // 150
    assert len(set(DIGITS.train.labels[chosen].tolist())) == 10
    batches = normalize(DIGITS.train.images[chosen]).split(30)  # of one size
    assert torch.equal(calibrated(DIGITS, images=150), calibrated(batches))
    few = DIGITS.train.head(20)
    assert torch.equal(calibrated(few, images=10**6), calibrated(normalize(few.images)))


def test_images_of_a_data_set_are_normalised_as_the_network_takes_them() -> None:
    """Whatever the data set itself was loaded for."""
    pixels = Normalization.parse("0.3/0.25")
    chosen = DIGITS.train.images_at(torch.arange(32) * len(DIGITS.train) // 32)
    network = create_model("plaincnn", 10, 1).eval()
    from_data, from_images = (prepare(network, "w4a4", IMAGES[:1], normalization=pixels) for _ in range(2))
    calibrate(from_data, DIGITS, images=32)
    calibrate(from_images, normalize(chosen, pixels))
    assert torch.equal(scales(from_data), scales(from_images))


def test_networks_of_several_inputs_take_the_first_items() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    batches = [(IMAGES[:4], IMAGES[4:8], "labels"), (IMAGES[8:12], IMAGES[12:16], "labels")]
    prepared = prepare(Two(), "w8a8", (IMAGES[:1], IMAGES[:1]))
    calibrate(prepared, batches)
    assert (scales(prepared) != 1).all()


def test_modes_stay_and_of_the_network_only_biases_and_gains_change() -> None:
    prepared = prepared_resnet().train()
    before = {name: value.clone() for name, value in prepared.network.state_dict().items()}
    calibrate(prepared, IMAGES.split(64))
    assert prepared.training
    after = prepared.network.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert changed and all(name.endswith("bias") or "bn" in name or ".downsample.1." in name for name in changed)
    calibrate(copy.deepcopy(prepared), IMAGES.split(64), correction=False)
    assert all(torch.equal(value, after[name]) for name, value in prepared.network.state_dict().items())
    assert all(parameter.grad is None for parameter in prepared.parameters())


def test_batch_norms_are_estimated_on_request() -> None:
    prepared = prepared_resnet("w2a2")
    before = {name: value.clone() for name, value in prepared.network.state_dict().items()}
    calibrate(prepared, IMAGES.split(64), batch_norm=True, correction=False)
    after = prepared.network.state_dict()
    changed = {name.rpartition(".")[2] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    """Batches are taken one at a time: of those gone by, only the first may still be alive."""
    import weakref

    seen: list[weakref.ref[Tensor]] = []

    def stream() -> Iterator[Tensor]:
        for start in range(0, 160, 16):
            batch = IMAGES[start : start + 16].clone()
            seen.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(reference() is not None for reference in seen) <= 3

    calibrate(prepared_resnet(), stream())
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        ([], {}, "nothing to calibrate with"),
        (DIGITS, {"images": 0}, "0 images is impossible"),
        (DIGITS.train.images[:8], {}, "uint8 values; give floats"),
        ([(DIGITS.train.images[:8], DIGITS.train.labels[:8])], {}, "uint8 values; give floats"),
        (IMAGES, {"method": "entropy"}, "unknown initialisation 'entropy'"),
        (IMAGES * float("nan"), {}, "not finite"),
        ([IMAGES, IMAGES * float("nan")], {}, "not finite"),
        (iter([IMAGES]), {"batch_norm": True}, "instead of an iterator"),
        (DIGITS, {"batch_norm": True, "images": 1}, "cannot be estimated from one image"),
    ],
)
def test_mistakes(data: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        calibrate(prepared_resnet(), data, **options)
