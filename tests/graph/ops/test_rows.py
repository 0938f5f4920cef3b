"""Every row of the contract: its facts as a table, and what it claims about signs, slices and codes, on values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract.operator import Operands, Operator, Sign, Tail, signed
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops import OPERATORS, REWRITES, TORCH_OPS
from qkd_deploy.graph.ops.lookups import LOOKUPS, Lookup
from qkd_deploy.graph.quantized import LookupParams, QuantizedTensor, QuantParams

FACTS = """
input            QuantizeLinear           NONE       own -   -        -       -      internal
constant         -                        NONE       own -   -        -       -      internal
scalar           -                        NONE       -   -   -        -       -      internal
conv             QLinearConv              LAYER_BITS own -   -        -       -      absorbs_clip
linear           QGemm                    LAYER_BITS own -   -        -       -      floats_at_the_end absorbs_clip
add              QLinearAdd               WIDE       own -   portable -       beside absorbs_clip
mul              QLinearMul               WIDE       own -   portable bounded beside absorbs_clip
rescale          -                        CODES      -   -   -        -       beside internal
requantize       QLinearAdd               CODES      own -   portable bounded -      internal
matmul           QLinearMatMul            WIDE       own -   -        -       -      sums_products absorbs_clip
weighted_mean    MatMulInteger            WIDE       own -   -        -       -      sums_products internal
concat           QLinearConcat            WIDE       own -   -        -       tail   absorbs_clip
max_pool         MaxPool                  CODES      -   -   -        -       beside moves_with_clip
avg_pool         QLinearConv              WIDE       own -   -        bounded -      absorbs_clip
uneven_avg_pool  QLinearAveragePool       WIDE       own -   -        -       -      absorbs_clip
resize           Resize                   CODES      -   -   -        -       beside -
bilinear         QLinearConv              WIDE       own -   -        bounded tail   absorbs_clip
global_avg_pool  QLinearGlobalAveragePool EIGHT_BITS own -   portable bounded -      absorbs_clip
amax             ReduceMax                CODES      -   -   -        -       beside -
amin             ReduceMin                CODES      -   -   -        -       beside -
clip             QLinearAdd               WIDE       own -   portable bounded beside absorbs_clip
lookup           GatherElements           WIDE       own -   -        -       tail   -
leaky_relu       QLinearLeakyRelu         WIDE       own -   portable -       beside float_constants absorbs_clip
dropout          -                        CODES      -   -   -        -       -      moves_with_clip internal
sigmoid          QLinearSigmoid           WIDE       own 256 portable -       tail   -
tanh             QLinearSigmoid           WIDE       own 128 -        -       tail   -
hard_sigmoid     QLinearAdd               WIDE       own 256 -        -       tail   -
batch_norm       BatchNormalization       FLOATS     -   -   -        -       -      absorbs_clip internal
softmax          QLinearSoftmax           WIDE       own 256 -        -       tail   -
exponential      -                        WIDE       own 128 portable -       -      internal
expectation      -                        FLOATS     -   -   -        -       tail   float_constants internal
layer_norm       -                        WIDE       own -   -        -       -      float_constants
reshape          Reshape                  CODES      -   -   -        -       -      moves_with_clip
transpose        Transpose                CODES      -   -   -        -       -      moves_with_clip
pad              Pad                      CODES      -   -   -        -       beside pads
border           Concat                   CODES      -   -   -        -       beside pads internal
roll             Concat                   CODES      -   -   -        -       beside -
slice            Slice                    CODES      -   -   -        -       -      -
index            Gather                   CODES      -   -   -        -       -      -
expand           Expand                   CODES      -   -   -        -       -      -
byte_values      -                        NONE       own 1   -        -       -      internal
whole_numbers    QuantizeLinear           NONE       own -   -        -       -      floats_at_the_end internal
float_op         -                        FLOATS     -   -   -        -       -      internal
part             -                        FLOATS     -   -   -        -       -      internal
"""
"""Kind, kernel, needs of operands, own scale, 1 / its fixed scale, whether the scale is made portable, whether the
least value is known, whether it belongs to a tail in float (beside others, or always), and flags."""

FLAGS = (
    *("float_constants", "sums_products", "floats_at_the_end", "absorbs_clip"),
    *("moves_with_clip", "pads", "internal"),
)
TAILS = {Tail.NEVER: "-", Tail.BESIDE_OTHERS: "beside", Tail.ALWAYS: "tail"}
KINDS = sorted(OPERATORS)


def facts(row: Operator) -> list[str]:
    return [
        row.name,
        row.kernel or "-",
        row.operands.name,
        "own" if row.own_scale else "-",
        "-" if row.step is None else str(round(1 / row.step)),
        "portable" if row.portable_scale else "-",
        "bounded" if row.lower_bound else "-",
        TAILS[row.tail],
        *([flag for flag in FLAGS if getattr(row, flag)] or ["-"]),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_facts(kind: str) -> None:
    table = {line.split()[0]: line.split() for line in FACTS.strip().splitlines()}
    assert table.keys() == OPERATORS.keys()
    assert facts(OPERATORS[kind]) == table[kind]


# -- values ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """What nodes of these tests call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.conv = nn.Linear(8, 6), nn.Conv2d(4, 5, 3, padding=1)
        self.norm, self.gain = nn.BatchNorm2d(4), nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.norm.eval()


