"""What a normalisation is, how it is written, and that all its forms compute the same."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from qkd_deploy import UserError, prepare
from qkd_deploy.data import normalize
from qkd_deploy.pixels.arrays import normalized, pixels_of
from qkd_deploy.pixels.normalization import CENTERED, PRESETS, Normalization
from qkd_deploy.pixels.preprocessing import Preprocessing, expected_by

IMAGENET = PRESETS["imagenet"]
PIXELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_written_by_its_name_and_by_its_numbers(name: str) -> None:
    assert str(Normalization.parse(name)) == name
    assert Normalization.of_entry(PRESETS[name].as_entry()) == PRESETS[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.485,0.456,0.406/0.229,0.224,0.225", IMAGENET),
        ("0.5/0.5", PRESETS["half"]),
        ("128/64", CENTERED),
        ("127/128", Normalization((127.0,), (128.0,), 1.0)),
        ("0.5,0.4,0.3/0.25", Normalization((0.5, 0.4, 0.3), (0.25,))),
        ("0/1", Normalization((0.0,), (1.0,))),
    ],
)
def test_numbers(text: str, expected: Normalization) -> None:
    assert Normalization.parse(text) == expected
    assert Normalization.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("", "give one of imagenet, half"),
        ("0.5", "MEANS/DEVIATIONS"),
        ("0.5/0.5/0.5", "MEANS/DEVIATIONS"),
        ("0.5/a", "MEANS/DEVIATIONS"),
        ("0.5/0", "deviations above 0"),
        ("0.5/-0.1", "deviations above 0"),
        ("nan/0.5", "means must be finite"),
        ("0.5,0.4/0.1,0.2,0.3", "as many means as deviations"),
        ("-0.1/0.5", "outside of the pixels, 0 to 1"),
        ("300/64", "outside of the pixels, 0 to 255"),
    ],
)
def test_what_is_no_normalization(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Normalization.parse(text)


@pytest.mark.parametrize("name", PRESETS)
def test_floats_are_those_of_torchvision_to_the_bit(name: str) -> None:
    """``ToTensor`` divides by 255; ``Normalize`` subtracts and divides by float32 tensors."""
    known = PRESETS[name].for_channels(3)
    theirs = PIXELS.float().div(known.divisor)
    for channel, (mean, std) in enumerate(zip(known.mean, known.std, strict=True)):
        theirs[:, channel].sub_(torch.tensor(mean)).div_(torch.tensor(std))
    assert torch.equal(normalize(PIXELS, known), theirs)
    assert np.array_equal(normalized(PIXELS.numpy(), known), theirs.numpy())
    assert np.array_equal(pixels_of(theirs.numpy(), known), PIXELS.numpy())


@pytest.mark.parametrize("name", PRESETS)
def test_gain_and_offset_give_what_the_network_takes_of_the_grid(name: str) -> None:
    gain, offset = (torch.tensor(values).view(-1, 1, 1) for values in PRESETS[name].affine)
    torch.testing.assert_close(gain * normalize(PIXELS) + offset, normalize(PIXELS, PRESETS[name]))


@pytest.mark.parametrize(
    ("text", "zeros"),
    [
        ("imagenet", (124, 116, 104)),
        ("cifar10", (125, 123, 114)),
        ("half", (128,)),  # 127.5, half to even
        ("centered", (128,)),
        ("127/128", (127,)),
        ("126.5/128", (126,)),
    ],
)
def test_zero_is_the_nearest_pixel(text: str, zeros: tuple[int, ...]) -> None:
    assert Normalization.parse(text).zero_pixels == zeros


def test_three_channels_are_not_one() -> None:
    with pytest.raises(UserError, match="for 3 channels, but the images have 1"):
        IMAGENET.for_channels(1)


# -- what timm's networks say ------------------------------------------------------------------------------------------

SAID = {"mean": IMAGENET.mean, "std": IMAGENET.std, "interpolation": "bicubic", "crop_pct": 0.95}


@pytest.mark.parametrize("kind", [dict, lambda **said: SimpleNamespace(**said)])
@pytest.mark.parametrize("name", ["pretrained_cfg", "default_cfg"])
def test_networks_say_what_they_expect(kind: type, name: str) -> None:
    network = nn.Identity()
    setattr(network, name, kind(**SAID))
    assert expected_by(network) == Preprocessing(IMAGENET, "bicubic", 0.95)


@pytest.mark.parametrize("said", [None, {}, {"mean": "?", "std": 3, "interpolation": "lanczos", "crop_pct": "all"}])
def test_what_is_not_understood_says_nothing(said: object) -> None:
    network = nn.Identity()
    network.pretrained_cfg = said
    assert expected_by(network) == Preprocessing()
    assert expected_by(nn.Identity()) == Preprocessing()


def test_prepare_refuses_colours_for_grey_images() -> None:
    network, images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), torch.randn(2, 1, 8, 8)
    with pytest.raises(UserError, match="for 3 channels, but the images have 1; give one mean and one deviation"):
        prepare(network, "w8a8", (images,), normalization="imagenet")
    assert prepare(network, "w8a8", (images,), normalization="0.5/0.5").settings.normalization is not None
