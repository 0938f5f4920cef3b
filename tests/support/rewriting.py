"""Graph text in, graph text out: what a pass makes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from graph_text import parse_graph
from torch import nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.passes import PassContext
from qkd_deploy.graph.passes.invariants import check


def assert_becomes(
    rewrite: Callable[[PassContext], None],
    before: str,
    after: str,
    model: nn.Module | None = None,
    *,
    bits: Mapping[str, BitWidths] | None = None,
    last: Collection[str] = (),
) -> None:
    """The pass makes ``after`` of ``before``, and breaks nothing that holds of every graph or behind the pass.

    ``bits`` are those of the layers, ``last`` the names of the last ones.
    """
    graph = parse_graph(before)
    check(graph, ["trace", "lower"])
    rewrite(PassContext(model or nn.Module(), graph, lambda model, graph: bits or {}, lambda graph: last))
    check(graph, ["trace", "lower", rewrite.__name__])
    assert str(graph) == str(parse_graph(after)), str(graph)


def assert_stays(
    rewrite: Callable[[PassContext], None], graph: str, model: nn.Module | None = None, **options: Collection[str]
) -> None:
    """The pass finds nothing to rewrite."""
    assert_becomes(rewrite, graph, graph, model, **options)  # type: ignore[arg-type]
