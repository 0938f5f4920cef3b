"""One optimizer over all parameters, as everybody writes it, trains a prepared network, or is stopped with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from qkd_deploy import create_model, freeze, initialize, load_dataset, prepare
from qkd_deploy.data import batches, normalize
from qkd_deploy.errors import QuantizationWarning, UserError
from qkd_deploy.graph.prepared import PreparedModel

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "Adam": lambda parameters: Adam(parameters, lr=1e-3),
    "AdamW": lambda parameters: AdamW(parameters, lr=1e-3, weight_decay=0.05),
}


def fit(network: nn.Module, optimizer: Optimizer, epochs: int, clip: float = 0.0) -> None:
    data, generator = load_dataset("digits"), torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for images, labels in batches(data.train, 64, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()


def pixels(count: int = 256) -> Tensor:
    return normalize(load_dataset("digits").train.images[:count])  # type: ignore[union-attr, no-any-return]


@cache
def full_precision() -> nn.Module:
    torch.manual_seed(0)
    network = create_model("plaincnn", 10, 1)
    fit(network, Adam(network.parameters(), lr=3e-3), 5)
    return network


def student(bits: str, weight_scales: str = "channel") -> PreparedModel:
    network = copy.deepcopy(full_precision())
    prepared = prepare(network, bits, (pixels(2),), input_quantization=(1 / 64, 128), weight_scales=weight_scales)
    initialize(prepared, pixels())
    return prepared


@torch.no_grad()
def accuracy(prepared: PreparedModel) -> float:
    test = load_dataset("digits").test
    logits = freeze(prepared.eval())(normalize(test.images))  # type: ignore[union-attr]
    return 100 * float((logits.argmax(1) == test.labels).float().mean())  # type: ignore[union-attr]


@pytest.mark.parametrize("weight_scales", ["channel", "layer"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_optimizer_over_all_parameters_trains(name: str, weight_scales: str) -> None:
    prepared = student("w2a2", weight_scales)
    before = accuracy(prepared)
    fit(prepared, OPTIMIZERS[name](prepared.parameters()), 5)
    moved = torch.cat([move.detach().flatten() for move in [*prepared.weight_steps(), *prepared.activation_steps()]])
    assert float(moved.abs().mean()) > 1e-3  # they learn
    assert accuracy(prepared) > max(before, 90)


def test_clipping_all_gradients_leaves_the_weights_their_share() -> None:
    prepared = student("w4a4")
    fit(prepared, SGD(prepared.parameters(), lr=0.05, momentum=0.9), 4, clip=1.0)
    assert accuracy(prepared) > 94


def test_low_precision_and_scaled_losses_train() -> None:
    prepared = student("w2a2").train()
    optimizer = AdamW(prepared.parameters(), lr=1e-3)
    losses = []
    data, generator = load_dataset("digits"), torch.Generator().manual_seed(0)
    for images, labels in [*batches(data.train, 64, generator)][:16]:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(prepared(images), labels)
        (loss * 1024).backward()
        for parameter in prepared.parameters():
            if parameter.grad is not None:
                parameter.grad /= 1024
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


# -- lost scales -------------------------------------------------------------------------------------------------------


def test_training_names_a_scale_that_is_not_finite_and_the_reason() -> None:
    prepared = student("w4a4").train()
    prepared.weight(prepared.layers()[1]).learned()[0].data[3] = float("nan")
    name = prepared.layers()[1].target
    with pytest.raises(UserError, match=rf"training lost the scale of {name}.weight, which is not finite, because"):
        prepared(pixels())
    with pytest.raises(UserError, match=rf"^{prepared.layers()[1].name} has weights or statistics that are not finite"):
        freeze(prepared)


def test_training_names_a_scale_that_left_its_tensor() -> None:
    prepared = student("w4a4").train()
    node = next(
        node for node in prepared.graph.nodes if node.quantizer and prepared.activation(node.quantizer).learned()
    )
    assert node.quantizer is not None
    quantizer = prepared.activation(node.quantizer)
    before = quantizer.scale().item()
    move = quantizer.learned()[0]
    move.data.fill_(5.2)
    prepared(pixels())  # a factor of 92
    move.data.fill_(5.4)
    after = quantizer.scale().item()
    assert 100 < after / before < 110
    with pytest.raises(UserError, match=rf"the scale of {node.name}, which went from {before:.3g} to {after:.3g}; "):
        prepared(pixels())
    prepared.eval()(pixels())  # looking at the damage is possible


def test_a_diverging_loop_is_stopped() -> None:
    prepared = student("w4a4")
    with pytest.raises(
        UserError, match=r"training lost the scale of .* went from .*; train anew with a lower learning"
    ):
        fit(prepared, SGD(prepared.parameters(), lr=1e4), 3)
    lower = student("w4a4")
    fit(lower, SGD(lower.parameters(), lr=1e-2), 1)
    clipped = student("w4a4")
    fit(clipped, SGD(clipped.parameters(), lr=1e4), 1, clip=1e-5)


def test_freezing_warns_of_scales_that_do_not_fit_the_weights() -> None:
    prepared = student("w4a4").eval()
    layer = prepared.layers()[2]
    prepared.network.get_submodule(str(layer.target)).weight.data *= 1e-3  # type: ignore[operator, union-attr]
    with pytest.warns(QuantizationWarning, match=rf"the scale of {layer.target}.weight is \d+ times too wide"):
        freeze(prepared)


# -- networks with random weights --------------------------------------------------------------------------------------


def deep() -> nn.Module:
    """Each block makes the signal ten times smaller, which only batch statistics show."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(8):
        conv = nn.Conv2d(1 if index == 0 else 8, 8, 3, padding=1, bias=False)
        conv.weight.data *= 0.1
        layers += [conv, nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_batch_norms_that_never_saw_a_batch_take_the_statistics_of_the_first() -> None:
    prepared = prepare(deep(), "w8a8", (pixels(2),))
    initialize(prepared, pixels())
    prepared.train()
    loss = nn.functional.cross_entropy(prepared(pixels()), load_dataset("digits").train.labels[:256])  # type: ignore[union-attr]
    loss.backward()
    stem = prepared.network.get_submodule("0").weight.grad  # type: ignore[union-attr]
    assert isinstance(stem, Tensor) and 0 < float(stem.norm()) < 1e3
    eval_mode, train_mode = prepared.eval()(pixels()), prepared.train()(pixels())
    assert float((eval_mode - train_mode).norm() / train_mode.norm()) < 0.3


def test_trained_batch_norms_are_not_touched() -> None:
    network = copy.deepcopy(full_precision())
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()  # as weights have them that another framework trained
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    prepared = prepare(network, "w4a4", (pixels(2),))
    initialize(prepared, pixels())
    assert all(torch.equal(buffer, before[name]) for name, buffer in prepared.network.named_buffers())
