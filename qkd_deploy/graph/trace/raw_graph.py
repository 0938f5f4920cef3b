"""From a graph of ``torch.fx`` to our own: every node with the facts that tracing has found out about its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from qkd_deploy.graph.ir import Graph, Node, Ref, rebuilt, references, substitute
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
    ``target``, "call_function" the function, "constant" the path of a parameter or buffer; "scalar" nodes compute sizes
    and numbers from the batch size. Lowering finds the operators among them.

    Args:
        traced: every node has its ``Facts`` in ``meta["facts"]``.
        output: as ``output_structure`` gives it.
        inputs: the examples by the names of the arguments of ``forward``.
    """
    steps = [node for node in traced.nodes if node.op != "output"]
    literals = _literals(steps, output)
    nodes = [_node(node, literals, inputs) for node in steps if node.name not in literals]
    return Graph(nodes, [node.name for node in nodes if node.kind == "input"], output)


def _literals(steps: list[fx.Node], output: Any) -> dict[str, Any]:
    """Find sizes and numbers that do not follow the batch, for their readers: ``avg_pool2d(x, x.size(3))``."""
    returned = {ref.name for ref in references(output)}
    facts: dict[str, Facts] = {node.name: node.meta["facts"] for node in steps}
    return {name: fact.value for name, fact in facts.items() if fact.is_fixed and name not in returned}


def _node(node: fx.Node, literals: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Node:
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
        examples = inputs[str(node.target)]
        made.kind, made.smallest, made.span = "input", _smallest(examples), _span(examples)
    elif node.op == "get_attr":
        made.kind = "constant"
    else:
        made.kind = "scalar" if facts.is_python else node.op
        made.args, made.kwargs = _arguments(node, literals)
    return made


def _arguments(node: fx.Node, literals: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Convert a node's arguments: literals or ``Ref``s in place of fx's nodes, ordinary containers in place of fx's."""

    def reference(argument: fx.Node) -> Any:
        return Ref(argument.name)

    def literal(ref: Ref) -> Any:
        return literals.get(ref.name, ref)

    args, kwargs = _plain(fx.node.map_arg(node.args, reference)), _plain(fx.node.map_arg(node.kwargs, reference))
    return substitute(args, literal), substitute(kwargs, literal)


def _label(node: fx.Node) -> str:
    """Name a tensor after its input, attribute or module; of functions after the calling module and the function."""
    if node.op not in ("call_function", "call_method"):
        return str(node.target)
    target = OPERATORS.get(node.target, node.target)
    function = target if isinstance(target, str) else getattr(target, "__name__", "call")
    return f"{owner(node)}.{function}" if owner(node) else str(function)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(item) for item in value)
    return value


def _span(examples: Tensor) -> tuple[int, int] | None:
    """Return the smallest and largest of whole numbers, which are classes or places: others may not exist."""
    return None if examples.is_floating_point() else (int(examples.min()), int(examples.max()))


def _smallest(examples: Tensor) -> float | None:
    """Return the smallest element of float examples: where it is negative, the input's codes are signed."""
    return float(examples.min()) if examples.numel() and examples.is_floating_point() else None
