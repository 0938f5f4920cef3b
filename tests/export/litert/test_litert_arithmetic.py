"""XNNPACK's arithmetic as the writer takes it to be, on every pair of codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qkd-deploy[litert]'")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from qkd_deploy.export.litert.additions import exact_label, fixed_point_sum
from qkd_deploy.export.litert.context import LiteContext
from qkd_deploy.export.litert.flatbuffer import FlatGraph
from qkd_deploy.export.litert.grid import Grid, fitted, made_grid, true_grid
from qkd_deploy.export.litert.pairs import Floats
from qkd_deploy.graph.exact.add_scale import CodeRange, portable_add_scale
from qkd_deploy.graph.exact.pairs import deviation
from qkd_deploy.graph.quantized import QuantParams

BYTES = np.arange(-128, 128)
ONE, TWO = (side.reshape(1, 256, 256, 1) for side in np.meshgrid(BYTES, BYTES, indexing="ij"))


def on_all_pairs(code: str, options: object, a: Grid, b: Grid, y: Grid) -> np.ndarray:
    """Centered codes of a kernel for every pair of bytes."""
    graph = FlatGraph()
    named = zip("ab", (a, b), strict=True)
    operands = [graph.tensor(name, ONE.shape, np.int8, scale=g.label, zero_point=g.zero) for name, g in named]
    made = graph.tensor("y", ONE.shape, np.int8, scale=y.label, zero_point=y.zero)
    graph.operator(code, operands, [made], options)
    interpreter = Interpreter(model_content=graph.content(operands, [made], "", "record"), num_threads=1)
    interpreter.allocate_tensors()
    assert interpreter._get_ops_details()[-1]["op_name"] == "DELEGATE"
    for entry, values in zip(interpreter.get_input_details(), (ONE, TWO), strict=True):
        interpreter.set_tensor(entry["index"], values.astype(np.int8))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(np.int64) - y.zero


def grid(scale: float, zero_point: int) -> Grid:
    return true_grid(QuantParams(scale, 8, zero_point, -zero_point, 255 - zero_point))


def sums(seed: int) -> tuple[Grid, Grid, Grid]:
    """Grids of a sum, as ``freeze`` sets them."""
    rng = np.random.default_rng(seed)
    ranges = [
        CodeRange(float(np.float32(np.exp(rng.uniform(-5, -2)))), z, -z, 255 - z) for z in rng.choice([0, 128], 3)
    ]
    a, b, y = ranges
    start = max(a.scale, b.scale) * rng.uniform(0.8, 1.9)
    scale = portable_add_scale(a, b, CodeRange(start, y.zero_point, y.lo, y.hi), "sum")
    return grid(a.scale, a.zero_point), grid(b.scale, b.zero_point), grid(scale, y.zero_point)


def test_sums_in_fixed_point() -> None:
    found = []
    for seed in range(12):
        a, b, y = sums(seed)
        made = on_all_pairs("ADD", schema.AddOptionsT(), a, b, y)
        expected = fixed_point_sum(ONE.ravel() - a.zero, TWO.ravel() - b.zero, a.label, b.label, y.label)
        assert expected is not None
        np.testing.assert_array_equal(made.ravel(), expected.clip(-128 - y.zero, 127 - y.zero))
        found.append(exact_label(a, b, y, same=False))
    assert 4 < sum(label is not None for label in found) < 12  # some sums have no exact form in fixed point


@pytest.mark.parametrize("seed", [0, 3])
def test_a_label_that_is_found_gives_every_sum(seed: int) -> None:
    a, b, y = sums(seed)
    label = exact_label(a, b, y, same=False)
    assert label is not None
    made = on_all_pairs("ADD", schema.AddOptionsT(), a, b, Grid(y.params, y.zero, label))
    real = (ONE - a.zero).astype(np.float32) * np.float32(a.scale) + (TWO - b.zero).astype(np.float32) * np.float32(
        b.scale
    )
    np.testing.assert_array_equal(made, np.rint(real / np.float32(y.scale)).clip(y.params.lo, y.params.hi))


def test_products_are_rounded_once() -> None:
    for seed in range(6):
        a, b, y = sums(seed)
        y = grid(a.scale * b.scale * 255, 128)
        made = on_all_pairs("MUL", schema.MulOptionsT(), a, b, y)
        ratio = np.float32(a.scale) * np.float32(b.scale) / np.float32(y.scale)
        products = ((ONE - a.zero) * (TWO - b.zero)).astype(np.float32)
        np.testing.assert_array_equal(made, np.rint(products * ratio).clip(-128, 127))


@pytest.mark.parametrize("seed", range(4))
def test_weights_make_up_for_labels(seed: int) -> None:
    """Codes of every sum are those of the wanted multipliers, whatever the labels of both sides are."""
    rng = np.random.default_rng(seed)
    x = made_grid(QuantParams(0.031, 4, 8, -8, 7))
    y = made_grid(QuantParams(0.017, 4, 8, -8, 7))
    assert x.cut == y.cut == "RELU_N1_TO_1" and round(1 / y.label) == 8 and y.limits == (112, 127)
    wanted = np.exp(rng.uniform(-8, -2, 64)).astype(np.float32)
    found = fitted(wanted, x, y)
    assert found is not None
    chosen, scales = found
    made = scales * np.float32(x.label) / np.float32(chosen.label)
    sums_of_products = np.arange(-(2**16), 2**16).astype(np.float32)
    for one, other in zip(wanted, made, strict=True):
        np.testing.assert_array_equal(*(np.rint(sums_of_products * m).clip(-8, 7) for m in (one, other)))


def test_weights_that_decide_ties_otherwise_are_not_taken() -> None:
    """Between labels that are no powers of two, some multipliers have no scales; those of ties must be exact."""
    x = true_grid(QuantParams(0.0321, 8, 128, -128, 127))
    missing = 0
    wanted, ties = np.array([0.5], np.float32), np.arange(-301, 302).astype(np.float32)
    for label in np.linspace(0.011, 0.019, 200):
        found = fitted(wanted, x, true_grid(QuantParams(float(label), 8, 128, -128, 127)))
        missing += found is None
        if found is not None:
            made = found[1] * np.float32(x.label) / np.float32(found[0].label)
            np.testing.assert_array_equal(np.rint(ties * made).clip(-128, 127), np.rint(ties * 0.5).clip(-128, 127))
    assert missing


def test_roots_in_pairs_are_those_of_float64() -> None:
    rng, length, eps = np.random.default_rng(0), 192, 3.7
    rows = rng.integers(-128, 128, (20_000, length)) // rng.integers(1, 40, (20_000, 1))
    total, squares = rows.sum(1, keepdims=True), (rows**2).sum(1, keepdims=True)
    ctx = LiteContext(frozen=None)  # type: ignore[arg-type]  # which numbers need not
    given = [ctx.file.tensor(name, total.shape) for name in ("total", "squares")]
    made = deviation(Floats(ctx, "row"), *given, length, eps)
    interpreter = Interpreter(model_content=ctx.file.content(given, [made], "", "record"), num_threads=1)
    interpreter.allocate_tensors()
    for entry, values in zip(interpreter.get_input_details(), (total, squares), strict=True):
        interpreter.set_tensor(entry["index"], values.astype(np.float32))
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    variance = (squares * length - total * total).astype(np.float64) / length**2
    np.testing.assert_array_equal(got, np.sqrt(variance + eps).astype(np.float32))


def test_a_file_is_the_same_again_and_constants_are_stored_once() -> None:
    def content() -> bytes:
        graph = FlatGraph()
        first, second = (graph.constant(name, np.ones(7, np.float32)) for name in "ab")
        assert first == second and graph.constant("c", np.ones(7, np.int8), scale=0.5) != first
        return graph.content([], [first], "text", "key")

    assert content() == content() and content().count(b"text") == 1


def test_codes_are_cut_by_bytes_and_activation_functions() -> None:
    unsigned, signed = QuantParams(0.1, 4, 0, 0, 15), QuantParams(0.1, 4, 8, -8, 7)
    assert (made_grid(unsigned).cut, made_grid(unsigned).limits) == ("RELU", (112, 127))
    assert (made_grid(signed).cut, made_grid(signed).label) == ("RELU_N1_TO_1", 0.125)
    whole = made_grid(QuantParams(0.1, 8, 128, -128, 127))
    assert whole.cut == "NONE" and whole.is_true
    assert torch.isclose(unsigned.scale, torch.tensor(0.1))
