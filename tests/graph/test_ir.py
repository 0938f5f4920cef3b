"""The graph's index, order and text, also under random changes; the interpreter; and what checks find."""

from __future__ import annotations

import copy
import operator
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES
from graph_text import parse_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy import prepare
from qkd_deploy.graph.interpreter import resume, run, start, step
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.passes.invariants import INVARIANTS, VARIABLE, BrokenGraph, StageLog, check

DIAMOND = """
    %x: f32[2?, 4] = input()
    %one: f32[2?, 4] = sigmoid(%x)
    %two: f32[2?, 4] = tanh(%x)
    %sum: f32[2?, 4] = add(%one, %two)
    %double: f32[2?, 4] = add(%sum, %sum)
    return (%double, [%one])
    """


def names(nodes: Any) -> list[str]:
    return [node.name for node in nodes]


# -- index and order ---------------------------------------------------------------------------------------------------


def test_users_are_known_in_execution_order_each_once() -> None:
    graph = parse_graph(DIAMOND)
    assert names(graph.users("x")) == ["one", "two"]
    assert names(graph.users("sum")) == ["double"] and graph.only_user("sum") is graph.node("double")
    assert graph.users("double") == [] and graph.only_user("one") is None  # the network returns it, too
    with pytest.raises(KeyError):
        graph.node("nobody")


def test_new_arguments_move_a_node_among_users() -> None:
    graph = parse_graph(DIAMOND)
    graph.node("double").args = (Ref("two"), Ref("x"))
    assert graph.users("sum") == [] and names(graph.users("two")) == ["sum", "double"]
    graph.node("sum").kwargs = {"alpha": Ref("x")}
    assert names(graph.users("x")) == ["one", "two", "sum", "double"]


def test_a_removed_node_hands_its_readers_over() -> None:
    graph = parse_graph(DIAMOND)
    one = graph.node("one")
    graph.remove(one, "x")
    assert graph.output == (Ref("double"), [Ref("x")]) and graph.node("sum").inputs == ["x", "two"]
    assert one not in graph and names(graph.users("x")) == ["two", "sum"]
    one.args = (Ref("sum"),)
    assert names(graph.users("sum")) == ["double"]  # the graph no longer listens


def test_a_node_that_reads_what_it_replaces_goes_on_reading_it() -> None:
    graph = parse_graph(DIAMOND)
    graph.insert_after(graph.node("sum"), Node("half", "rescale", (Ref("sum"),)))
    graph.replace_all_uses("sum", "half")
    assert graph.node("half").inputs == ["sum"] and graph.node("double").inputs == ["half", "half"]


def test_names_stay_unique() -> None:
    graph = parse_graph(DIAMOND)
    assert [graph.unused_name(name) for name in ("three", "sum")] == ["three", "sum_2"]
    with pytest.raises(ValueError, match="two nodes are called sum"):
        graph.append(Node("sum", "add"))


def test_order_outlasts_more_insertions_than_floats_lie_between_two_numbers() -> None:
    graph = parse_graph(DIAMOND)
    for place in range(200):
        graph.insert_before(graph.node("sum"), Node(f"new_{place}", "tanh", (Ref("two"),)))
        graph.insert_after(graph.node("x"), Node(f"early_{place}", "tanh", (Ref("x"),)))
    early, late = ([f"{word}_{place}" for place in range(200)] for word in ("early", "new"))
    assert names(graph.nodes) == ["x", *reversed(early), "one", "two", *late, "sum", "double"]
    assert names(graph.users("two")) == [*late, "sum"]


EDITS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99), st.integers(0, 99)), max_size=40)


@given(EDITS)
def test_the_index_is_right_after_any_changes(edits: list[tuple[int, int, int]]) -> None:
    graph = Graph([Node("x", "input")], ["x"], Ref("x"))
    expected = ["x"]
    for count, (edit, one, two) in enumerate(edits):
        anchor, other = (graph.nodes[i % len(graph.nodes)] for i in (one, two))
        if edit == 0:
            graph.insert_after(anchor, Node(f"n{count}", "add", (Ref(anchor.name), [Ref("x")])))
            expected.insert(expected.index(anchor.name) + 1, f"n{count}")
        elif edit == 1 and anchor.name != "x":
            graph.remove(anchor, anchor.inputs[0])
            expected.remove(anchor.name)
        elif edit == 2 and anchor.position > other.position:
            anchor.args = (other.args, Ref(other.name))
        elif edit == 3:
            graph.replace_uses_in(graph.users(anchor.name)[:1], anchor.name, "x")
        elif edit == 4:
            graph.output = {"a": Ref(anchor.name), "b": (Ref(other.name),)}
    assert names(graph.nodes) == expected
    check(graph, ["trace"])
    for node in graph.nodes:
        assert graph.users(node.name) == [reader for reader in graph.nodes if node.name in reader.inputs]


