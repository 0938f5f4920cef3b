"""Exported files: packed weights, raw pixels, validity, privacy, determinism, and what a failure leaves behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from deployment import SATURATES, assert_same_codes, deploy, emitted, feeds_of, float_operations, noise, settle
from scales import learned, multiply
from torch import Tensor, nn

from qkd_deploy import UserError, create_model, export_onnx, freeze, initialize, prepare
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.runtime import RuntimeModel

PIXELS = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGES = (PIXELS.float() - 128) / 64
NORMALIZATION = {"mean": 128, "std": 64}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def prepared_net(bits: str = "w4a4", *, pixels: bool = True, **options: Any) -> PreparedModel:
    known = (1 / 64, 128) if pixels else None
    prepared = prepare(settle(Net()), bits, (IMAGES,), input_quantization=known, **options)
    initialize(prepared, IMAGES)
    return prepared


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depthwise(self.stem(x).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("weight_range", "words"),
    [
        ("safe", "8-bit weights stay within 63, so that sums of pairs saturate on no CPU, and reach 127 in depthwise "),
        (
            "narrow",
            "8-bit weights stay within 63, so that sums of pairs saturate on no CPU, and reach 63 in depthwise ",
        ),
        ("full", "8-bit weights reach 127: sums may saturate on x86 CPUs without VNNI, which --weight-range safe "),
    ],
)
def test_the_report_says_how_far_weights_reach_and_why(weight_range: str, words: str, tmp_path: Path) -> None:
    prepared = prepare(
        Separable().eval(), "w8a8", (IMAGES,), input_quantization=(1 / 64, 128), weight_range=weight_range
    )
    initialize(prepared, IMAGES, method="minmax")
    report = export_onnx(prepared, tmp_path / "model.onnx")
    assert report.weight_codes.startswith(words)
    if weight_range != "full":
        assert not assert_same_codes(emitted(prepared, freeze(prepared)), (IMAGES,))


@pytest.mark.parametrize("weights", ["int8", "packed"])
def test_scales_per_channel_change_neither_the_size_nor_the_graph(weights: str) -> None:
    channel, layer = (
        emitted(prepared, freeze(prepared), weights=weights).model
        for prepared in (prepared_net(weight_scales=scales) for scales in ("channel", "layer"))
    )
    assert [(node.op_type, *node.input) for node in channel.graph.node] == [
        (node.op_type, *node.input) for node in layer.graph.node
    ]
    shapes = [{one.name: (one.data_type, *one.dims) for one in model.graph.initializer} for model in (channel, layer)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("bits", ["w2a2", "w3a3", "w4a4", "w2a8", "w5a5"])
@pytest.mark.parametrize("threads", [1, 2])
def test_packed_weights_give_the_same_bits(bits: str, threads: int) -> None:
    prepared = prepared_net(bits)
    frozen = freeze(prepared)
    plain, packed = emitted(prepared, frozen, weights="int8"), emitted(prepared, frozen, weights="packed")
    for deployed in (plain, packed):
        assert not assert_same_codes(deployed, (IMAGES,), threads=threads)
        assert float_operations(deployed.model) == []
    one, two = (RuntimeModel(d.model, threads).run(feeds_of(d.model, (IMAGES,))) for d in (plain, packed))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    types = {t.data_type for t in packed.model.graph.initializer}
    narrow = {"w2": onnx.TensorProto.INT2, "w3": onnx.TensorProto.INT4, "w4": onnx.TensorProto.INT4}.get(bits[:2])
    assert (narrow in types) == (narrow is not None)
    if narrow is not None:
        assert packed.model.ByteSize() < plain.model.ByteSize()
    assert packed.model.opset_import[0].version == (25 if bits.startswith("w2") else 21)


@pytest.mark.skipif(SATURATES, reason="8-bit weights beyond +-64 saturate on this CPU, which has no VNNI")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_full_range_weights(bits: int) -> None:
    prepared = prepared_net(f"w{bits}a4", weight_range="full")
    for quantizer in learned(prepared.weights):
        multiply(quantizer, 0.3)
    frozen = freeze(prepared)
    codes = frozen.layer(frozen.graph.node("conv")).codes
    lowest = {2: -64, 3: -64, 4: -64, 8: -127}[bits]
    assert max(-int(codes.min()), int(codes.max())) == -lowest
    assert not assert_same_codes(emitted(prepared, frozen), (IMAGES,))
    clips = {node.name for node in emitted(prepared, frozen).model.graph.node if node.op_type == "Clip"}
    assert "stem.a4/Clip" in clips  # codes up to 255 would meet weights beyond 64


def test_packing_refuses_codes_that_a_negative_gamma_pushed_out_of_range() -> None:
    prepared = prepared_net("w4a4", weight_range="full")
    for quantizer in learned(prepared.weights):
        multiply(quantizer, 0.1)
    with pytest.raises(UserError, match=r"(conv|stem) has codes beyond its packed type.*--weights int8"):
        build_model(prepared, weights="packed")
    positive = prepared.network.get_parameter("norm2.weight").data
    positive.abs_()
    prepared.network.get_parameter("norm.weight").data.abs_()
    frozen = freeze(prepared)
    packed = emitted(prepared, frozen, weights="packed")
    assert SATURATES or not assert_same_codes(packed, (IMAGES,))


def test_pixels_as_input_equal_normalised_floats() -> None:
    frozen = freeze(prepared_net())
    described = {"normalization": NORMALIZATION}
    from_floats, _ = build_model(frozen, metadata=described)
    from_pixels, _ = build_model(frozen, input="uint8", metadata=described)
    assert from_pixels.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    one = RuntimeModel(from_floats).run({"x": IMAGES.numpy()})
    two = RuntimeModel(from_pixels).run({"x": PIXELS.numpy()})
    assert np.array_equal(one["output"], two["output"])
    assert np.array_equal(one["output"], frozen(IMAGES).numpy())
    assert float_operations(from_pixels) == []


@pytest.mark.parametrize(
    "normalization", [None, {"mean": 127, "std": 64}, {"mean": 128, "std": 60}, {"mean": [128, 127, 128], "std": 64}]
)
def test_pixels_are_refused_where_they_are_not_the_codes(normalization: object) -> None:
    with pytest.raises(UserError, match="--input uint8 needs"):
        build_model(freeze(prepared_net()), input="uint8", metadata={"normalization": normalization})


def test_pixels_are_refused_for_a_learned_input_step() -> None:
    with pytest.raises(UserError, match="--input uint8 needs"):
        build_model(freeze(prepared_net(pixels=False)), input="uint8", metadata={"normalization": NORMALIZATION})


def test_batch_is_dynamic_and_the_file_valid(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    prepared = prepared_net()
    report = export_onnx(prepared, path)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    frozen, runtime = freeze(prepared), RuntimeModel(model)
    for batch in (1, 2, 7):
        x = noise(batch, 3, 8, 8, seed=batch)
        assert np.array_equal(runtime.run({"x": x.numpy()})["output"], frozen(x).numpy())
    assert report.size == path.stat().st_size
    assert report.codes_used["conv"] > 8
    assert [layer.name for layer in report.layers] == ["stem", "conv", "head"]
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)


def test_files_do_not_tell_where_they_were_made(tmp_path: Path) -> None:
    """Float islands pass PyTorch's exporter, which writes stack traces into its nodes."""

    class Gelu(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.gelu(self.conv(F.relu(self.stem(x)))).mean((2, 3)))  # type: ignore[no-any-return]

    prepared = prepare(Gelu().eval(), "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    export_onnx(prepared, tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    package = Path(__file__).parents[2]
    for secret in (Path.cwd(), Path.home(), tmp_path, package, Path(torch.__file__).parent):
        assert str(secret).encode() not in content
    assert b"forward" not in content
    assert b".py" not in content


@pytest.mark.parametrize("weights", ["int8", "packed"])
def test_the_same_model_gives_the_same_bytes(weights: str, tmp_path: Path) -> None:
    prepared = prepared_net()
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        export_onnx(prepared, path, weights=weights)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown weights 'int4'; choose one of int8, packed"):
        export_onnx(prepared_net(), tmp_path / "model.onnx", weights="int4")
    with pytest.raises(UserError, match="unknown input 'float'"):
        export_onnx(prepared_net(), tmp_path / "model.onnx", input="float")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(prepared_net(), tmp_path / "file" / "model.onnx")
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(prepared_net(), tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model.onnx"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_stays_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(prepared_net(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(prepared_net(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        export_onnx(prepared_net("w2a2"), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == before


def test_missing_folders_are_made(tmp_path: Path) -> None:
    assert export_onnx(prepared_net(), tmp_path / "a" / "b" / "model.onnx").path.is_file()


@pytest.mark.parametrize(("bits", "share"), [("w4a4", 0.14), ("w2a2", 0.08)])
def test_resnet18_is_small(bits: str, share: float) -> None:
    """Against the fp32 file, which holds four bytes per parameter and little else."""
    torch.manual_seed(0)
    model = create_model("resnet18", 1000)
    fp32 = 4 * sum(p.numel() for p in model.parameters())
    prepared = prepare(model.eval(), bits, (torch.zeros(1, 3, 64, 64),))
    initialize(prepared, noise(1, 3, 64, 64))
    packed, _ = build_model(prepared, weights="packed")
    assert packed.ByteSize() <= share * fp32


def test_weights_alone_need_no_activation_quantizers() -> None:
    deployed = deploy(settle(Net()), (IMAGES,), "w4a32", weights="packed")
    assert not any(node.op_type == "QuantizeLinear" for node in deployed.model.graph.node)
    assert_same_codes(deployed, (IMAGES,))


def test_raw_pixels_need_a_quantized_input() -> None:
    prepared = prepare(create_model("resnet8", 10), "w4a32", (noise(2, 3, 8, 8),))
    initialize(prepared, noise(2, 3, 8, 8))
    with pytest.raises(UserError, match="this model reads floats"):
        build_model(prepared, input="uint8")
