from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model, model_names

# Published parameter counts; the small ones have 1x1 convolutions as shortcuts, 2,752 more than in the paper.
IMAGENET_PARAMETERS = {"resnet10": 5_418_792, "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
CIFAR_PARAMETERS = {"resnet8": 75_290 + 2752, "resnet20": 269_722 + 2752, "resnet32": 464_154 + 2752}
OTHERS = ["mobilenetv2", "efficientnet_b0", "efficientnet_lite0", "vit_tiny", "deit_tiny", "detector", "segmenter"]
SMALL = ["plaincnn", "resnet8", "resnet20", "resnet32", "resnet56"]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_names_are_those_promised() -> None:
    assert sorted(model_names()) == sorted([*SMALL, *IMAGENET_PARAMETERS, *OTHERS])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 4)])
def test_small_models_take_small_images(name: str, channels: int, size: int) -> None:
    model = create_model(name, 7, channels).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


def test_resnet8_does_not_shrink_digits_to_nothing() -> None:
    model = create_model("resnet8", 10, 1).eval()
    sizes = []
    assert isinstance(model.layer3, nn.Module)
    model.layer3.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape)))
    model(torch.zeros(1, 1, 8, 8))
    assert sizes == [(1, 64, 2, 2)]


@pytest.mark.parametrize(("name", "count"), IMAGENET_PARAMETERS.items())
def test_imagenet_models_have_the_published_size(name: str, count: int) -> None:
    model = create_model(name, 1000).eval()
    assert parameters(model) == count
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(("name", "count"), CIFAR_PARAMETERS.items())
def test_cifar_models_have_the_published_size(name: str, count: int) -> None:
    assert parameters(create_model(name, 10)) == count


def test_imagenet_parameter_names_are_the_public_ones() -> None:
    state = create_model("resnet18", 1000).state_dict()
    assert len(state) == 122
    assert list(state)[:6] == ["conv1.weight", *(f"bn1.{part}" for part in BN_PARTS)]
    for key in ("layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var"):
        assert key in state
    assert state["fc.weight"].shape == (1000, 512)
    bottlenecks = create_model("resnet50", 1000).state_dict()
    assert len(bottlenecks) == 320
    assert bottlenecks["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert bottlenecks["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)


BN_PARTS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_bottlenecks_carry_the_stride_in_the_middle() -> None:
    convs = dict(create_model("resnet50", 10).named_modules())
    assert convs["layer2.0.conv1"].stride == (1, 1)
    assert convs["layer2.0.conv2"].stride == (2, 2)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50", "plaincnn"])
def test_models_trace_alike_in_both_modes_and_share_no_module(name: str) -> None:
    model = create_model(name, 10)
    graphs = [fx.symbolic_trace(model.train(mode)).graph for mode in (True, False)]
    assert str(graphs[0]) == str(graphs[1])
    called = [node.target for node in graphs[0].nodes if node.op == "call_module"]
    assert len(called) == len(set(called))


def test_weights_come_from_the_seed_with_the_spread_of_he() -> None:
    torch.manual_seed(0)
    first = create_model("resnet20", 10).state_dict()
    torch.manual_seed(0)
    second = create_model("resnet20", 10).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weight = first["layer3.0.conv1.weight"]  # 32 -> 64 channels
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet19' \(did you mean 'resnet\d+'\?\)"):
        create_model("resnet19", 10)
    with pytest.raises(UserError, match="0 classes"):
        create_model("resnet8", 0)
    with pytest.raises(UserError, match="0 channels"):
        create_model("resnet8", 10, 0)