def test_graphs_copy_and_pickle_with_their_index() -> None:
    graph = parse_graph(DIAMOND)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert str(other) == str(graph)
        other.node("double").args = (Ref("x"), 1)
        assert names(other.users("x")) == ["one", "two", "double"] and names(graph.users("x")) == ["one", "two"]


# -- text --------------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


@dataclass
class Output:
    logits: Any
    hidden: Any = None


REFS = st.builds(Ref, st.text(min_size=1, max_size=8))
LEAVES = st.one_of(
    REFS, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8),
    st.sampled_from([torch.float32, torch.relu, F.relu, operator.add, getattr, torch.Tensor.contiguous, Pair, ...]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=2),
        st.dictionaries(st.text(max_size=4), inner, max_size=2).map(OrderedDict),
        st.builds(Pair, inner, inner),
        st.builds(Output, inner, inner),
        st.builds(slice, inner, inner, inner),
    ),
    max_leaves=8,
)
SHAPES = st.none() | st.lists(st.integers(0, 9), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.int64, torch.bool])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes = []
    for name in draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=2, unique=True)):
        shape = draw(SHAPES)
        dims = range(len(shape or ()))
        node = Node(
            name, draw(st.sampled_from(["conv", "float_op", "slice"])), tuple(draw(st.lists(VALUES, max_size=3))),
            draw(st.dictionaries(st.sampled_from(["dim", "ranges"]), VALUES)),
            draw(st.sampled_from([name, "", "label"])),
            target=draw(st.none() | st.sampled_from(["conv1", torch.reshape])), method=draw(st.booleans()),
            clip=draw(st.none() | st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False))), shape=shape,
            batch_dims=tuple(dim for dim in dims if draw(st.booleans())), dtype=draw(DTYPES),
        )  # fmt: skip
        nodes.append(node)
    return Graph(nodes, [], draw(VALUES))


def everything(graph: Graph) -> list[Any]:
    written = [field.name for field in fields(Node) if field.init and field.repr]
    return [graph.inputs, graph.output, *([getattr(node, name) for name in written] for node in graph.nodes)]


@settings(max_examples=40)
@given(graphs())
def test_text_holds_everything(graph: Graph) -> None:
    again = parse_graph(str(graph))
    assert everything(again) == everything(graph) and str(again) == str(graph)


def test_functions_without_a_name_become_descriptions() -> None:
    graph = Graph([Node("x", "float_op", (lambda value: value,))], [], Ref("x"))
    (line, _) = str(graph).splitlines()
    assert line.startswith("%x = float_op(Opaque('<function")
    assert str(parse_graph(str(graph))) == str(graph)


@pytest.mark.parametrize("name", ["ResNet, basic blocks", "ShuffleNetV2", "Swin", "DeiT, two tokens"])
def test_text_holds_prepared_networks(name: str) -> None:
    architecture = ARCHITECTURES[name]
    graph = prepare(architecture.build(), "w4a4", torch.rand(2, *architecture.shape)).graph
    assert everything(parse_graph(str(graph))) == everything(graph)


# -- the interpreter ---------------------------------------------------------------------------------------------------


FUNCTIONS: dict[str, Any] = {"input": int, "add": operator.add, "sigmoid": abs, "tanh": operator.neg}


SHAPELESS = DIAMOND.replace(": f32[2?, 4]", "")
"""For numbers, which have no sizes to compare."""


def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return FUNCTIONS[node.kind](*args, **kwargs)


def test_values_are_dropped_after_their_last_use() -> None:
    graph = parse_graph(SHAPELESS)
    values = start(graph, (-3,))
    held = []
    for node in graph.nodes:
        step(graph, values, node, run_node)
        held.append(list(values))
    assert held == [["x"], ["x", "one"], ["one", "two"], ["one", "sum"], ["one", "double"]]
    assert run(graph, (-3,), run_node) == (12, [3])


