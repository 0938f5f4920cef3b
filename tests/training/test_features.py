from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.training.loop.parameter_groups import HasSteps
from qkd_deploy.training.methods.features import FeatureStudent, QuantizedFeatureTeacher

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def flat_network() -> nn.Module:
    """Its last layer reads a flattened map; behind it comes nothing."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


def convolutional_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Flatten())


def residual() -> nn.Module:
    return qkd.create_model("resnet8", 5)


NETWORKS = {"flat": flat_network, "head": convolutional_head, "residual": residual}


def input_of_last_layer(network: nn.Module) -> Tensor:
    """What the last layer reads, found independently: the layer whose weights come last."""
    seen: list[Tensor] = []
    last = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    handle = last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        network.eval()(IMAGES)
    handle.remove()
    return seen[0].flatten(1)


def prepared_of(network: nn.Module, bits: str = "w8a8") -> PreparedModel:
    student = qkd.prepare(network, bits, (IMAGES,))
    qkd.initialize(student, IMAGES)
    return student.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_teacher_computes_with_its_quantized_feature(name: str, bits: int) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    plain = input_of_last_layer(network)
    teacher = QuantizedFeatureTeacher(network, "", bits, IMAGES).eval()
    assert teacher.shape == plain.shape[1:]
    with torch.no_grad():
        logits, feature = teacher(IMAGES)
    assert teacher.quantizer is not None
    assert torch.equal(feature, teacher.quantizer(plain))
    assert 1 < len(feature.unique()) <= 2**bits
    last = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    shaped = feature if isinstance(last, nn.Linear) else feature[:, :, None, None]
    with torch.no_grad():
        own = nn.functional.linear if isinstance(last, nn.Linear) else nn.functional.conv2d
        torch.testing.assert_close(logits, own(shaped, last.weight, last.bias).flatten(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_feature_of_the_student_is_found_before_its_quantizer(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().train()
    network(IMAGES)  # batch norms have statistics
    prepared = prepared_of(network.eval())
    expected = input_of_last_layer(network)
    student = FeatureStudent(prepared, "", expected.shape[1:], IMAGES).eval()
    with torch.no_grad():
        logits, feature = student(IMAGES)
        assert torch.equal(logits, prepared(IMAGES))
    # at 8 bits close to the float network, and not on a grid
    torch.testing.assert_close(feature, expected, atol=0.1, rtol=0.1)
    assert len(feature.unique()) > 256 or feature.numel() <= 256


def test_features_of_different_lengths_are_projected_by_a_trained_layer() -> None:
    prepared = prepared_of(residual())
    student = FeatureStudent(prepared, "", torch.Size([7]), IMAGES)
    _, feature = student(IMAGES)
    assert feature.shape == (8, 7)
    feature.sum().backward()
    (projection,) = [p for p in student.network_parameters() if p.shape == (7, 64)]
    assert projection.grad is not None
    assert len(student.network_parameters()) == len(prepared.network_parameters()) + 1


def test_a_named_module_is_pooled() -> None:
    network = residual()
    teacher = QuantizedFeatureTeacher(copy.deepcopy(network), "layer2", 4, IMAGES)
    assert teacher.shape == (32,)
    student = FeatureStudent(prepared_of(network), "layer2", torch.Size([32]), IMAGES)
    _, feature = student(IMAGES)
    assert feature.shape == (8, 32) and isinstance(student.projection, nn.Identity)


def test_steps_are_learned_apart() -> None:
    teacher = QuantizedFeatureTeacher(residual(), "", 4, IMAGES)
    prepared = prepared_of(residual())
    student = FeatureStudent(prepared, "", torch.Size([64]), IMAGES)
    assert isinstance(teacher, HasSteps) and isinstance(student, HasSteps)
    assert len(teacher.activation_steps()) == 1 and not teacher.weight_steps()
    assert len(student.weight_steps()) == len(prepared.weight_steps())
    teacher.train()
    logits, _ = teacher(IMAGES)
    logits.square().sum().backward()
    assert teacher.activation_steps()[0].grad is not None


@pytest.mark.parametrize("point", ["layer9", "layr2"])
def test_unknown_points_are_named(point: str) -> None:
    with pytest.raises(UserError, match=f"teacher has no module '{point}'"):
        QuantizedFeatureTeacher(residual(), point, 4, IMAGES)
    with pytest.raises(UserError, match=f"no tensor in a module '{point}'"):
        FeatureStudent(prepared_of(residual()), point, torch.Size([64]), IMAGES)