NETWORK = Net()
WINDOW = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
REF = Ref("x")
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "input": ((), {}, None),
    "conv": ((REF,), {}, "conv"),
    "linear": ((REF,), {}, "linear"),
    "add": ((REF, Ref("y")), {}, None),
    "mul": ((REF, Ref("y")), {}, None),
    "rescale": ((REF,), {"factor": 3.0}, None),
    "requantize": ((REF,), {}, None),
    "matmul": ((REF, Ref("z")), {}, None),
    "concat": (([REF, Ref("y")],), {"dim": 1}, None),
    "max_pool": ((REF,), {**WINDOW, "dilation": (1, 1), "ceil_mode": False}, None),
    "avg_pool": ((REF,), WINDOW, None),
    "uneven_avg_pool": ((REF,), {**WINDOW, "padding": (1, 1), "ceil_mode": True}, None),
    "global_avg_pool": ((REF,), {}, None),
    "amax": ((REF,), {"dim": (1,), "keepdim": False}, None),
    "amin": ((REF,), {"dim": (1,), "keepdim": False}, None),
    "clip": ((REF,), {}, None),
    "lookup": ((REF,), {}, F.gelu),
    "leaky_relu": ((REF, 0.01), {}, None),
    "dropout": ((REF,), {"p": 0.5}, F.dropout),
    "sigmoid": ((REF,), {}, None),
    "tanh": ((REF,), {}, None),
    "hard_sigmoid": ((REF,), {}, None),
    "batch_norm": ((REF,), {}, "norm"),
    "softmax": ((REF,), {}, None),
    "exponential": ((REF,), {}, None),
    "layer_norm": ((REF, None, None), {"eps": 1e-5}, None),
    "reshape": ((REF, (2, 4, 64)), {}, torch.reshape),
    "transpose": ((REF,), {"dims": (0, 3, 1, 2)}, None),
    "pad": ((REF,), {"amounts": ((0, 0), (0, 0), (1, 0), (0, 2)), "mode": "constant"}, None),
    "border": ((REF,), {"amounts": ((0, 0), (0, 0), (1, 0), (0, 2)), "values": (0.5, -1.0, 0.0, 2.0)}, None),
    "resize": ((REF,), {"factors": (2, 2)}, None),
    "bilinear": ((REF,), {"factors": (2, 2)}, None),
    "roll": ((REF,), {"shifts": (3,), "dims": (2,)}, None),
    "slice": ((REF,), {"ranges": ((2, 1, 5, 2),)}, None),
    "index": ((REF,), {"dim": 1, "positions": (3, 0, 0)}, None),
    "expand": ((REF,), {"sizes": (-1, -1, -1, -1)}, None),
    "float_op": ((REF,), {}, torch.abs),
    "part": ((REF, 1), {}, None),
    "expectation": ((REF, Ref("y")), {}, None),
}