def test_a_changed_graph_keeps_what_its_new_readers_need() -> None:
    graph = parse_graph(SHAPELESS)
    assert run(graph, (-3,), run_node) == (12, [3])
    graph.node("double").args = (Ref("sum"), Ref("x"))
    assert run(graph, (-3,), run_node) == (3, [3])
    graph.output = Ref("x")
    assert run(graph, (-3,), run_node) == -3


def test_a_run_can_be_continued_in_several_ways_from_one_place() -> None:
    graph = parse_graph(SHAPELESS)
    values = start(graph, (-3,))
    for node in graph.nodes[:3]:
        step(graph, values, node, run_node)
    assert [resume(graph, dict(values), 3, run_node) for _ in range(2)] == [(12, [3])] * 2


def test_the_number_of_inputs_must_fit() -> None:
    with pytest.raises(TypeError, match=r"the network takes 1 inputs \(x\), got 2"):
        run(parse_graph(SHAPELESS), (1, 2), run_node)


# -- checks ------------------------------------------------------------------------------------------------------------

BROKEN = {
    "trace": [
        "%y = add(%x, %x)\n%x = input()\nreturn %y",
        "%x = input()\nreturn (%x, %y)",
    ],
    "lower": [
        "%x = input()\n%y = call_function(%x)\nreturn %y",
        "%x: f32[2?] = input()\n%y = add(%x, %x)\nreturn %y",
        "%x: f32[2?] = input()\n%y: f32[2?] = clip(%x) {clip=(1.0, 2.0)}\nreturn %y",
    ],
    "fold_batch_norms": ["%x: f32[2?] = input() {batch_norm='bn'}\nreturn %x"],
    "fold_channel_constants": ["%x = input() {affine=('gain',)}\nreturn %x"],
    "batch_norms_as_depthwise": ["%x: f32[2?, 4] = input()\n%y: f32[2?, 4] = batch_norm(%x)\nreturn %y"],
    "fuse_clips": ["%x = input()\n%y = add(%x, %x)\n%z = clip(%y) {clip=(0.0, 1.0)}\nreturn %z"],
    "hoist_slices": ["%x = input()\n%y = slice(%x, ranges=())\n%z = slice(%x, ranges=())\nreturn (%y, %z)"],
    "name_tensors": ["%x = input() {label='image'}\nreturn %x"],
    "softmax_as_exponentials": ["%x = input()\n%y = weighted_mean(%x, %x)\nreturn %y"],
    "fold_layer_norms": ["%x = input() {gain='norm.weight'}\nreturn %x"],
    "place": [
        "%x = input() {quantizer='x'}\n%y = add(%x, %x) {quantizer='x'}\nreturn %y",
        "%x = input() {quantizer='x'}\n%y = conv(%x)\nreturn %y",
        "%x = input() {quantizer='x'}\n%y = conv(%x) {source='y'}\nreturn %y",
    ],
}


@pytest.mark.parametrize(("stage", "text"), [(stage, text) for stage, texts in BROKEN.items() for text in texts])
def test_checks_find_what_does_not_hold_behind_a_stage(stage: str, text: str) -> None:
    with pytest.raises(BrokenGraph, match=rf"after {stage}, not true of [xy]+: "):
        check(parse_graph(text), [stage])
    if stage != "trace":
        check(parse_graph(text), ["trace"])


def test_every_stage_has_a_graph_that_its_checks_refuse() -> None:
    assert {invariant.since for invariant in INVARIANTS} == {*BROKEN}


def test_arguments_that_change_inside_are_noticed() -> None:
    graph = parse_graph("%x = input()\n%y = concat([%x])\nreturn %y")
    graph.node("y").args[0].append(Ref("y"))
    with pytest.raises(BrokenGraph):
        check(graph, ["trace"])


@pytest.mark.parametrize("asked", ["1", "0"])
def test_checks_run_where_the_environment_asks_for_them(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, asked)
    log = StageLog(parse_graph(BROKEN["trace"][0]))
    if asked == "1":
        with pytest.raises(BrokenGraph, match="after trace"):
            log.done("trace")
    else:
        log.done("trace")
