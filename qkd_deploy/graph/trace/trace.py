"""From the user's module to a list of nodes, with ``torch.fx``.

The network is traced in train and in eval mode, on example inputs (``trace_concrete``). Where the two graphs differ
(dropout written with ``self.training``, stochastic depth), the module that reads the flag becomes a leaf, and counts
as dropout when it is the identity in eval.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.trace.batch_norms import followers
from qkd_deploy.graph.trace.checks import named_inputs
from qkd_deploy.graph.trace.derived_modules import make_plain
from qkd_deploy.graph.trace.errors import STATELESS, explain, module_name
from qkd_deploy.graph.trace.in_place import OPERATORS
from qkd_deploy.graph.trace.modes import differences, owner
from qkd_deploy.graph.trace.shapes import ShapeRecorder, more_examples
from qkd_deploy.graph.trace.tracer import ConcreteTracer

__all__ = ["ShapeRecorder", "Traced", "trace"]

_MAX_ROUNDS = 64


@dataclass(frozen=True)
class Traced:
    """A network as a list of nodes.

    Attributes:
        graph: one node for every step; kinds are found by ``normalize``.
        recorder: what every node's value looks like.
        mode_leaves: paths of the modules kept whole because they read ``self.training``.
    """

    graph: Graph
    recorder: ShapeRecorder
    mode_leaves: set[str]


def trace(network: nn.Module, inputs: tuple[Any, ...], leaf_types: tuple[type[nn.Module], ...] = ()) -> Traced:
    """Trace a network as its eval mode runs it.

    Args:
        network: changed where tracing needs it: tensors that its forward makes become buffers outside its state, and
            classes derived from layers and batch norms become plain ones (``trace_plain``).
        inputs: example inputs, batch first.
        leaf_types: classes to keep as single nodes.

    Raises:
        UserError: code that cannot be traced (names module and line), a network that does not run on the inputs or
            at one batch size only, or one whose train and eval modes differ outside any submodule.
    """
    named = named_inputs(network, inputs)
    enough = named if next(iter(named.values())).shape[0] > 1 else {k: more_examples(v) for k, v in named.items()}
    chains, leaves = followers(network)
    for _ in range(_MAX_ROUNDS):
        tracer, graph = _trace(network, False, named, leaves, leaf_types, chains)
        trained, train_graph = _trace(network, True, enough, leaves, leaf_types, chains)
        found = differences(train_graph, graph)
        if not found and str(tracer.output) == str(trained.output):
            _require_stateless(network, tracer, graph, named)
            _adopt(network, tracer, graph)
            return Traced(_raw_graph(graph, tracer.output), tracer.recorder, leaves)
        if not set(found) - leaves - {""}:
            raise _mode_error(network, found)
        leaves |= set(found) - {""}
    raise UserError("too many modules behave differently in train and eval mode; pass their classes as leaf_modules")


def _trace(
    network: nn.Module,
    training: bool,
    named: Mapping[str, Tensor],
    leaves: set[str],
    leaf_types: tuple[type[nn.Module], ...],
    chains: Mapping[str, tuple[str, ...]],
) -> tuple[ConcreteTracer, fx.Graph]:
    """Trace a copy that shares the parameters, because a forward may change its module."""
    shared: dict[int, Any] = {id(p): p for p in network.parameters()}
    model = copy.deepcopy(network, shared).train(training)
    inputs = {name: value.clone() for name, value in named.items()}
    tracer = ConcreteTracer(inputs, leaves, leaf_types, chains)
    try:
        return tracer, tracer.trace(model)
    except Exception as error:  # the user's code may raise anything
        raise explain(error, model, tracer.path) from error


def _mode_error(network: nn.Module, found: Mapping[str, str]) -> UserError:
    line = f" at {found['']}" if found.get("") else ""
    return UserError(
        f"{module_name(network, '')} takes another path in train than in eval mode outside any submodule{line}; "
        "move that code into a module of its own, so that it can be kept as one step"
    )


def _require_stateless(
    network: nn.Module, tracer: ConcreteTracer, graph: fx.Graph, named: Mapping[str, Tensor]
) -> None:
    """Refuse a forward in eval mode that changes what the next call computes."""
    model = tracer.root
    assert isinstance(model, nn.Module)
    before = dict(network.named_buffers())
    now: list[tuple[str, Any]] = list(model.named_buffers())
    for path, buffer in now:
        if isinstance(buffer, fx.Proxy) or (path in before and not torch.equal(buffer, before[path])):
            raise UserError(f"{module_name(network, path.rpartition('.')[0])} changes its buffer {path}; {STATELESS}")
    kept = [
        (path, name)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves(value))
    ]
    if not kept:
        return
    again = tracer.again(named)
    try:
        same = not differences(again.trace(model), graph)
    except Exception:  # noqa: BLE001  # whatever it is, the first call did not raise it
        same = False
    if not same:
        path, name = kept[0]
        raise UserError(f"{module_name(network, path)} keeps {name} from one call to the next; {STATELESS}")


def _adopt(network: nn.Module, tracer: ConcreteTracer, graph: fx.Graph) -> None:
    """Give the network what only the traced copy has."""
    make_plain(network, tracer.expanded)
    for node in graph.nodes:
        path = str(node.target)
        if node.op == "get_attr" and "." not in path and not hasattr(network, path):
            network.register_buffer(path, getattr(tracer.root, path), persistent=False)


def _raw_graph(graph: fx.Graph, output: Any) -> Graph:
    """Copy an fx graph into our own form, one node each.

    Nodes that call modules or methods carry the path or name in ``target``; the nodes' names are fx's.
    """
    nodes: list[Node] = []
    inputs: list[str] = []

    def reference(node: fx.Node) -> Any:
        return Ref(node.name)

    def convert(value: Any) -> Any:
        return fx.node.map_arg(value, reference)

    for node in graph.nodes:
        args, kwargs = _plain(convert(node.args)), _plain(convert(node.kwargs))
        if node.op == "placeholder":
            inputs.append(node.name)
            nodes.append(Node(node.name, "input", label=str(node.target), target=str(node.target)))
        elif node.op == "get_attr":
            nodes.append(
                Node(node.name, "constant", label=str(node.target), module=owner(node), target=str(node.target))
            )
        elif node.op != "output":
            target, method = node.target, node.op == "call_method"
            nodes.append(Node(node.name, node.op, args, kwargs, _label(node), owner(node), target, method))
    return Graph(nodes, inputs, output)


def _label(node: fx.Node) -> str:
    """What a call's result is called: the module's path, or the calling module's path and the function's name."""
    if node.op == "call_module":
        return str(node.target)
    target = OPERATORS.get(node.target, node.target)
    function = target if isinstance(target, str) else getattr(target, "__name__", "call")
    return f"{owner(node)}.{function}" if owner(node) else str(function)


def _plain(value: Any) -> Any:
    """The immutable lists and dicts of fx as ordinary ones."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(item) for item in value)
    return value