def tensors(sign: Sign = Sign.SIGNED) -> dict[str, Tensor]:
    """Operands x and y [2, 4, 8, 8] and z [2, 4, 8, 3] of a sign."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (2, 4, 8, 8), "y": (2, 4, 8, 8), "z": (2, 4, 8, 3)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if sign is Sign.NONNEGATIVE:
        return {name: value.abs() for name, value in made.items()}
    return made if sign is Sign.SIGNED else {name: F.gelu(value) for name, value in made.items()}


def call(kind: str) -> tuple[Node, Graph]:
    """A node of that kind and the graph that it stands in."""
    args, kwargs, target = CALLS[kind]
    operands = [Node(name, "input", shape=tuple(value.shape)) for name, value in tensors().items()]
    node = Node("node", kind, args, kwargs, target=target)
    return node, Graph([*operands, node], ["x", "y", "z"], Ref("node"))


def evaluated(node: Node, values: dict[str, Any], compute: Callable[..., Any]) -> Any:
    def read(argument: Any) -> Any:
        if isinstance(argument, list):
            return [read(item) for item in argument]
        return values[argument.name] if isinstance(argument, Ref) else argument

    args = (values["x"],) if node.kind == "input" else tuple(read(argument) for argument in node.args)
    return compute(args, node.kwargs)


def floats(node: Node, values: dict[str, Tensor], *, training: bool = False) -> Tensor:
    row = OPERATORS[node.kind]
    with torch.no_grad():
        made = evaluated(node, values, lambda args, kwargs: row.floats(NETWORK, node, args, kwargs, training))
    assert isinstance(made, Tensor)
    return made


def _mean_of_windows(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, 2, 1, ceil_mode=True, count_include_pad=False)


EXPECTED: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    **dict.fromkeys(("input", "requantize", "clip", "expand"), lambda x, y, z: x),
    "conv": lambda x, y, z: NETWORK.conv(x),
    "linear": lambda x, y, z: NETWORK.linear(x),
    "batch_norm": lambda x, y, z: NETWORK.norm(x),
    "add": lambda x, y, z: x + y,
    "mul": lambda x, y, z: x * y,
    "rescale": lambda x, y, z: 3 * x,
    "matmul": lambda x, y, z: x @ z,
    "concat": lambda x, y, z: torch.cat([x, y], 1),
    "max_pool": lambda x, y, z: F.max_pool2d(x, 2),
    "avg_pool": lambda x, y, z: F.avg_pool2d(x, 2),
    "uneven_avg_pool": lambda x, y, z: _mean_of_windows(x),
    "global_avg_pool": lambda x, y, z: F.adaptive_avg_pool2d(x, 1),
    "amax": lambda x, y, z: x.amax(1),
    "amin": lambda x, y, z: x.amin(1),
    "lookup": lambda x, y, z: F.gelu(x),
    "leaky_relu": lambda x, y, z: F.leaky_relu(x),
    "dropout": lambda x, y, z: x,
    "sigmoid": lambda x, y, z: torch.sigmoid(x),
    "tanh": lambda x, y, z: torch.tanh(x),
    "hard_sigmoid": lambda x, y, z: F.hardsigmoid(x),
    "softmax": lambda x, y, z: x.softmax(-1),
    "exponential": lambda x, y, z: x.softmax(-1) / x.softmax(-1).amax(-1, keepdim=True),
    "layer_norm": lambda x, y, z: F.layer_norm(x, (8,)),
    "reshape": lambda x, y, z: x.flatten(2),
    "transpose": lambda x, y, z: x.permute(0, 3, 1, 2),
    "pad": lambda x, y, z: F.pad(x, (0, 2, 1, 0)),
    "border": lambda x, y, z: torch.stack(
        [F.pad(c, (0, 2, 1, 0), value=v) for c, v in zip(x.unbind(1), (0.5, -1, 0, 2), strict=True)], 1
    ),
    "resize": lambda x, y, z: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x, y, z: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "roll": lambda x, y, z: x.roll(3, 2),
    "slice": lambda x, y, z: x[:, :, 1:5:2],
    "index": lambda x, y, z: x[:, [3, 0, 0]],
    "float_op": lambda x, y, z: x.abs(),
    "part": lambda x, y, z: x[1],
    "expectation": lambda x, y, z: (x * y).sum(1, keepdim=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_floats_are_those_of_pytorch(kind: str) -> None:
    if kind in CALLS:
        node, _ = call(kind)
        with torch.no_grad():
            torch.testing.assert_close(floats(node, tensors()), EXPECTED[kind](*tensors().values()))
        return
    row, gain = OPERATORS[kind], NETWORK.gain.detach()
    if kind == "constant":
        found = row.floats(NETWORK, Node("gain", kind, target="gain"), (), {}, False)
        assert found is NETWORK.gain
    elif kind == "scalar":
        node = Node("size", kind, (REF, 0), method=True, target="size")
        assert row.floats(NETWORK, node, (gain, 0), {}, False) == 8
        source = QuantParams(0.1, 8, 0, 0, 255)
        assert row.integers(row, Frozen({}), node, (QuantizedTensor(gain, source), 0), {}) == 8
    elif kind in ("byte_values", "whole_numbers"):
        _check_whole_numbers(row)
    else:
        assert kind == "weighted_mean"
        _check_weighted_mean(row)


def _check_whole_numbers(row: Operator) -> None:
    """Bytes keep their values as codes; other whole numbers are rounded to a scale."""
    given, node = torch.arange(256, dtype=torch.uint8), Node("floats", row.name, (REF,), quantizer="out")
    assert torch.equal(row.floats(NETWORK, node, (given,), {}, False), given.float())
    scale = row.step or 0.5
    made = row.integers(row, Frozen({"out": QuantParams(scale, 8, 0, 0, 255)}), node, (given,), {})
    assert torch.equal(made.codes, (given.float() / scale).clamp(max=255))


def _check_weighted_mean(row: Operator) -> None:
    """Three operands: weights, values, and the weights before dropout."""
    weights, values = torch.rand(2, 4, 8), torch.randn(2, 8, 3)
    means = weights @ values / weights.sum(-1, keepdim=True)
    node = Node("mean", "weighted_mean", (Ref("w"), Ref("v"), Ref("w")), quantizer="out")
    torch.testing.assert_close(row.floats(NETWORK, node, (weights, values, weights), {}, False), means)
    assert [row.sign(node, [sign] * 3, NETWORK, Graph([], [], ())) for sign in Sign] == [*Sign]
    shares, numbers = QuantParams(1 / 128, 8, 0, 0, 255), QuantParams(3 / 127, 8, 128, -128, 127)
    w, v = QuantizedTensor(shares.quantize(weights), shares), QuantizedTensor(numbers.quantize(values), numbers)
    made = row.integers(row, Frozen({"out": numbers}), node, (w, v, w), {})
    exact = w.real() @ v.real() / w.real().sum(-1, keepdim=True)
    torch.testing.assert_close(made.real(), exact, rtol=0, atol=0.51 * float(numbers.scale))


# -- signs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_signs_hold_on_values(kind: str) -> None:
    node, graph = call(kind)
    for sign in Sign:
        claimed = OPERATORS[kind].sign(node, [sign] * len(node.inputs), NETWORK, graph)
        values = floats(node, tensors(sign))
        if claimed is Sign.NONNEGATIVE:
            assert float(values.min()) >= 0
        elif claimed is Sign.MOSTLY_POSITIVE:
            assert float(values.min()) > -0.2 * float(values.max())


SIGNS = {
    # signs of results for operands that are signed, mostly positive, never negative
    "as operands": "signed mostly nonnegative",
    "never negative": "nonnegative nonnegative nonnegative",
    "sums": "signed signed nonnegative",
    "mostly": "mostly mostly mostly",
    "rectifiers": "mostly mostly nonnegative",
    "unknown": "signed signed signed",
}
RULES = {
    **dict.fromkeys(("sigmoid", "hard_sigmoid", "softmax", "float_op"), "never negative"),
    **dict.fromkeys(("add", "matmul"), "sums"),
    **dict.fromkeys(
        ("conv", "linear", "batch_norm", "layer_norm", "tanh", "input", "border", "part", "expectation"), "unknown"
    ),
    "lookup": "mostly",
    "leaky_relu": "rectifiers",
}
WORDS = {"signed": Sign.SIGNED, "mostly": Sign.MOSTLY_POSITIVE, "nonnegative": Sign.NONNEGATIVE}


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_signs_are_as_narrow_as_they_can_be(kind: str) -> None:
    node, graph = call(kind)
    expected = [WORDS[word] for word in SIGNS[RULES.get(kind, "as operands")].split()]
    found = [OPERATORS[kind].sign(node, [WORDS[word]] * len(node.inputs), NETWORK, graph) for word in WORDS]
    assert found == expected


def test_of_what_no_rule_is_known_the_sign_is_open() -> None:
    plain = replace(OPERATORS["add"], sign=Operator.__dataclass_fields__["sign"].default)
    assert plain.sign is signed
    assert plain.sign(Node("n", "add"), [Sign.NONNEGATIVE], NETWORK, Graph([], [], ())) is Sign.SIGNED


@pytest.mark.parametrize("kind", ["input", "constant", "scalar"])
def test_what_reads_no_tensors_has_no_rule(kind: str) -> None:
    assert OPERATORS[kind].sign is signed


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh"])
def test_a_tensor_times_its_own_gate_is_never_far_below_zero(gate: str) -> None:
    opened, node = Node("g", gate, (REF,)), Node("node", "mul", (REF, Ref("g")))
    graph = Graph([Node("x", "input"), opened, node], ["x"], Ref("node"))
    expected = Sign.SIGNED if gate == "tanh" else Sign.MOSTLY_POSITIVE
    assert OPERATORS["mul"].sign(node, [Sign.SIGNED, Sign.NONNEGATIVE], NETWORK, graph) is expected


@pytest.mark.parametrize(("function", "sign"), [(F.elu, Sign.SIGNED), (torch.softmax, Sign.NONNEGATIVE)])
def test_functions_that_stay_in_float_have_their_own_signs(function: Any, sign: Sign) -> None:
    node = Node("node", "float_op", (REF, -1), target=function)
    assert OPERATORS["float_op"].sign(node, [Sign.SIGNED], NETWORK, Graph([], [], ())) is sign


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda lookup: lookup.name)
def test_functions_of_single_elements_have_the_signs_that_they_claim(lookup: Lookup) -> None:
    x = torch.linspace(-6.0, 6.0, 201)
    for function in (key for key in lookup.torch if callable(key)):
        compute = function() if isinstance(function, type) else function
        made = compute(x, 2) if "pow" in str(function) else compute(x)
        finite = made[made.isfinite()]
        assert made.shape == x.shape
        least = {Sign.NONNEGATIVE: 0.0, Sign.MOSTLY_POSITIVE: -0.35, Sign.SIGNED: -100.0}[lookup.sign]
        assert float(finite.min()) >= least


# -- slices ------------------------------------------------------------------------------------------------------------

NO_SLICES = {
    *("input", "conv", "requantize", "max_pool", "avg_pool", "uneven_avg_pool", "global_avg_pool", "amax", "amin"),
    *("batch_norm", "exponential", "pad", "border", "resize", "bilinear", "roll", "slice", "index", "expand"),
    "float_op",
    *("part", "expectation"),
}
SLICED = {"linear": [1, 2], "softmax": [1, 2], "layer_norm": [1, 2], "concat": [2, 3], "reshape": [1]}
"""Dimensions (the batch aside) along which parts of the result come from parts of operands; all of others."""


@pytest.mark.parametrize("kind", sorted(CALLS.keys() - NO_SLICES))
def test_slicing_operands_is_slicing_results(kind: str) -> None:
    node, graph = call(kind)
    values = tensors()
    whole = floats(node, values)
    node.shape = tuple(whole.shape)
    operands = [graph.node(name) for name in node.inputs]
    found = []
    for dim in range(1, whole.dim()):
        rule = OPERATORS[kind].slices
        assert rule is not None
        dims = rule(NETWORK, node, operands, dim)
        if not dims:
            continue
        found.append(dim)
        parts = {name: value.narrow(dims[name], 1, 2) if name in dims else value for name, value in values.items()}
        part = Node("node", kind, *_narrowed(node, dim), target=node.target)
        torch.testing.assert_close(floats(part, parts), whole.narrow(dim, 1, 2))
    assert found == SLICED.get(kind, [*range(1, whole.dim())])


def _narrowed(node: Node, dim: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for a part of two along a dimension."""
    if node.kind != "reshape":
        return node.args, node.kwargs
    shape = list(node.args[1])
    shape[dim] = 2
    return (node.args[0], tuple(shape)), {}


