from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.errors import UserError

Weights = dict[str, Tensor]


class Net(nn.Module):
    """A body and a head under names of their own."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.head = nn.Linear(4, classes)


def network(classes: int = 2) -> Net:
    torch.manual_seed(3)
    return Net(classes)


def other_values() -> Weights:
    return {name: value + 1 for name, value in network().state_dict().items()}


def prefixed(prefix: str) -> Weights:
    return {f"{prefix}{name}": value for name, value in other_values().items()}


def load(weights: Weights, target: nn.Module | None = None, skip: tuple[str, ...] | None = None) -> str:
    return load_into(target or network(), weights, "mynet", "w.pt", skip=skip)


def refusal(weights: Weights, target: nn.Module | None = None, skip: tuple[str, ...] | None = None) -> str:
    """The message, after which the network must be as it was."""
    target = target or network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load(weights, target, skip)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMS: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}}, "epoch": 3},
    "nested": lambda weights: {"model": {"state_dict": weights, "name": "net"}},
    "averaged only": lambda weights: {"model_ema": weights, "epoch": 3},
    "averaged too": lambda weights: {
        "state_dict_ema": {name: value * 0 for name, value in weights.items()},
        "state_dict": weights,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_common_forms_are_read(tmp_path: Path, form: str) -> None:
    weights = other_values()
    torch.save(FORMS[form](weights), tmp_path / "weights.pt")
    loaded = read_weights(tmp_path / "weights.pt")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_safetensors_are_read(tmp_path: Path) -> None:
    weights = other_values()
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = read_weights(tmp_path / "weights.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_weights(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / "none.safetensors")


def endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"epoch": 3}, {"quantization": {"bits": "w4a4"}, "state_dict": {}}, endless()]
)
def test_files_without_float_weights_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"state_dict|full-precision"):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "student.backbone.", "my_net.0."])
def test_any_prefix_is_taken_off(prefix: str) -> None:
    target = network()
    account = load(prefixed(prefix), target)
    assert all(torch.equal(value, other_values()[name]) for name, value in target.state_dict().items())
    assert (f"without the prefix {prefix!r}" in account) == bool(prefix)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_prefix_of_a_wrapper_is_put_on(depth: int) -> None:
    target: nn.Module = network()
    for _ in range(depth):
        target = nn.ModuleDict({"inner": target})
    wrapper = "inner." * depth
    account = load(other_values(), target)
    assert f"with the prefix {wrapper!r}" in account
    values = target.state_dict()
    assert all(torch.equal(values[wrapper + name], value) for name, value in other_values().items())
    message = refusal({"body.0.weight": torch.ones(2, 1, 3, 3)}, nn.ModuleDict({"inner": network()}))
    assert "missing" in message and "inner.body.0.bias" in message


def test_other_networks_in_the_file_are_ignored_and_named() -> None:
    account = load({**prefixed("student."), "projector.weight": torch.zeros(2), "teacher.body.0.weight": torch.ones(3)})
    assert account == (
        "9 tensors from w.pt, without the prefix 'student.', 2 ignored (projector.weight, teacher.body.0.weight)"
    )


def test_two_networks_that_fit_are_not_guessed_between() -> None:
    message = refusal({**prefixed("student."), **prefixed("teacher.")})
    assert message.startswith("w.pt holds several networks that fit mynet (student.*, teacher.*); save one")


def test_everything_that_does_not_fit_is_in_the_account() -> None:
    weights = other_values()
    del weights["body.0.weight"]
    weights |= {f"extra.{number}": torch.zeros(2) for number in range(5)}
    weights["head.weight"] = torch.zeros(7, 4)
    weights["head.bias"] = torch.zeros(2, dtype=torch.int8)
    assert refusal(weights) == (
        "w.pt does not fit mynet: missing 1: body.0.weight; "
        "unexpected 5: extra.0, extra.1, extra.2 and 2 more; "
        "other shapes 1: head.weight [7, 4] instead of [2, 4]; "
        "other types 1: head.bias int8; name the model it belongs to"
    )


def test_what_lies_outside_of_the_prefix_counts_where_something_is_missing() -> None:
    weights = prefixed("backbone.")
    del weights["backbone.head.weight"], weights["backbone.head.bias"]
    message = refusal({**weights, "fc.weight": torch.zeros(2, 4)})
    assert "missing 2: head.weight, head.bias; unexpected 1: fc.weight;" in message


def test_a_head_of_other_classes_is_left_at_random_only_on_request() -> None:
    target = network(classes=5)
    assert refusal(other_values(), target, skip=()).endswith(
        "name the model it belongs to, or let head start at random with init_skip (--init-skip)"
    )
    assert refusal(other_values(), target).endswith("name the model it belongs to")
    head = target.head.weight.clone()
    account = load(other_values(), target, skip=("head",))
    assert torch.equal(target.head.weight, head)
    assert torch.equal(target.body[0].weight, other_values()["body.0.weight"])
    assert account == (
        "7 tensors from w.pt, 2 ignored (head.weight, head.bias), 2 left at random (head.weight, head.bias)"
    )


def with_head(name: str, weights: Weights | None = None) -> Weights:
    """The weights with a head of another name, which stands where the head stood."""
    return {entry.replace("head.", f"{name}."): value for entry, value in (weights or other_values()).items()}


@pytest.mark.parametrize("name", ["fc", "linear", "classifier.1", "last.head.out"])
def test_a_classifier_of_another_name_is_recognised_and_named(name: str) -> None:
    target = network()
    assert load(with_head(name, prefixed("module.")), target) == (
        f"9 tensors from w.pt, without the prefix 'module.', {name} as head"
    )
    assert all(torch.equal(value, other_values()[entry]) for entry, value in target.state_dict().items())


def test_a_renamed_classifier_of_other_classes_is_told_as_one() -> None:
    message = refusal(with_head("fc"), network(classes=5), skip=())
    assert "other shapes 2: head.weight [2, 4] instead of [5, 4]" in message
    assert message.endswith("or let head start at random with init_skip (--init-skip)")
    assert load(with_head("fc"), network(classes=5), skip=("head",)) == (
        "7 tensors from w.pt, fc as head, 2 ignored (head.weight, head.bias), 2 left at random (head.weight, head.bias)"
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"aux.weight": torch.zeros(2, 4), "aux.bias": torch.zeros(2)},  # two could be meant
        {"fc.scale": torch.zeros(2)},  # more than a linear layer
    ],
)
def test_classifiers_are_not_guessed(extra: Weights) -> None:
    assert "missing 2: head.weight, head.bias; unexpected " in refusal({**with_head("fc"), **extra}, skip=())
    other = with_head("fc")
    other["fc.weight"] = torch.zeros(2, 3)  # of other inputs
    assert "unexpected 2: fc.weight, fc.bias" in refusal(other, skip=())


def test_modules_that_the_file_lacks_may_start_at_random() -> None:
    weights = {name: value for name, value in other_values().items() if not name.startswith("body.1")}
    assert refusal(weights, skip=()).endswith("or let body.1 start at random with init_skip (--init-skip)")
    assert load(weights, skip=("body.1",)).endswith(
        "4 left at random (body.1.weight, body.1.bias, body.1.running_mean and 1 more)"
    )


@pytest.mark.parametrize("pattern", ["head", "head.*", "h*", "body.1", "body.*.weight"])
def test_patterns_match_entries_and_the_modules_they_lie_in(pattern: str) -> None:
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    load(other_values(), target, skip=(pattern,))
    kept = {name for name, value in target.state_dict().items() if torch.equal(value, before[name])}
    expected = {
        "body.1": {name for name in before if name.startswith("body.1.")},
        "body.*.weight": {"body.0.weight", "body.1.weight"},
    }
    assert kept == expected.get(pattern, {"head.weight", "head.bias"})


def test_a_pattern_for_nothing_is_refused() -> None:
    assert "'fc' matches no weights of the network or of w.pt" in refusal(other_values(), skip=("fc",))


def test_missing_batch_counters_are_no_mistake() -> None:
    weights = {name: value for name, value in other_values().items() if "num_batches" not in name}
    target = network()
    assert load(weights, target) == "8 tensors from w.pt"
    assert torch.equal(target.body[0].weight, weights["body.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_converted(dtype: torch.dtype) -> None:
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in other_values().items()}
    target = network()
    assert load(weights, target).endswith(f"converted from {str(dtype).removeprefix('torch.')}")
    assert target.head.weight.dtype == torch.float32
    assert torch.equal(target.head.weight, weights["head.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    weights = other_values()
    weights["head.bias"] = torch.tensor([0.0, value], dtype=torch.float64)
    assert "NaN or infinite values in head.bias" in refusal(weights)
