from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.training.weights import load_into, read_weights


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 2))


def wrapped(weights: dict[str, Tensor], form: str) -> Any:
    if form == "prefixed":
        return {f"module.{name}": value for name, value in weights.items()}
    return weights if form == "plain" else {form: weights, "epoch": 3}


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "prefixed"])
def test_common_forms_are_read(tmp_path: Path, form: str) -> None:
    weights = network().state_dict()
    torch.save(wrapped(dict(weights), form), tmp_path / "weights.pt")
    loaded = read_weights(tmp_path / "weights.pt")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    weights = dict(network().state_dict())
    safetensors.save_file(weights, tmp_path / "weights.safetensors")
    assert read_weights(tmp_path / "weights.safetensors").keys() == weights.keys()
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_weights(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"quantization": {"bits": "w4a4"}, "state_dict": {}}])
def test_files_without_float_weights_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"state_dict|full-precision"):
        read_weights(tmp_path / "weights.pt")


def test_everything_that_does_not_fit_is_in_the_account() -> None:
    weights = dict(network().state_dict())
    del weights["0.weight"]
    weights["head.weight"] = torch.zeros(2)
    weights["2.weight"] = torch.zeros(7, 4)
    with pytest.raises(UserError) as caught:
        load_into(network(), weights, "mynet", "w.pt")
    assert "missing 0.weight; unexpected head.weight; other shapes: 2.weight [7, 4] instead of [2, 4]" in str(
        caught.value
    )


def test_missing_batch_counters_are_no_mistake() -> None:
    weights = {name: value + 1 for name, value in network().state_dict().items() if "num_batches" not in name}
    target = network()
    load_into(target, weights, "mynet", "w.pt")
    assert torch.equal(target[0].weight, weights["0.weight"])


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = dict(network().state_dict())
    weights["2.bias"] = torch.tensor([0.0, float("nan")])
    with pytest.raises(UserError, match=r"NaN or infinite values in 2\.bias"):
        load_into(network(), weights, "mynet", "w.pt")