@pytest.mark.parametrize("kind", sorted(NO_SLICES))
def test_what_mixes_positions_is_not_sliced(kind: str) -> None:
    assert OPERATORS[kind].slices is None


def test_whole_channels_are_dropped_together() -> None:
    node = Node("node", "dropout", (REF,), {"p": 0.5}, target=F.dropout2d)
    rule = OPERATORS["dropout"].slices
    assert rule is not None and rule(NETWORK, node, [Node("x", "input", shape=(2, 4, 8, 8))], 2) == {}


# -- codes -------------------------------------------------------------------------------------------------------------


class Frozen:
    """A frozen model of one node: 8-bit codes on both sides."""

    network = NETWORK

    def __init__(self, params: dict[str, QuantParams]) -> None:
        self.params = params

    def grid(self, key: str) -> QuantParams:
        return self.params[key]

    def layer(self, node: Node) -> Any:
        raise LookupError(node.name)


OTHER_CODES = {"conv", "linear", "batch_norm", "float_op", "part", "expectation", "tanh", "hard_sigmoid"}
"""Kinds that stay in float, read constants of a layer, or are read off other codes."""


@pytest.mark.parametrize("kind", sorted(CALLS.keys() - OTHER_CODES))
def test_codes_are_those_of_the_floats(kind: str) -> None:
    """On codes, a kind computes what it computes on floats, to within a step (and half of one per code of weights)."""
    row, (node, _) = OPERATORS[kind], call(kind)
    source = QuantParams(3 / 127.3, 8, 128, -128, 127)
    codes = {name: QuantizedTensor(source.quantize(value), source) for name, value in tensors().items()}
    expected = floats(node, {name: value.real() for name, value in codes.items()})
    scale = row.step or float(expected.abs().max()) / 126.7
    out = QuantParams(scale, 8, 0, 0, 255) if row.step else QuantParams(scale, 8, 128, -128, 127)
    if kind == "lookup":
        x = (torch.arange(256) - 128) * source.scale
        out = LookupParams(out, (torch.round(F.gelu(x) / scale).clamp(-128, 127) + 128).to(torch.uint8))
    node.quantizer = "out" if row.own_scale else None
    frozen = Frozen({"out": out, "node": source.times(3.0)})
    operands: dict[str, Any] = {"x": codes["x"].real()} if kind == "input" else {**codes}
    made = evaluated(node, operands, lambda args, kwargs: row.integers(row, frozen, node, args, kwargs))
    assert isinstance(made, QuantizedTensor)
    assert made.grid is (out if row.own_scale else frozen.params["node"] if kind == "rescale" else source)
    torch.testing.assert_close(made.codes, made.codes.round(), rtol=0, atol=0)
    torch.testing.assert_close(made.real(), expected, rtol=0, atol=1.01 * float(made.grid.scale))


