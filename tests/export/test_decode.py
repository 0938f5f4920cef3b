"""The float tail of a detector as a file of its own: what both files are, and when there are two."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from small_detector import images, prepared_detector
from torch import nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import content_digest, read_decode_metadata, read_metadata
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.graph.prepared import PreparedModel

MAPS = ["boxes.0", "boxes.1", "scores.0", "scores.1"]
OUTPUTS = ["output_0", "output_1", "output_2"]


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepared_detector()


def names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(path)
    return dict(zip(names(session.get_outputs()), session.run(None, feeds), strict=True))


def test_both_files_together_are_the_network(model: PreparedModel, tmp_path: Path) -> None:
    report = qkd.export_onnx(model, tmp_path / "m.onnx")
    assert report.decode_path == tmp_path / "m.decode.onnx"
    frozen = qkd.freeze(model)
    for count in (1, 2, 7):
        batch = images(count, seed=count)
        maps = run(tmp_path / "m.onnx", {"x": batch.numpy()})
        outputs = run(tmp_path / "m.decode.onnx", maps)
        assert list(maps) == MAPS and list(outputs) == OUTPUTS
        for found, expected in zip(outputs.values(), flat_tensors(frozen(batch)), strict=True):
            assert found.shape == tuple(expected.shape)
            assert np.abs(found - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


def test_the_batch_is_open_in_both_files_and_the_second_is_plain_float(model: PreparedModel, tmp_path: Path) -> None:
    qkd.export_onnx(model, tmp_path / "m.onnx")
    integer, decode = (onnx.load(tmp_path / name) for name in ("m.onnx", "m.decode.onnx"))
    assert names(integer.graph.output) == names(decode.graph.input) == MAPS
    for value in (*integer.graph.output, *decode.graph.input, *decode.graph.output):
        kind = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        assert dims[0] == "batch" and all(isinstance(size, int) for size in dims[1:])
        assert kind.elem_type == onnx.TensorProto.FLOAT
    operators = {node.op_type for node in decode.graph.node}
    assert operators >= {"Softmax", "Sigmoid", "Concat"} and not any("Quantize" in name for name in operators)
    floats = {"Sigmoid", "Softmax", "Add", "Mul"}
    assert floats.isdisjoint(node.op_type for node in integer.graph.node)


def test_both_files_say_that_they_belong_together(model: PreparedModel, tmp_path: Path) -> None:
    qkd.export_onnx(model, tmp_path / "m.onnx")
    integer, decode = (read_exported(tmp_path / name) for name in ("m.onnx", "m.decode.onnx"))
    record, metadata = read_metadata(integer.model).decode, read_decode_metadata(decode.model)
    assert record is not None and metadata is not None
    assert (record.file, metadata.decodes.file) == ("m.decode.onnx", "m.onnx")
    assert metadata.decodes.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert record.sha256 == content_digest(decode.model) and record.tail == metadata.tail
    assert {"mean.softmax.softmax", "mean.conv", "sigmoid"} <= set(record.tail)
    with pytest.raises(UserError, match=r"the decode file of m\.onnx"):
        read_metadata(decode.model)


def test_inside_is_one_file_with_the_outputs_of_the_network(model: PreparedModel, tmp_path: Path) -> None:
    report = qkd.export_onnx(model, tmp_path / "m.onnx", tail="inside")
    assert report.decode is None and [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert names(onnx.load(tmp_path / "m.onnx").graph.output) == OUTPUTS


def test_none_leaves_the_tail_out_by_name(model: PreparedModel, tmp_path: Path) -> None:
    report = qkd.export_onnx(model, tmp_path / "m.onnx", tail="none")
    assert report.decode is not None and "mean.conv" in report.decode.tail and report.decode_path is None
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert names(onnx.load(tmp_path / "m.onnx").graph.output) == MAPS


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1)], ids=["logits", "probabilities"])
def test_a_classifier_is_the_same_bytes_whatever_the_option(end: nn.Module, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 5), end)
    model = qkd.prepare(network.eval(), "w4a4", (images(2),))
    qkd.initialize(model, images(2))
    files = []
    for tail in ("separate", "inside", "none"):
        qkd.export_onnx(model.eval(), tmp_path / f"{tail}.onnx", tail=tail)
        files.append((tmp_path / f"{tail}.onnx").read_bytes())
    assert files[0] == files[1] == files[2] and len(list(tmp_path.iterdir())) == 3


def test_the_decode_file_of_an_earlier_export_goes(model: PreparedModel, tmp_path: Path) -> None:
    for tail in ("inside", "none"):
        qkd.export_onnx(model, tmp_path / "m.onnx")
        assert (tmp_path / "m.decode.onnx").exists()
        qkd.export_onnx(model, tmp_path / "m.onnx", tail=tail)
        assert not (tmp_path / "m.decode.onnx").exists()
    (tmp_path / "m.decode.onnx").write_text("a decoder of the user's own")
    qkd.export_onnx(model, tmp_path / "m.onnx", tail="none")
    assert (tmp_path / "m.decode.onnx").read_text() == "a decoder of the user's own"


def test_both_files_are_written_or_none(model: PreparedModel, tmp_path: Path) -> None:
    (tmp_path / "new.onnx").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        qkd.export_onnx(model, tmp_path / "new.onnx")
    assert not (tmp_path / "new.decode.onnx").exists()
    qkd.export_onnx(model, tmp_path / "m.onnx")
    before = (tmp_path / "m.decode.onnx").read_bytes()
    (tmp_path / "m.onnx").unlink()
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        qkd.export_onnx(prepared_detector(seed=1), tmp_path / "m.onnx")
    assert (tmp_path / "m.decode.onnx").read_bytes() == before
    (tmp_path / "o.decode.onnx").mkdir()
    with pytest.raises(UserError, match=r"o\.decode\.onnx: it is a folder"):
        qkd.export_onnx(model, tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_the_same_model_gives_the_same_pair(model: PreparedModel) -> None:
    one, two = (build_model(model) for _ in range(2))
    assert one[0] == two[0] and one[1].decode == two[1].decode is not None


def test_what_the_models_answer_does_not_depend_on_the_file(tmp_path: Path) -> None:
    model = prepared_detector()
    with torch.no_grad():
        before = flat_tensors(model(images(2)))
        qkd.export_onnx(model, tmp_path / "m.onnx")
        after = flat_tensors(model(images(2)))
    assert all(map(torch.equal, before, after))


def test_packed_weights_raw_pixels_and_older_operators_have_decode_files_too(tmp_path: Path) -> None:
    model = prepared_detector("w4a4", normalization="centered")
    for options in ({"weights": "packed"}, {"input": "uint8"}, {"opset": 13}):
        qkd.export_onnx(model, tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
        assert qkd.verify_onnx(tmp_path / "m.onnx", frozen=qkd.freeze(model), threads=(1,)).passed


def test_anchors_belong_to_one_size_but_maps_do_not(model: PreparedModel, tmp_path: Path) -> None:
    for tail, said in (("separate", "export with --tail none"), ("inside", "export without --dynamic-size")):
        with pytest.raises(UserError, match=said):
            qkd.export_onnx(model, tmp_path / "m.onnx", dynamic_size=True, tail=tail)
        qkd.export_onnx(model, tmp_path / "m.onnx", tail=tail)
        assert qkd.verify_onnx(tmp_path / "m.onnx", frozen=qkd.freeze(model), threads=(1,)).passed
    qkd.export_onnx(model, tmp_path / "m.onnx", dynamic_size=True, tail="none")
    other = torch.rand(1, 3, 64, 96).numpy()
    assert run(tmp_path / "m.onnx", {"x": other})["boxes.1"].shape == (1, 64, 16, 24)
    assert qkd.verify_onnx(tmp_path / "m.onnx", frozen=qkd.freeze(model), threads=(1,)).passed


def test_an_unknown_place_is_refused(model: PreparedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of separate, inside, none"):
        qkd.export_onnx(model, tmp_path / "m.onnx", tail="seperate")
