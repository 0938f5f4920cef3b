"""What calibration says about layers whose bits are too few: the right layers and channels, in few lines."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from qkd_deploy import CalibrationWarning, calibrate, prepare
from qkd_deploy.calibration.diagnosis import Diagnosis

IMAGES = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def network(small: tuple[int, ...] = (1, 3), layers: int = 1) -> nn.Module:
    """Convolutions of which the channels ``small`` are a hundred times smaller than the others; channel 0 is zero."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers)]
    for convolution in convolutions:
        convolution.weight.data[list(small)] /= 100
        convolution.weight.data[0] = 0
    return nn.Sequential(*convolutions).eval()


def diagnosis(net: nn.Module, bits: str, **options: str) -> tuple[Diagnosis, list[str]]:
    prepared = prepare(net, bits, IMAGES[:1], first_last_bits=int(bits[1]), **options)  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = calibrate(prepared, [IMAGES])
    assert all(issubclass(item.category, CalibrationWarning) and item.filename == __file__ for item in caught)
    return found, [str(item.message) for item in caught]


def test_channels_that_keep_few_codes_are_named_with_the_remedy() -> None:
    found, lines = diagnosis(network(), "w8a8", weight_scales="layer")
    (layer,) = found.coarse
    assert (layer.layer, layer.channels, layer.of) == ("0", (1, 3), 4)
    assert lines == [f"0: 2 of 4 channels keep fewer than 8 codes of 127: channel 1 ({layer.codes[0]}), 3 "
                     f"({layer.codes[1]}); prepare with weight_scales='channel' (--weight-scales channel on the "
                     "command line)"]  # fmt: skip


def test_dead_channels_are_left_out_and_batch_norms_decide_which_are() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
    convolution.weight.data[1:3] *= 1e-5
    norm.weight.data[1] *= 1e5
    found, _ = diagnosis(nn.Sequential(convolution, norm).eval(), "w8a8", weight_scales="layer")
    assert [layer.channels for layer in found.coarse] == [(1,)]


def test_scales_per_channel_need_no_warning() -> None:
    assert diagnosis(network(), "w8a8") == (Diagnosis((), ()), [])


@pytest.mark.parametrize(("bits", "warns"), [("w3a8", False), ("w4a8", True)])
def test_grids_with_fewer_than_eight_codes_cannot_keep_more(bits: str, warns: bool) -> None:
    assert bool(diagnosis(network(), bits, weight_scales="layer")[0].coarse) == warns


def test_noisy_layers_are_named_the_worst_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    prepared = prepare(net, "w8a8", IMAGES[:1], overrides={"2": "w2a2"})
    with pytest.warns(CalibrationWarning, match=r"^2: -?\d+\.\d dB .* at w2a2, below 10 dB; .*--bits-for '2=w8a8'"):
        found = calibrate(prepared, [IMAGES])
    assert [layer.layer for layer in found.noisy] == ["2"]
    worse = diagnosis(net, "w2a2")[0].noisy
    assert len(worse) > 1 and [layer.decibels for layer in worse] == sorted(layer.decibels for layer in worse)


def test_the_list_is_bounded() -> None:
    _, lines = diagnosis(network(layers=12), "w8a8", weight_scales="layer")
    assert len(lines) == 9 and lines[-1] == "4 more layers with coarse channels"
    wide = nn.Sequential(nn.Conv2d(4, 40, 3)).eval()
    wide[0].weight.data[1:] /= 1000  # type: ignore[operator, union-attr]
    (line,) = diagnosis(wide, "w8a8", weight_scales="layer")[1]
    assert " and 31 more; " in line
