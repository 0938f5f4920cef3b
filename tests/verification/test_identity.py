"""Mutations: any change of a constant, node or table is found and named, with and without digests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from mutations import (
    MUTATIONS,
    Mutation,
    copy_of,
    dropped_node,
    remove_digests,
    rewired,
    set_constant,
    weight_code,
)
from onnx import numpy_helper
from small_network import small_network

from qkd_deploy.export.metadata import PREFIX, graph_digests, read_metadata, write_metadata
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.verification.checks.fresh_export import against_expected
from qkd_deploy.verification.checks.identity import against_digests
from qkd_deploy.verification.verify import verify_onnx


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return small_network()


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
        try:
            report = verify_onnx(path, expected=expected, threads=(1,))
        except NotAsExportedError:  # no graph that could be run
            assert mutate in (dropped_node, rewired)
            continue
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
    assert "export it again" in report.verdict
    compared = verify_onnx(tmp_path / "model.onnx", expected=original)
    assert "metadata entry digests is missing" in compared.verdict


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


def test_other_way_of_storing_the_same_constant_is_another_file(original: onnx.ModelProto) -> None:
    """Raw bytes or typed lists: digests are of values, but the whole file is compared with a fresh export."""
    model = copy_of(original)
    tensor = next(t for t in model.graph.initializer if t.name == "stem.scale")
    value = float(numpy_helper.to_array(tensor))
    tensor.CopyFrom(onnx.helper.make_tensor("stem.scale", onnx.TensorProto.FLOAT, [], [value]))
    (difference,) = against_expected(model, original, read_metadata(model))
    assert difference.kind == "file" and "in another order or form" in difference.message
    assert graph_digests(model) == graph_digests(original)