class Layer:
    """Constants of a layer that say how they are asked."""

    def forward(self, module: Any, x: Any, grid: Any, clip: Any, *, needs_grid: bool) -> tuple[Any, ...]:
        return module, x, grid, clip, needs_grid


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_layers_compute_with_their_own_constants(kind: str) -> None:
    frozen, (node, _) = Frozen({}), call(kind)
    frozen.layer = lambda _: Layer()  # type: ignore[method-assign]
    made = OPERATORS[kind].integers(OPERATORS[kind], frozen, node, ("x",), {})
    assert made == (NETWORK.get_submodule(kind), "x", None, None, kind == "conv")


@pytest.mark.parametrize("kind", ["constant", "batch_norm", "float_op", "part"])
def test_what_stays_in_float_has_no_codes(kind: str) -> None:
    row = OPERATORS[kind]
    assert row.integers(row, Frozen({}), Node("node", kind), (torch.zeros(1),), {}) is None


# -- the table as a whole ----------------------------------------------------------------------------------------------


def test_a_missing_facet_is_an_error_at_import() -> None:
    with pytest.raises(TypeError, match="missing"):
        Operator(name="new", docs="", kernel="", operands=Operands.WIDE, own_scale=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="go together"):
        replace(OPERATORS["add"], lower=None)
    with pytest.raises(TypeError, match="own_scale"):
        replace(OPERATORS["sigmoid"], own_scale=False)


