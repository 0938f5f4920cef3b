from __future__ import annotations

import pytest
import torch
from torch import nn

from qkd_deploy import RelativeAdam, UserError, create_model, initialize, parameter_groups, prepare
from qkd_deploy.training.loop.optimizers import NetworkOptimizer, OptimizerSettings
from tests.support.deployment import noise

IMAGES = noise(8, 1, 8, 8)
SETTINGS = OptimizerSettings(0.1, weight_decay=1e-3, weight_step_ratio=0.02, activation_step_ratio=0.5)


def prepared() -> nn.Module:
    torch.manual_seed(0)
    model = prepare(create_model("plaincnn", 10, 1), "w4a4", (IMAGES,), input_quantization=(1 / 64, 128))
    initialize(model, IMAGES)
    return model


def gradients(model: nn.Module) -> None:
    nn.functional.cross_entropy(model.train()(IMAGES), torch.arange(8)).backward()


def test_a_loop_of_ones_own_moves_parameters_as_the_trainer_does() -> None:
    ours, theirs = prepared(), prepared()
    groups = parameter_groups(theirs, 0.1, weight_decay=1e-3, weight_step_ratio=0.02, activation_step_ratio=0.5)
    optimizers = torch.optim.SGD(groups.weights, momentum=0.9), RelativeAdam(groups.steps)
    trainer = NetworkOptimizer(ours, SETTINGS)
    for _ in range(3):
        gradients(ours)
        trainer.set_factor(1.0)
        trainer.step()
        trainer.zero_grad()
        gradients(theirs)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    before = prepared().state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    moved = [name for name, value in ours.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len([p for p in ours.parameters() if p.requires_grad])


def test_every_learned_parameter_is_in_exactly_one_group() -> None:
    model = prepared()
    groups = parameter_groups(model, 0.1)
    found = [id(p) for group in (*groups.weights, *groups.steps) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_network_without_quantizers_has_no_steps() -> None:
    network = create_model("resnet8", 10, 1)
    groups = parameter_groups(network, 0.1, weight_decay=1e-3)
    assert groups.steps == []
    assert [group["weight_decay"] for group in groups.weights] == [1e-3, 0.0]
    assert sum(len(group["params"]) for group in groups.weights) == len(list(network.parameters()))


def test_what_prepare_returned_is_what_it_takes() -> None:
    network = prepared()
    with pytest.raises(UserError, match="takes a network, not generator; pass what prepare returned"):
        parameter_groups(network.parameters(), lr=0.1)  # type: ignore[arg-type]
    assert parameter_groups(network, lr=0.1).steps
