"""Files that would be one thing to a reader and another to the runtime, or that nobody should run: all are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from mutations import copy_of
from onnx import TensorProto, helper, numpy_helper
from small_network import small_network

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata, write_metadata
from qkd_deploy.gate.onnx_file import read_exported, require_exported
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.verification.verify import verify_onnx

WEIGHT = "block.conv1.weight"
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def honest() -> onnx.ModelProto:
    return small_network()


def constant(model: onnx.ModelProto, name: str = WEIGHT) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def flipped(model: onnx.ModelProto) -> onnx.TensorProto:
    return numpy_helper.from_array(-numpy_helper.to_array(constant(model)), WEIGHT)


def shadow_behind(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(flipped(model))


def shadow_in_front(model: onnx.ModelProto) -> None:
    kept = [flipped(model), *model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def sparse_shadow(model: onnx.ModelProto) -> None:
    values = helper.make_tensor(WEIGHT, TensorProto.INT8, [1], b"\x07", raw=True)
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(constant(model).dims)))


def input_over_constant(model: onnx.ModelProto) -> None:
    """An initializer that is an input too is only a default."""
    described = helper.make_tensor_value_info(WEIGHT, TensorProto.INT8, list(constant(model).dims))
    model.graph.input.append(described)


def node_over_constant(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Neg", ["stem.scale"], ["low.scale"], "shadow/Neg"))


def constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = constant(model)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def two_kinds_of_data(model: onnx.ModelProto) -> None:
    constant(model).int32_data.extend([1] * 576)


def short_data(model: onnx.ModelProto) -> None:
    constant(model).raw_data = constant(model).raw_data[:-3]


def huge_shape(model: onnx.ModelProto) -> None:
    constant(model).dims[:] = [10**5, 10**5]


def negative_shape(model: onnx.ModelProto) -> None:
    constant(model).dims[:] = [-8, -72]


def unknown_type(model: onnx.ModelProto) -> None:
    constant(model).data_type = 77


def text_constant(model: onnx.ModelProto) -> None:
    constant(model).data_type = TensorProto.STRING


def other_description(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info(WEIGHT, TensorProto.INT8, [576]))


def described_value(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("fc.gemm", TensorProto.FLOAT, ["batch", 7]))


def other_mark(model: onnx.ModelProto) -> None:
    """The producer's name lies where ONNX Runtime looks for the mark of its own format."""
    model.producer_name = "ORTM" + "x" * 60


def documentation(model: onnx.ModelProto) -> None:
    model.doc_string = "VERIFIED"


def foreign_entry(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')


def entry_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="qkd_deploy.bits", value="w2a2")


def function(model: onnx.ModelProto) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    made = helper.make_function("mine", "Clip", ["x"], ["y"], [relu], [helper.make_opsetid("", 21)])
    model.functions.append(made)


def other_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node(model, "MaxPool").domain = "com.microsoft"


def unknown_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 10**6


def put_in_front(model: onnx.ModelProto, operator: str, inputs: list[str], **attributes: object) -> None:
    """Let the pooling read what another node makes."""
    pool = node(model, "MaxPool")
    at = list(model.graph.node).index(pool)
    given = [pool.input[0] if name == "x" else name for name in inputs]
    made = helper.make_node(operator, given, ["made"], f"made/{operator}", **attributes)
    model.graph.node.insert(at, made)
    pool.input[0] = "made"


def number(model: onnx.ModelProto, name: str, value: object, kind: type = np.int64) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
    return name


def endless_loop(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("going", "value")],
        "body",
        [kind("i", TensorProto.INT64, []), kind("going", TensorProto.BOOL, []), kind("value", TensorProto.FLOAT, None)],
        [kind("going_out", TensorProto.BOOL, []), kind("value_out", TensorProto.FLOAT, None)],
    )
    put_in_front(model, "Loop", ["", number(model, "true", True, bool), "x"], body=body)


def branch(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    sides = (helper.make_graph([helper.make_node("Relu", ["stem.dequantized"], ["out"])], "side", [], [kind]),) * 2
    put_in_front(model, "If", [number(model, "true", True, bool)], then_branch=sides[0], else_branch=sides[1])


def chance(model: onnx.ModelProto) -> None:
    put_in_front(model, "RandomNormalLike", ["x"], dtype=TensorProto.FLOAT)


def gigabytes_of_zeros(model: onnx.ModelProto) -> None:
    put_in_front(model, "ConstantOfShape", [number(model, "sizes", [2, 8, 10**5, 10**5])])


def gigabytes_of_copies(model: onnx.ModelProto) -> None:
    put_in_front(model, "Tile", ["x", number(model, "times", [1, 1, 10**5, 10**4])])


def gigabytes_of_border(model: onnx.ModelProto) -> None:
    put_in_front(model, "Pad", ["x", number(model, "pads", [0, 0, 0, 0, 0, 0, 10**5, 10**5])])


def huge_input(model: onnx.ModelProto) -> None:
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (None, 3, 10**5, 10**5), strict=True):
        if size is not None:
            dim.dim_value = size


def no_groups(model: onnx.ModelProto) -> None:
    next(a for n in model.graph.node for a in n.attribute if a.name == "group").i = 0