def test_spellings_lead_to_their_rows() -> None:
    for row in (*OPERATORS.values(), *REWRITES.values()):
        assert all(TORCH_OPS[key] is row for key in row.torch)
        assert bool(row.torch) == (row.lower is not None)
    assert len(TORCH_OPS) == 249


def test_special_facets() -> None:
    node = Node("node", "rescale", (REF,), {"factor": 3.0})
    scaled = {kind: row.scale_factor(node) for kind, row in OPERATORS.items() if row.scale_factor is not None}
    assert scaled == {"rescale": 3.0}
    assert {kind: row.factor for kind, row in OPERATORS.items() if row.factor is not None} == {"matmul": 1}
    assert {kind for kind, row in OPERATORS.items() if row.slices and kind not in CALLS} == set()
    assert {kind for kind, row in OPERATORS.items() if row.adds_steps} == {"exponential"}
    assert {kind for kind, row in OPERATORS.items() if row.relabelling} == {"tanh", "hard_sigmoid"}
    assert {kind for kind, row in OPERATORS.items() if row.in_float} == {"exponential", "weighted_mean", "layer_norm"}


@pytest.mark.parametrize(("kind", "function"), [("tanh", torch.tanh), ("hard_sigmoid", F.hardsigmoid)])
def test_functions_that_are_read_off_codes(kind: str, function: Callable[[Tensor], Tensor]) -> None:
    from qkd_deploy.graph.exact.add_scale import CodeRange

    relabelling = OPERATORS[kind].relabelling
    assert relabelling is not None
    before = relabelling.before(CodeRange(0.03, 128, -128, 127), "x")
    after = relabelling.after(before)
    x = (torch.arange(256) - 128) * torch.tensor(0.03)
    made = relabelling.make(x, torch.tensor(before.scale)).clamp(before.lo, before.hi)
    real = (made + before.zero_point - after.zero_point) * after.scale
    torch.testing.assert_close(real, function(x), rtol=0, atol=1.01 * after.scale)
    params = {"node/before": before, "out": after}
    frozen = Frozen({key: QuantParams(r.scale, 8, r.zero_point, r.lo, r.hi) for key, r in params.items()})
    node, source = Node("node", kind, (REF,), quantizer="out"), QuantParams(0.03, 8, 128, -128, 127)
    codes = QuantizedTensor(torch.arange(256.0) - 128, source)
    assert torch.equal(OPERATORS[kind].integers(OPERATORS[kind], frozen, node, (codes,), {}).real(), real)
