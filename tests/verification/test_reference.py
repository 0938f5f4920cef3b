"""The interpreter as a whole: networks, float islands, broken graphs."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agreement
from graph_builder import GraphBuilder
from small_network import images, normalised, small_network

from qkd_deploy.errors import UserError
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.runtime import CodesModel


@pytest.mark.parametrize("seed", range(4))
def test_network_agrees_in_every_code(seed: int) -> None:
    result = assert_agreement(small_network(seed=seed), {"x": normalised(images(16, seed))})
    assert len(result.codes) == 9  # eight tensors, and one before its Clip
    assert all(len(np.unique(codes)) > 2 for codes in result.codes.values())


def test_codes_pass_through_moves() -> None:
    """Transpose, Slice, Reshape, Split and Pad on codes, on a dequantized value and on floats."""
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 4, 6, 6]), "x_q", 0.0173, 128)
    x = graph.node("Transpose", [x], "turn", perm=[0, 2, 3, 1])
    bounds = [graph.constant(f"cut.{name}", [value], np.int64) for name, value in (("from", 1), ("to", 5), ("axis", 1))]
    x = graph.node("Slice", [x, *bounds], "cut")
    x = graph.node("Reshape", [x, graph.constant("shape", [0, -1], np.int64)], "flat")
    sizes = graph.constant("sizes", [36, 60], np.int64)
    first = graph.node("Split", [x, sizes], "split", outputs=2, axis=1)
    codes = graph.node("QuantizeLinear", [first, "x_q.scale", "x_q.zero_point"], "again")
    pads = [graph.constant("pads", [0, 2, 0, 1], np.int64), graph.constant("pad_value", 128, np.uint8)]
    padded = graph.node("Pad", [codes, *pads], "pad")
    graph.output(graph.node("DequantizeLinear", [padded, "x_q.scale", "x_q.zero_point"], "end"), rank=2)
    assert_agreement(graph.build(), {"x": normalised(np.resize(images(8), (8, 4, 6, 6)))})


def test_everything_behind_a_float_operator_is_marked() -> None:
    result = ReferenceModel(small_network(activation="HardSwish", golden=False)).run({"x": normalised(images(4))})
    marked = {name for name in result.codes if name in result.after_float}
    assert marked == {"block.act.quantized", "pool.quantized", "gap.quantized"}
    assert set(result.outputs) <= result.after_float


def test_convolution_without_quantizer_is_a_float_operator() -> None:
    model = small_network(quantize_residual=False, golden=False)
    feeds = {"x": normalised(images(32))}
    outputs, codes = CodesModel(model).run(feeds)
    result = ReferenceModel(model).run(feeds, continue_with=codes)
    assert "block.add.quantized" in result.after_float
    assert "block.conv1.codes" not in result.after_float
    for name, values in codes.items():
        differing = np.count_nonzero(values != result.codes[name])
        assert differing <= (1e-5 * values.size + 3 if name in result.after_float else 0)
    for name, values in outputs.items():
        np.testing.assert_allclose(result.outputs[name], values, rtol=1e-4, atol=1e-4)


def test_interpreter_goes_on_with_the_codes_it_is_given() -> None:
    """Behind a float operator a foreign code replaces the own one, which is still reported."""
    model = small_network(activation="HardSwish", golden=False)
    feeds = {"x": normalised(images(2))}
    own = ReferenceModel(model).run(feeds)
    shifted = {"block.act.quantized": own.codes["block.act.quantized"] ^ 64}
    given = ReferenceModel(model).run(feeds, continue_with=shifted)
    np.testing.assert_array_equal(given.codes["block.act.quantized"], own.codes["block.act.quantized"])
    assert (given.codes["gap.quantized"] != own.codes["gap.quantized"]).any()


def test_codes_given_for_integer_tensors_are_ignored() -> None:
    model, feeds = small_network(golden=False), {"x": normalised(images(2))}
    own = ReferenceModel(model).run(feeds)
    zeros = {name: np.zeros_like(codes) for name, codes in own.codes.items()}
    np.testing.assert_array_equal(
        ReferenceModel(model).run(feeds, continue_with=zeros).outputs["fc.gemm"], own.outputs["fc.gemm"]
    )


def test_uint8_input_is_read_as_codes() -> None:
    graph = GraphBuilder()
    pixels = graph.input("pixels", ["batch", 3, 4, 4], "uint8")
    graph.constant("pixels.scale", 1 / 64)
    graph.constant("pixels.zero_point", 128, np.uint8)
    x = graph.dequantize(pixels, "pixels")
    y = graph.layer("Conv", x, "conv", np.ones((2, 3, 1, 1)), np.full(2, 0.01), input_scale=1 / 64, bias=np.ones(2))
    graph.output(graph.quantize(y, "y", 0.05, 128), rank=4)
    result = assert_agreement(graph.build(), {"pixels": np.resize(images(2), (2, 3, 4, 4))}, ("QLinearConv",))
    assert set(result.codes) == {"pixels", "y.quantized"}


def test_unknown_operator_is_named() -> None:
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 4]), "x_q", 0.1)
    graph.output(graph.node("Frobnicate", [x], "odd", domain="com.microsoft"), rank=2)
    with pytest.raises(UserError, match="cannot evaluate Frobnicate 'odd/Frobnicate'"):
        ReferenceModel(graph.build()).run({"x": np.zeros((1, 4), np.float32)})


def test_size_dependent_pads_are_refused() -> None:
    graph = GraphBuilder()
    x = graph.quantize(graph.input("x", ["batch", 2, 5, 5]), "x_q", 0.1)
    y = graph.layer("Conv", x, "conv", np.ones((2, 2, 3, 3)), np.full(2, 0.01), auto_pad="SAME_UPPER")
    graph.output(graph.quantize(y, "y", 0.05, 128), rank=4)
    with pytest.raises(UserError, match="auto_pad=SAME_UPPER"):
        ReferenceModel(graph.build()).run({"x": np.zeros((1, 2, 5, 5), np.float32)})


def test_operand_shapes_that_do_not_fit_are_a_sentence() -> None:
    model = small_network(golden=False)
    with pytest.raises(UserError, match="cannot evaluate QuantizeLinear 'stem/QuantizeLinear'"):
        ReferenceModel(model).run({"x": np.zeros((1, 4, 8, 8), np.float32)})


def test_constant_folding_leaves_only_activations() -> None:
    """Weights are unpacked once: no node of theirs runs per batch, and no code of theirs is reported."""
    model = small_network(golden=False)
    result = ReferenceModel(model).run({"x": normalised(images(1))})
    weights = {tensor.name for tensor in model.graph.initializer}
    assert not weights & set(result.codes)