def no_stride(model: onnx.ModelProto) -> None:
    next(a for a in node(model, "MaxPool").attribute if a.name == "strides").ints[:] = [0, 0]


def attribute_of_two_types(model: onnx.ModelProto) -> None:
    next(a for a in node(model, "MaxPool").attribute if a.name == "strides").i = 3


def no_inputs(model: onnx.ModelProto) -> None:
    del node(model, "Clip").input[:]


def empty_scale(model: onnx.ModelProto) -> None:
    constant(model, "stem.scale").CopyFrom(numpy_helper.from_array(np.zeros(0, np.float32), "stem.scale"))


def matrix_scale(model: onnx.ModelProto) -> None:
    constant(model, "stem.scale").CopyFrom(numpy_helper.from_array(np.ones((1, 1), np.float32), "stem.scale"))


def infinite_scale(model: onnx.ModelProto) -> None:
    constant(model, "stem.scale").CopyFrom(numpy_helper.from_array(np.float32(np.inf), "stem.scale"))


def scale_of_integers(model: onnx.ModelProto) -> None:
    constant(model, "stem.scale").CopyFrom(numpy_helper.from_array(np.array(1), "stem.scale"))


def scale_from_outside(model: onnx.ModelProto) -> None:
    constant(model, "stem.scale").name = "elsewhere"
    model.graph.input.append(helper.make_tensor_value_info("stem.scale", TensorProto.FLOAT, []))


def nameless_node(model: onnx.ModelProto) -> None:
    node(model, "MaxPool").name = ""


def output_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def quiet(model: onnx.ModelProto) -> None:
    """A note of ONNX's for other readers about how a tensor is quantized."""
    model.graph.quantization_annotation.add(tensor_name="fc.gemm")


CHANGES = [
    shadow_behind, shadow_in_front, sparse_shadow, input_over_constant, node_over_constant, constant_elsewhere,
    two_kinds_of_data, short_data, huge_shape, negative_shape, unknown_type, text_constant, other_description,
    described_value, other_mark, documentation, foreign_entry, entry_twice, function, other_domain, unknown_opset,
    endless_loop, branch, chance, gigabytes_of_zeros, gigabytes_of_copies, gigabytes_of_border, huge_input, no_groups,
    no_stride, attribute_of_two_types, no_inputs, empty_scale, matrix_scale, infinite_scale, scale_of_integers,
    scale_from_outside, nameless_node, output_twice, quiet,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_another_form_is_refused_before_anything_runs(
    change: Change, honest: onnx.ModelProto, tmp_path: Path
) -> None:
    """With digests that fit the changed file, and given as its own fresh export: the gate alone stands in the way."""
    model = copy_of(honest)
    change(model)
    if change not in (entry_twice, constant_elsewhere):
        write_metadata(model, read_metadata(honest))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NotAsExportedError) as refused:
        verify_onnx(path, expected=model)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("; export it again")


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def unknown_field_in_front(data: bytes) -> bytes:
    """As ONNX Runtime's own format begins: its mark lies at the fifth byte, whatever protobuf makes of it."""
    return b"H\x00I\x00ORTM\x00\x00\x00" + data


def unknown_field_behind(data: bytes) -> bytes:
    return data + field(999, b"another model")


def graph_twice(data: bytes) -> bytes:
    """Readers join two messages of one field."""
    return data + field(7, field(2, b"qkd_deploy"))


def value_twice(data: bytes) -> bytes:
    """Readers take the last of two numbers."""
    return b"\x08\x03" + data


def long_number(data: bytes) -> bytes:
    assert data[:2] == b"\x08\x0a"
    return b"\x08\x8a\x00" + data[2:]


def fields_in_another_order(data: bytes) -> bytes:
    return data[2:] + data[:2]


BYTES = [unknown_field_in_front, unknown_field_behind, graph_twice, value_twice, long_number, fields_in_another_order]


@pytest.mark.parametrize("change", BYTES)
def test_bytes_with_more_than_one_meaning_are_refused(
    change: Callable[[bytes], bytes], honest: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(change(honest.SerializeToString()))
    with pytest.raises(NotAsExportedError, match="its bytes hold more, or in another form"):
        read_exported(path)


def test_text_that_is_no_text_is_refused(honest: onnx.ModelProto, tmp_path: Path) -> None:
    for name in (b"stem.scale", b"stem/Conv", b"qkd_deploy.bits", b"w8a8", b"GlobalAveragePool"):
        path = tmp_path / "model.onnx"
        path.write_bytes(honest.SerializeToString().replace(name, b"\xff" + name[1:]))
        with pytest.raises(UserError, match="is no UTF-8 text"):
            read_exported(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with (tmp_path / "large.onnx").open("wb") as sparse:
        sparse.truncate(2**40)
    for name, reason in (("pipe.onnx", "no regular file"), ("large.onnx", "2 GiB"), ("a\0b.onnx", "cannot read")):
        with pytest.raises(UserError, match=reason):
            read_exported(tmp_path / name)


def test_an_honest_file_is_what_its_bytes_say(honest: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(honest.SerializeToString())
    read = read_exported(path)
    assert read.model == honest
    assert read.data == read.model.SerializeToString(deterministic=True)
    require_exported(read.model, read.data)
