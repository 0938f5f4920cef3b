"""Metadata of an exported file: round trips, digests that see every change, and files that are not ours."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import (
    PREFIX,
    Golden,
    GoldenInput,
    GoldenOutput,
    LayerRecord,
    Metadata,
    TensorRecord,
    array_digest,
    graph_digests,
    read_metadata,
    write_metadata,
)
from qkd_deploy.export.metadata.golden import encode_array

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
tiny (float[batch, 2] x) => (float[batch, 2] y)
<float "x.scale" = {0.37}, uint8 "x.zero_point" = {128}, int8 "head.hidden.weight" = {5}>
{
  ["x/QuantizeLinear"] "x.quantized" = QuantizeLinear <axis: int = 1> (x, "x.scale", "x.zero_point")
  ["x/DequantizeLinear"] y = DequantizeLinear ("x.quantized", "x.scale", "x.zero_point")
}
"""

METADATA = Metadata(
    version="0.1.0",
    bits="w4a4",
    placement="integer",
    tensors=(TensorRecord("x", "x.quantized", "backbone.stem", 8, float(np.float32(0.37)), 128, 0, 255),),
    layers=(LayerRecord("head.hidden", "head", "Gemm", 4, 4, 8, "QGemm"),),
    golden=Golden(
        (GoldenInput((2, 2), 0, 15, 8, 0.25),), {"x": "0123456789abcdef"}, (GoldenOutput.of(np.zeros((2, 2))),)
    ),
    normalization={"mean": 128, "std": 64},
    classes=("zero", "één"),
    checkpoint_sha256="ab" * 32,
    accuracy={"dataset": "digits", "fingerprint": "ab12", "images": 40, "integer": 97.5},
)


def exported() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    write_metadata(model, METADATA)
    return model


def test_metadata_survives_a_round_trip_through_the_serialized_file() -> None:
    read = read_metadata(onnx.load_from_string(exported().SerializeToString()))
    assert read.golden is not None
    assert METADATA.golden is not None
    assert read.golden.recipes == METADATA.golden.recipes
    np.testing.assert_array_equal(read.golden.outputs[0].values, METADATA.golden.outputs[0].values)
    assert read.golden.outputs[0].values.dtype == METADATA.golden.outputs[0].values.dtype
    assert read.golden.codes == METADATA.golden.codes
    assert dataclasses.replace(read, golden=None) == dataclasses.replace(METADATA, golden=None)


def test_writing_twice_changes_nothing_and_keeps_foreign_entries() -> None:
    model = exported()
    model.metadata_props.add(key="version", value="mine")
    once = model.SerializeToString(deterministic=True)
    write_metadata(model, METADATA)
    entries = {prop.key: prop.value for prop in model.metadata_props}
    assert entries["version"] == "mine"
    assert len(entries) == len(model.metadata_props)
    assert read_metadata(model).digests == read_metadata(onnx.load_from_string(once)).digests


def test_untouched_file_matches_its_digests() -> None:
    model = onnx.load_from_string(exported().SerializeToString())
    assert graph_digests(model) == read_metadata(model).digests


def scale_by_one_ulp(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "x.scale")
    value = np.nextafter(onnx.numpy_helper.to_array(tensor), np.float32(9))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), "x.scale"))


def reshape_scale(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims.append(1)


def retype_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].data_type = onnx.TensorProto.UINT8


def change_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].i = 0


