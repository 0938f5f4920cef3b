"""Files for Qualcomm's HTP in the simulator: what it computes, what runs in integers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_ways import command
from deployment import noise, settle
from digits_checkpoint import save_digits
from torch import Tensor, nn
from torch.nn import functional

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.targets.file import export_for
from qkd_deploy.export.targets.qnn import TARGET
from qkd_deploy.export.targets.record import End, TargetRecord
from qkd_deploy.export.targets.registry import target_named, target_of
from qkd_deploy.export.targets.steps import StepsOff
from qkd_deploy.export.targets.target import Form, TargetSession
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import CENTERED

pytest.importorskip("onnxruntime_qnn", reason="the QNN provider is not installed: pip install 'qkd-deploy[qnn]'")


class Between(nn.Module):
    """A function between convolutions; it takes two tensors ``[N, 8, 16, 16]``, the first without negative values."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(torch.relu(self.first(x)), self.second(x)))


class Small(nn.Module):
    """A block of MobileNetV2 and a classifier."""

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        layers = [nn.Conv2d(8, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(), nn.Conv2d(wide, wide, 3, 1, 1, groups=wide)]
        self.block = nn.Sequential(*layers, nn.BatchNorm2d(wide), nn.ReLU6(), nn.Conv2d(wide, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head((y + self.block(y)).mean((2, 3)))


def prepared_of(network: nn.Module, bits: str = "w8a8", **options: Any) -> PreparedModel:
    images = noise(4, 3, 16, 16)
    prepared = prepare(settle(network), bits, (images[:1],), **options)
    initialize(prepared, images)
    return prepared


def frozen_of(network: nn.Module, bits: str = "w8a8", **options: Any) -> FrozenModel:
    torch.manual_seed(0)
    return freeze(prepared_of(network, bits, **options))


def on_grid(frozen: FrozenModel, count: int = 2) -> Tensor:
    """Images whose values are codes of the network's input, which no rounding changes."""
    node = frozen.graph.node(frozen.graph.inputs[0])
    assert node.quantizer is not None
    grid = frozen.grid(node.quantizer)
    return grid.quantize(noise(count, 3, 16, 16, seed=1)) * grid.scale


def loaded(frozen: FrozenModel, folder: Path, **form: str) -> TargetSession:
    path = folder / f"{form.get('weights', '')}{form.get('input', '')}model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(**form), "record"))
    return TARGET.load(path, 1)


def outputs(session: TargetSession, images: Tensor) -> np.ndarray:
    return np.concatenate([session.run([image[None].numpy()])[0] for image in images])


def steps_off(frozen: FrozenModel, got: np.ndarray, images: Tensor) -> StepsOff:
    node = frozen.graph.node(frozen.graph.outputs()[0])
    scale = float(frozen.grid(node.quantizer).scale) if node.quantizer is not None else None
    off = StepsOff(TargetRecord("qnn", "", 8, (), (End("output", (0,), "float32", scale),)))
    off.add([frozen(images).numpy()], [got])
    return off


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sums, products, sigmoids": lambda p, s: p + s * torch.sigmoid(s),
    "gates": lambda p, s: p * functional.adaptive_avg_pool2d(s, 1),
    "tanh and hard sigmoid": lambda p, s: torch.tanh(s) + functional.hardswish(s),
    "slopes and halves": lambda p, s: functional.max_pool2d(functional.leaky_relu(s, 0.1), 2) / 2,
    "pools": lambda p, s: functional.max_pool2d(p, 2) + functional.avg_pool2d(s, 2),
    "uneven pools": lambda p, s: functional.avg_pool2d(p, 3, 2, 1, count_include_pad=False),
    "upsampling and joining": lambda p, s: torch.cat(
        [functional.interpolate(functional.max_pool2d(s, 2), scale_factor=2.0), p], 1
    )[:, 4:12],
    "borders and parts": lambda p, s: functional.pad(s[:, :, 2:], (1, 1, 1, 1), mode="reflect"),
    "orders": lambda p, s: s.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2).flip(3),
    "extremes": lambda p, s: s.amax((2, 3), keepdim=True).expand(-1, -1, 4, 4),
    "means of rows": lambda p, s: p * s.flatten(2).transpose(1, 2).mean(1)[:, :, None, None],
    "products of matrices": lambda p, s: p @ s,
    "grids for products alone": lambda p, s: s @ p + p,
    "clips": lambda p, s: (
        functional.hardtanh(functional.max_pool2d(s, 2)) + functional.relu6(functional.max_pool2d(s, 2))
    ),
    "softmax": lambda p, s: s.softmax(-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_integer_and_off_by_few_steps(name: str, tmp_path: Path) -> None:
    frozen = frozen_of(Between(FUNCTIONS[name]))
    session, images = loaded(frozen, tmp_path), on_grid(frozen)
    assert steps_off(frozen, outputs(session, images), images).worst <= 3
    kernels = session.kernels()
    assert kernels and all(kernel.integer for kernel in kernels), kernels


@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
def test_a_classifier_is_off_by_few_steps_and_its_head_by_next_to_nothing(bits: str, tmp_path: Path) -> None:
    frozen = frozen_of(Small(), bits)
    session, images = loaded(frozen, tmp_path), on_grid(frozen, 4)
    off = steps_off(frozen, outputs(session, images), images)
    assert off.worst <= 2 and off.agreement == 100.0
    assert {kernel.name: kernel.count for kernel in session.kernels()}["Conv2d"] == 4


def test_a_large_bias_of_a_head_is_not_lost(tmp_path: Path) -> None:
    """QNN drops biases of convolutions of 16 bits whose steps are not those of the products."""
    network = Small()
    with torch.no_grad():
        network.head.weight.mul_(0.01)
        network.head.bias.copy_(torch.tensor([3.0, -2.0, 1.0, 0.0, -1.0]))
    frozen = frozen_of(network)
    images = on_grid(frozen)
    assert np.abs(outputs(loaded(frozen, tmp_path), images) - frozen(images).numpy()).max() < 0.01


SATURATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "joined": lambda p, s: torch.cat([p, s], 1)[:, 4:12],
    "multiplied": lambda p, s: p @ s,
    "added": lambda p, s: p + s,
}


@pytest.mark.parametrize("name", SATURATED)
def test_what_saturates_stays_saturated(name: str, tmp_path: Path) -> None:
    """The HTP makes a layer's codes on the grid of the joined tensor, which reaches further, and drops clips behind."""
    torch.manual_seed(0)
    network = Between(SATURATED[name])
    with torch.no_grad():
        network.first.weight.mul_(8)
        prepared = prepared_of(network)
        prepared.network.get_submodule("second").bias.add_(4)
    frozen = freeze(prepared)
    images = on_grid(frozen)
    assert steps_off(frozen, outputs(loaded(frozen, tmp_path), images), images).worst <= 3


@pytest.mark.parametrize("bits", ["w4a8", "w2a8"])
def test_packed_weights_take_half_of_the_file_and_of_the_binary(bits: str, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 32, 3, 2), nn.Conv2d(32, 128, 3, 2, 1), nn.Conv2d(128, 128, 3, 1, 1), nn.Conv2d(128, 5, 1)]
    frozen = frozen_of(nn.Sequential(*layers), bits)
    session, images = loaded(frozen, tmp_path, weights="packed"), on_grid(frozen)
    assert steps_off(frozen, outputs(session, images), images).worst <= 3
    files = [TARGET.build(frozen, Form(weights=weights), "") for weights in ("int8", "packed")]
    assert len(files[1]) < 0.6 * len(files[0])
    binaries = [TARGET.beside(content)[".qnn.ctx.onnx"] for content in files]
    assert len(binaries[1]) < 0.7 * len(binaries[0])


def test_raw_pixels_give_what_floats_give(tmp_path: Path) -> None:
    frozen = frozen_of(Small(), normalization="imagenet")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    means, deviations = (np.reshape(v, (3, 1, 1)) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    floats = ((pixels / 255 - means) / deviations).astype(np.float32)
    form = {"float32": floats, "uint8": pixels}
    got = [loaded(frozen, tmp_path, input=kind).run([given])[0] for kind, given in form.items()]
    np.testing.assert_array_equal(*got)
    assert steps_off(frozen, got[0], torch.from_numpy(floats)).worst <= 2


def test_a_file_says_what_it_is_and_is_the_same_again() -> None:
    frozen = frozen_of(Small())
    content = TARGET.build(frozen, Form(), "abc=")
    assert content == TARGET.build(frozen, Form(), "abc=") == TARGET.meaning(content)
    assert TARGET.record(content) == "abc=" and content.count(b"abc=") == 1
    assert TARGET.record(b"something else") is None
    found = target_of(Path("model.qnn.onnx"), content)
    assert found is not None and found[0] is TARGET


def test_export_runs_the_file_and_compiles_it_ahead(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prepared = prepared_of(Small(), normalization="centered")
    entry = {"normalization": CENTERED.as_entry()}
    report = export_for(prepared, tmp_path / "model.qnn.onnx", TARGET, metadata=entry)
    assert report.steps_off.worst <= 2 and report.tolerance == 8
    assert [path.name for path in report.beside] == ["model.qnn.ctx.onnx"]
    binary = report.beside[0].read_bytes()
    assert binary == TARGET.beside(report.path.read_bytes())[".qnn.ctx.onnx"]
    assert [node.op_type for node in onnx.ModelProto.FromString(binary).graph.node] == ["EPContext"]
    images = on_grid(freeze(prepared))
    sessions = [TARGET.load(path, 1) for path in (report.path, report.beside[0])]
    np.testing.assert_array_equal(*(outputs(session, images) for session in sessions))


def test_the_commands_say_how_many_classes_stay_the_same_and_whose_times_those_are(tmp_path: Path) -> None:
    save_digits(tmp_path / "model.pt", "w4a8")
    done = command("export model.pt --target qnn --weights packed", tmp_path)
    assert done.code == 0 and "on golden inputs, 2 of 2 classes the same" in done.out, done
    done = command("verify model.qnn.onnx --checkpoint model.pt --dataset digits --limit 8", tmp_path)
    assert done.code == 0 and "classes agree on" in done.out and "8 allowed" in done.out, done
    assert done.out.splitlines()[-1].startswith("VERIFIED")
    done = command("bench model.qnn.onnx --rounds 1", tmp_path)
    assert done.code == 0 and "simulates Snapdragon 8 Gen 3 here: no time, memory or ratio is the device's" in done.out


def test_a_bundle_loads_the_file_as_the_target_does(tmp_path: Path) -> None:
    frozen = frozen_of(Small())
    images, session, made = on_grid(frozen), loaded(frozen, tmp_path), dict[str, Any]()
    exec(TARGET.check_session, made)
    version, run = made["load"](str(tmp_path / "model.qnn.onnx"), 1)
    assert version == f"ONNX Runtime QNN {session.version}"
    np.testing.assert_array_equal(run([images[:1].numpy()])[0], outputs(session, images[:1]))


def test_networks_in_float_run_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prepared = prepared_of(Small())
    path = tmp_path / "float.onnx"
    path.write_bytes(TARGET.from_onnx(build_float_model(prepared)))
    session, images = TARGET.load(path, 1), noise(1, 3, 16, 16)
    assert not any(kernel.integer for kernel in session.kernels())
    with torch.no_grad():
        np.testing.assert_allclose(outputs(session, images), prepared.network(images).numpy(), atol=0.05)


def test_narrow_activations_are_refused_and_the_way_out_works() -> None:
    with pytest.raises(UserError, match=r"has activations of 4 bits, .*; quantize to w8a8 or w4a8"):
        TARGET.build(frozen_of(Small(), "w4a4"), Form(), "")
    assert TARGET.build(frozen_of(Small(), "w4a8"), Form(), "")


def test_a_kind_without_a_form_is_named_and_another_target_takes_it() -> None:
    frozen = frozen_of(Between(lambda p, s: functional.gelu(s)))
    with pytest.raises(UserError, match=r"^gelu .* has no form for QNN; choose another target"):
        TARGET.build(frozen, Form(), "")
    assert target_named("ort-mobile").build(frozen, Form(), "")


def test_what_falls_back_to_the_cpu_is_named(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Det", ["x"], ["y"], name="area/Det")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 3, 3])], [value("y", 1, [1])])
    path = tmp_path / "det.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(RuntimeError, match=r"^it does not take area \(Det\)$"):
        TARGET.load(path, 1)
