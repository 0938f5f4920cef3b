"""Mutations: any change of a constant, node or table is found and named, with and without digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_network import small_network

from qkd_deploy.export.metadata import PREFIX, graph_digests, read_metadata, write_metadata
from qkd_deploy.verification.identity import against_digests, against_expected
from qkd_deploy.verification.verify import verify_onnx

Mutation = Callable[[onnx.ModelProto, np.random.Generator], str]


def set_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    old = numpy_helper.to_array(tensor)
    new = np.asarray(change(old.copy()), old.dtype)
    assert new.tobytes() != old.tobytes()
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return name


def any_constant(model: onnx.ModelProto, rng: np.random.Generator, suffix: str) -> str:
    return str(rng.choice([t.name for t in model.graph.initializer if t.name.endswith(suffix)]))


def one_step(model: onnx.ModelProto, rng: np.random.Generator, suffix: str) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] += 1 if array[at] < np.iinfo(array.dtype).max else -1
        return array

    return set_constant(model, any_constant(model, rng, suffix), change)


def one_ulp(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] = np.nextafter(array[at], np.float32(rng.choice([0, 9])))
        return array

    return set_constant(model, any_constant(model, rng, "scale"), change)


def weight_code(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, ".weight")


def bias(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, ".bias")


def zero_point(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, "zero_point")


def clip_bound(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, str(rng.choice([".lo", ".hi"])))


def swapped_channels(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        first, second = rng.choice(len(array), 2, replace=False)
        array[[first, second]] = array[[second, first]]
        return array

    return set_constant(model, any_constant(model, rng, ".weight"), change)


def removed_node(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Remove a node with one reader and connect what it read to that reader, where this makes a valid graph."""
    removable = [n for n in model.graph.node if n.op_type in ("Clip", "MaxPool")]
    node = removable[int(rng.integers(len(removable)))]
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = node.input[0]
    model.graph.node.remove(node)
    return node.name


def dropped_node(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    node = model.graph.node[int(rng.integers(len(model.graph.node)))]
    model.graph.node.remove(node)
    return node.name


def attribute(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    node = next(n for n in model.graph.node if n.name == "stem/Conv")
    pads = next(a for a in node.attribute if a.name == "pads")
    pads.ints[0], pads.ints[2] = 0, 2
    return node.name


def rewired(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    node = next(n for n in model.graph.node if n.name == "block.add/Add")
    node.input[0] = node.input[1]
    return node.name


MUTATIONS = [
    weight_code, bias, zero_point, clip_bound, one_ulp,
    swapped_channels, removed_node, dropped_node, attribute, rewired,
]  # fmt: skip


def remove_digests(model: onnx.ModelProto) -> None:
    kept = [prop for prop in model.metadata_props if prop.key != PREFIX + "digests"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return small_network()


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_every_mutation_fails_verification_and_is_named(
    mutate: Mutation, original: onnx.ModelProto, tmp_path: Path
) -> None:
    """Twenty-two mutations of each kind, with digests, with a checkpoint, and with a checkpoint but no digests."""
    path, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    for attempt in range(22):
        model = copy_of(original)
        name = mutate(model, rng)
        module = read_metadata(original).module_of(name)
        expected = original if attempt % 2 else None
        if attempt % 4 == 1:
            remove_digests(model)
        onnx.save(model, path)
        report = verify_onnx(path, expected=expected, threads=(1,))
        assert not report.passed
        found = {difference.name: difference for difference in report.identity}
        assert name in found
        assert found[name].module == module
        assert name in found[name].message


def test_untouched_file_passes(original: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(original, path)
    for expected in (None, original):
        report = verify_onnx(path, expected=expected)
        assert report.passed, report.verdict
        assert report.identity == []
        assert report.differing_codes == 0 < report.compared_codes


def test_rewritten_digests_hide_nothing_from_the_checkpoint(original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    name = weight_code(model, np.random.default_rng(1))
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    assert against_digests(model, read_metadata(model)) == []
    report = verify_onnx(tmp_path / "model.onnx", expected=original)
    assert not report.passed
    assert report.identity[0].name == name


def test_rewritten_digests_do_not_hide_from_golden_codes(original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    set_constant(model, "block.conv1.weight", lambda array: np.flip(array, 0))
    write_metadata(model, read_metadata(model))
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx")
    assert not report.passed
    assert {(d.kind, d.module) for d in report.identity} >= {("golden", "block.conv1")}


def test_file_without_digests_needs_a_checkpoint(original: onnx.ModelProto, tmp_path: Path) -> None:
    model = copy_of(original)
    remove_digests(model)
    onnx.save(model, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx")
    assert not report.passed
    assert "carries no digests" in report.verdict
    assert "--checkpoint" in report.verdict
    assert verify_onnx(tmp_path / "model.onnx", expected=original).passed


@pytest.mark.parametrize(
    ("key", "value"), [("bits", "w2a2"), ("normalization", '{"mean": 0, "std": 1}'), ("tensors", "[]")]
)
def test_changed_tables_are_found(original: onnx.ModelProto, key: str, value: str) -> None:
    expected = copy_of(original)
    if key == "normalization":
        expected.metadata_props.add(key=PREFIX + key, value='{"mean": 128, "std": 64}')
    model = copy_of(expected)
    next(prop for prop in model.metadata_props if prop.key == PREFIX + key).value = value
    metadata = read_metadata(original)
    assert [(d.kind, d.name) for d in against_expected(model, expected, metadata)] == [("metadata", PREFIX + key)]
    assert ("metadata", PREFIX + key) in {(d.kind, d.name) for d in against_digests(model, metadata)}


def test_message_counts_and_locates_changed_values(original: onnx.ModelProto) -> None:
    model = copy_of(original)

    def change(array: np.ndarray) -> np.ndarray:
        array[1, 2, 0, 1] = 77
        return array

    set_constant(model, "block.conv1.weight", change)
    (difference,) = against_expected(model, original, read_metadata(original))
    assert "1 of 576 values changed, first 77 instead of" in difference.message
    assert "[1, 2, 0, 1]" in difference.message
    assert difference.module == "block.conv1"


def test_added_constant_and_added_node_are_found(original: onnx.ModelProto) -> None:
    model = copy_of(original)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "smuggled"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["fc.gemm"], ["again"], "copy/Identity"))
    for differences in (
        against_digests(model, read_metadata(model)),
        against_expected(model, original, read_metadata(model)),
    ):
        assert {"smuggled", "copy/Identity", "graph"} == {difference.name for difference in differences}


def test_other_way_of_storing_the_same_constant_is_no_difference(original: onnx.ModelProto) -> None:
    """Raw bytes or typed lists: the values count."""
    model = copy_of(original)
    tensor = next(t for t in model.graph.initializer if t.name == "stem.scale")
    value = float(numpy_helper.to_array(tensor))
    tensor.CopyFrom(onnx.helper.make_tensor("stem.scale", onnx.TensorProto.FLOAT, [], [value]))
    assert against_expected(model, original, read_metadata(model)) == []
    assert graph_digests(model) == graph_digests(original)
