"""``reconstruct`` brings a coarse network back to its full precision, on images alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from digits_networks import resnet8_of_two_epochs
from torch import Tensor, nn

from qkd_deploy import UserError, calibrate, create_model, freeze, initialize, load_dataset, prepare, reconstruct
from qkd_deploy.calibration import reconstruct as module
from qkd_deploy.data import normalize
from qkd_deploy.graph.prepared import PreparedModel

DIGITS = load_dataset("digits")
TEST = normalize(DIGITS.test.images)


@functools.cache
def network() -> nn.Module:
    return resnet8_of_two_epochs()


def calibrated(bits: str, **options: Any) -> PreparedModel:
    prepared = prepare(network(), bits, (TEST[:1],), input_quantization=(1 / 64, 128), **options)
    calibrate(prepared, DIGITS, images=256)
    return prepared.eval()


@torch.no_grad()
def agreement(prepared: PreparedModel) -> float:
    """Percent of test images on which the integer model decides like the network in full precision."""
    return 100 * float((freeze(prepared)(TEST).argmax(1) == network()(TEST).argmax(1)).float().mean())


def state(prepared: PreparedModel) -> list[Tensor]:
    return list(prepared.state_dict().values())


@pytest.mark.parametrize(("bits", "points"), [("w2a8", 4), ("w2a2", 5)])
def test_agreement_rises(bits: str, points: float) -> None:
    prepared = calibrated(bits)
    before, scales = agreement(prepared), [step.clone() for step in prepared.weight_steps()]
    reconstruct(prepared, network(), DIGITS, images=256)
    assert agreement(prepared) >= before + points, (before, agreement(prepared))
    assert all(torch.equal(a, b) for a, b in zip(scales, prepared.weight_steps(), strict=True))


def test_weights_are_codes_times_scales_and_the_network_in_full_precision_is_left_alone() -> None:
    before = [tensor.clone() for tensor in network().state_dict().values()]
    prepared = calibrated("w3a3")
    reconstruct(prepared, network(), DIGITS, images=64)
    for node in prepared.layers():
        weight = prepared.network.get_submodule(str(node.target)).weight
        assert isinstance(weight, Tensor)
        torch.testing.assert_close(prepared.weight(node)(weight), weight, rtol=1e-6, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(before, network().state_dict().values(), strict=True))


def test_the_seed_decides_and_labels_do_not() -> None:
    unlabelled = replace(DIGITS.train, labels=torch.full_like(DIGITS.train.labels, -1))
    results = []
    for data, seed in ((DIGITS, 0), (unlabelled, 0), (DIGITS, 1)):
        prepared = calibrated("w4a4")
        reconstruct(prepared, network(), data, images=512, seed=seed)
        results.append(state(prepared))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_a_second_time_begins_with_full_precision_again() -> None:
    prepared = calibrated("w4a4")
    reconstruct(prepared, network(), DIGITS, images=64)
    once = [tensor.clone() for tensor in state(prepared)]
    reconstruct(prepared, network(), DIGITS, images=64)
    assert all(torch.equal(a, b) for a, b in zip(once, state(prepared), strict=True))


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, lines = calibrated("w4a4"), list[str]()
    monkeypatch.setattr(module, "_VALUES", 20 * 16 * 8 * 8)  # the first layer makes 16 channels of 8x8
    reconstruct(prepared, network(), DIGITS, images=256, progress=lines.append)
    assert lines[0] == "reconstructing 10 layers on 20 images"


def test_batches_beyond_the_wanted_images_are_not_read() -> None:
    def forever() -> Any:
        while True:
            yield TEST[:32]

    prepared, lines = calibrated("w4a4"), list[str]()
    reconstruct(prepared, network(), forever(), images=64, progress=lines.append)
    assert lines[0].endswith("on 64 images")


class _Shared(nn.Module):
    """One layer that is called twice, and one of its own with a layer norm in front."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.own, self.twice = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(torch.relu(self.twice(self.own(self.norm(x)))))  # type: ignore[no-any-return]


def test_shared_layers_keep_their_weights_and_gains_of_layer_norms_are_seen() -> None:
    torch.manual_seed(0)
    net, x = _Shared().eval(), torch.randn(256, 8) @ torch.rand(8, 8)
    prepared = prepare(net, "w3a8", (x[:1],), overrides={"own": "w3a8"})
    initialize(prepared, x)
    prepared.eval()
    kept: Any = prepared.network.twice
    lines: list[str] = []
    with torch.no_grad():
        before = _error(prepared, net, x)
        reconstruct(prepared, net, x, progress=lines.append)
        assert lines[0].startswith("reconstructing 1 layers")
        assert torch.equal(kept.weight, net.twice.weight)
        assert _error(prepared, net, x) < 0.9 * before


def _error(prepared: PreparedModel, net: _Shared, x: Tensor) -> float:
    found: list[Tensor] = []
    prepared.run_observed((x,), lambda node, value: found.append(value) if node.target == "own" else None)
    return float((found[0] - net.own(net.norm(x))).square().mean())


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "nothing to reconstruct with"),
        (DIGITS.test.images, {}, "uint8"),
        (TEST, {"quantizer": "dorefa"}, "dorefa chooses codes of weights by a rule of its own"),
        (TEST, {"other": True}, "the one that prepare"),
        (TEST, {"images": 0}, "0 images is impossible"),
    ],
)
def test_mistakes_are_named(data: Any, options: dict[str, Any], message: str) -> None:
    images = options.pop("images", 8)
    other = create_model("resnet20", 10, 1) if options.pop("other", False) else network()
    prepared = calibrated("w4a4", **options)
    before = [tensor.clone() for tensor in state(prepared)]
    with pytest.raises(UserError, match=message):
        reconstruct(prepared, other, data, images=images)
    assert all(torch.equal(a, b) for a, b in zip(before, state(prepared), strict=True))