def rewire(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[1] = "x.zero_point"


def reorder(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def change_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 22


def change_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def drop_node(model: onnx.ModelProto) -> None:
    del model.graph.node[1]


def change_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def change_bits(model: onnx.ModelProto) -> None:
    next(p for p in model.metadata_props if p.key == PREFIX + "bits").value = "w8a8"


@pytest.mark.parametrize(
    "change",
    [
        scale_by_one_ulp,
        reshape_scale,
        retype_weight,
        change_attribute,
        rewire,
        reorder,
        change_opset,
        change_input_type,
        drop_node,
        change_domain,
        change_bits,
    ],
)
def test_every_change_changes_a_digest(change: Callable[[onnx.ModelProto], None]) -> None:
    model = exported()
    change(model)
    assert graph_digests(model) != read_metadata(model).digests


def test_names_of_nodes_and_constants_lead_to_modules() -> None:
    assert METADATA.module_of("x/QuantizeLinear") == "backbone.stem"
    assert METADATA.module_of("x.scale") == "backbone.stem"
    assert METADATA.module_of("head.hidden.weight_packed") == "head"
    assert METADATA.module_of("layer1.0.conv1/Conv") == "layer1.0.conv1"
    assert METADATA.module_of("layer1.0.conv1.bias") == "layer1.0.conv1"
    assert METADATA.module_of("logits") == "logits"
    assert METADATA.module_of("head.hidden.weight/Mul") == "head"
    root = dataclasses.replace(METADATA, tensors=(dataclasses.replace(METADATA.tensors[0], module=""),))
    assert root.module_of("x/QuantizeLinear") == "x"


def test_golden_inputs_are_the_same_everywhere_and_meet_the_whole_range() -> None:
    """Made from integers only: no generator whose stream could change between versions or machines."""
    codes = GoldenInput((2, 3, 32, 32), 0, 15, 8, None).array()
    assert codes.dtype == np.uint8
    assert set(np.unique(codes)) == set(range(16))
    assert codes.flat[:8].tolist() == [(i * 2654435761 % 2**32 >> 13) % 16 for i in range(8)]
    floats = GoldenInput((2, 3, 32, 32), 0, 15, 8, 0.25).array()
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, (codes.astype(np.float32) - 8) / 4)


def test_foreign_file_is_refused() -> None:
    with pytest.raises(UserError, match="not exported by qkd-deploy"):
        read_metadata(onnx.parser.parse_model(TEXT))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tensors", "{"),
        ("tensors", '[{"name": 1}]'),
        ("golden", '{"inputs": [{"lo": 0}]}'),
        ("golden", '{"inputs": [], "codes": {}, "outputs": ["gASVAA=="]}'),
        ("digests", "[1]"),
        ("classes", "3"),
        ("classes", "[1, 2]"),
        ("tensors", "[" * 10_000),
        ("tensors", "[null]"),
        ("layers", '{"name": 5}'),
        ("normalization", '{"mean": null, "std": 64}'),
        ("normalization", '{"mean": 128, "std": 0}'),
        ("normalization", '{"mean": 1e400, "std": 1}'),
        ("accuracy", "{}"),
        ("accuracy", '{"dataset": "digits", "fingerprint": "", "images": "40", "integer": 97.5}'),
        ("accuracy", '{"dataset": "digits", "fingerprint": "", "images": 40, "integer": NaN}'),
        ("digests", '{"initializers": {"x": 5}, "nodes": {}, "metadata": {}, "graph": ""}'),
        ("digests", '{"initializers": {}, "nodes": {}, "metadata": {}, "graph": "", "more": 1}'),
    ],
)
def test_damaged_entries_are_named(key: str, value: str) -> None:
    model = exported()
    next(p for p in model.metadata_props if p.key == PREFIX + key).value = value
    with pytest.raises(UserError, match=f"{PREFIX}{key} is damaged"):
        read_metadata(model)


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", None), ("scale", 0), ("scale", "1"), ("zero_point", 256), ("bits", 2.5), ("lo", -1), ("name", 5)],
)
def test_fields_of_records_have_their_types(field: str, value: object) -> None:
    row = {**dataclasses.asdict(METADATA.tensors[0]), field: value}
    model = exported()
    next(p for p in model.metadata_props if p.key == PREFIX + "tensors").value = json.dumps([row])
    with pytest.raises(UserError, match=rf"tensors is damaged \(0\.{field}"):
        read_metadata(model)


def zeros(*shape: int) -> str:
    return encode_array(np.zeros(shape))


def npy(header: str) -> str:
    """The base64 text of an array that is only a header."""
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()).decode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lo", 1e30),
        ("lo", 16),
        ("hi", 300),
        ("scale", -1),
        ("shape", [2, 10**9, 10**9]),
        ("shape", [0]),
        ("shape", "22"),
        ("normalization", {"mean": [], "std": []}),
        ("outputs", ["no base64"]),
        ("outputs", [npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }")]),
        ("outputs", [npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }")]),
        ("outputs", [npy("[" * 200)]),
        ("outputs", [5]),
        ("outputs", [{"shape": [2, 3, 90, 90], "digest": "ab", "values": "no base64"}]),
        ("outputs", [{"shape": [2, 3, 90, 90], "digest": "ab", "values": zeros(2, 3, 30, 30)}]),
        ("outputs", [{"shape": [2, 3, 2**15, 2**15], "digest": "ab", "values": zeros(2, 3, 26, 26)}]),
        ("outputs", [{"shape": [2, 3], "digest": "", "values": zeros(2, 3)}]),
    ],
)
def test_golden_recipes_and_outputs_are_bounded(field: str, value: object) -> None:
    model = exported()
    entry = next(p for p in model.metadata_props if p.key == PREFIX + "golden")
    table = json.loads(entry.value)
    (table if field == "outputs" else table["inputs"][0])[field] = value
    entry.value = json.dumps(table)
    with pytest.raises(UserError, match="golden is damaged"):
        read_metadata(model)


def test_array_digest_depends_on_type_and_shape() -> None:
    zeros = np.zeros(4, np.uint8)
    assert len({array_digest(a) for a in (zeros, zeros.view(np.int8), zeros.reshape(2, 2), zeros.view(np.int32))}) == 4
