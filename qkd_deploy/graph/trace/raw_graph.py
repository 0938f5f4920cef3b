"""From a graph of ``torch.fx`` to our own: every node with the facts that tracing has found out about its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from qkd_deploy.graph.ir import Graph, Node, Ref, rebuilt, substitute
from qkd_deploy.graph.trace.in_place import OPERATORS
from qkd_deploy.graph.trace.modes import owner
from qkd_deploy.graph.trace.shapes import Facts


def output_structure(value: Any, node_of: Callable[[Any], Any]) -> tuple[Any, list[fx.Node]]:
    """Put a ``Ref`` in place of every tensor that a network returns, in any nesting: tuples, dictionaries, dataclasses.

    Args:
        value: returned by ``forward`` while it was traced.
        node_of: gives the node of a Proxy or constant tensor.

    Returns:
        the value with ``Ref``s, and the nodes that make its tensors.
    """
    nodes: dict[str, fx.Node] = {}

    def convert(part: Any) -> Any:
        if isinstance(part, (fx.Proxy, Tensor)):
            node = node_of(part)
            nodes[node.name] = node
            return Ref(node.name)
        return rebuilt(part, convert)

    structure = convert(value)
    return structure, list(nodes.values())


def raw_graph(traced: fx.Graph, output: Any, inputs: Mapping[str, Tensor]) -> Graph:
    """Copy an fx graph into our own form, one node each, under fx's names.

    The kinds of nodes are still those of the user's code: "call_module" and "call_method" carry the path or name in
    ``target``, "call_function" the function, "constant" the path of a parameter or buffer; "python" nodes compute sizes
    and numbers from the batch size. Lowering finds the operators among them.

    Args:
        traced: every node has its ``Facts`` in ``meta["facts"]``.
        output: as ``output_structure`` gives it.
        inputs: the examples by the names of the arguments of ``forward``.
    """
    steps = [node for node in traced.nodes if node.op != "output"]
    placeholders = [node for node in steps if node.op == "placeholder"]
    graph = Graph([_node(node) for node in steps], [node.name for node in placeholders], output)
    for node in placeholders:
        graph.node(node.name).smallest = _smallest(inputs[str(node.target)])
    _fold_fixed(graph, {node.name: node.meta["facts"] for node in steps})
    return graph


def _node(node: fx.Node) -> Node:
    facts: Facts = node.meta["facts"]
    made = Node(
        node.name,
        node.op,
        label=_label(node),
        module=owner(node),
        target=node.target,
        method=node.op == "call_method",
        shape=facts.shape,
        batch_dims=facts.batch_dims,
        dtype=facts.dtype,
        value=facts.value,
        unchanged=facts.unchanged,
        line=facts.line,
    )
    if node.op == "placeholder":
        made.kind = "input"
    elif node.op == "get_attr":
        made.kind = "constant"
    else:
        made.kind = "python" if facts.is_python else node.op
        made.args, made.kwargs = _with_refs(node.args), _with_refs(node.kwargs)
    return made


def _label(node: fx.Node) -> str:
    """Name a tensor after its input, attribute or module; of functions after the calling module and the function."""
    if node.op not in ("call_function", "call_method"):
        return str(node.target)
    target = OPERATORS.get(node.target, node.target)
    function = target if isinstance(target, str) else getattr(target, "__name__", "call")
    return f"{owner(node)}.{function}" if owner(node) else str(function)


def _with_refs(arguments: Any) -> Any:
    """Put ``Ref``s in place of fx's nodes, and ordinary containers in place of its immutable ones."""

    def reference(node: fx.Node) -> Any:
        return Ref(node.name)

    return _plain(fx.node.map_arg(arguments, reference))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(item) for item in value)
    return value


def _smallest(examples: Tensor) -> float | None:
    """Return the smallest element of float examples: where it is negative, the input's codes are signed."""
    return float(examples.min()) if examples.numel() and examples.is_floating_point() else None


def _fold_fixed(graph: Graph, facts: Mapping[str, Facts]) -> None:
    """Make literals of sizes and numbers that do not follow the batch: ``avg_pool2d(x, x.size(3))``."""
    outputs = graph.outputs()
    fixed = {name for name, fact in facts.items() if fact.is_fixed and name not in outputs}

    def literal(ref: Ref) -> Any:
        return facts[ref.name].value if ref.name in fixed else ref

    graph.nodes[:] = [node for node in graph.nodes if node.name not in fixed]
    for node in graph.nodes:
        node.args, node.kwargs = substitute((node.args, node.kwargs), literal)
