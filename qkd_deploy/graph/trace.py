"""From the user's module to a list of nodes, with ``torch.fx``.

The network is traced in train and in eval mode. Where the two graphs differ (dropout written with ``self.training``,
stochastic depth), the module that reads the flag becomes a leaf, and counts as dropout when it is the identity in eval.
"""

from __future__ import annotations

import copy
import inspect
import linecache
import traceback
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Graph, Node, Ref

_MAX_LEAVES = 256


class _Tracer(fx.Tracer):
    """Keeps PyTorch's own modules, and those listed, as single nodes."""

    def __init__(self, leaves: set[str], leaf_types: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._leaves, self._leaf_types = leaves, leaf_types

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self._leaves
            or isinstance(m, self._leaf_types)
            or super().is_leaf_module(m, module_qualified_name)
        )


def trace(
    model: nn.Module, leaf_types: tuple[type[nn.Module], ...] = (), given: int | None = None
) -> tuple[fx.Graph, set[str]]:
    """The graph of a model as its eval mode runs it, and the paths of the leaves that read ``self.training``.

    Args:
        model: the network.
        leaf_types: classes to keep as single nodes.
        given: how many arguments of ``forward`` are inputs; later ones keep their defaults. None takes all.

    Raises:
        UserError: control flow that cannot be traced (names the line), or a network whose train and eval modes differ
            outside any submodule.
    """
    leaves: set[str] = set()
    model = copy.deepcopy(model)
    defaults = _defaults(model, given)
    for _ in range(_MAX_LEAVES):
        train_graph = _trace(model.train(), leaves, leaf_types, defaults)
        eval_graph = _trace(model.eval(), leaves, leaf_types, defaults)
        owner = _first_difference(train_graph, eval_graph)
        if owner is None:
            return eval_graph, leaves
        if owner == "" or owner in leaves:
            raise UserError(
                "the network takes another path in train than in eval mode outside any submodule; "
                "move that code into a module of its own, so that it can be kept as one step"
            )
        leaves.add(owner)
    raise UserError("too many modules behave differently in train and eval mode; pass them as leaf_modules")


def _defaults(model: nn.Module, given: int | None) -> dict[str, Any]:
    """Defaults of the arguments of ``forward`` for which there is no example input."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = parameters[given:] if given is not None else []
    return {p.name: p.default for p in rest if p.default is not inspect.Parameter.empty}


def _trace(
    model: nn.Module, leaves: set[str], leaf_types: tuple[type[nn.Module], ...], defaults: dict[str, Any]
) -> fx.Graph:
    try:
        graph = _Tracer(leaves, leaf_types).trace(model, concrete_args=defaults or None)
        return _without(graph, defaults)
    except Exception as error:  # torch.fx raises many kinds, all because of the user's code
        raise UserError(
            f"cannot trace the network{_users_line(error)}: {str(error).splitlines()[0] if str(error) else error!r}; "
            "pass the module with this code in leaf_modules (it then stays in float), "
            "or rewrite it without control flow that depends on values"
        ) from error


def _without(graph: fx.Graph, defaults: dict[str, Any]) -> fx.Graph:
    """Drop the inputs whose defaults were traced, and fx's checks that they keep them."""
    names = tuple(f"{name}_" for name in defaults)
    for node in [n for n in graph.nodes if n.op == "placeholder" and str(n.target).startswith(names)]:
        for check in _readers(node):
            graph.erase_node(check)
        graph.erase_node(node)
    return graph


def _readers(node: fx.Node) -> list[fx.Node]:
    """All nodes that depend on a node, the last ones first."""
    return [later for user in node.users for later in (*_readers(user), user)]


def _users_line(error: Exception) -> str:
    """Where in the user's code tracing failed."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and f.filename != __file__
    ]
    if not frames:
        return ""
    frame = frames[-1]
    code = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return (
        f" at {frame.filename}:{frame.lineno} in {frame.name} ({code})"
        if code
        else f" at {frame.filename}:{frame.lineno}"
    )


def _first_difference(first: fx.Graph, second: fx.Graph) -> str | None:
    """Path of the module that owns the first node in which two graphs differ; None if they are alike."""
    pairs = list(zip(first.nodes, second.nodes, strict=False))
    for one, two in pairs:
        if (one.op, one.target) != (two.op, two.target):
            return max(owner(one), owner(two), key=lambda path: path.count(".") + bool(path))
    longer = max(first.nodes, second.nodes, key=len)
    return owner(list(longer)[len(pairs)]) if len(first.nodes) != len(second.nodes) else None


def owner(node: fx.Node) -> str:
    """Path of the innermost user module whose forward made a node; "" for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and stack and stack[-1] == node.target:
        stack.pop()
    return str(stack[-1]) if stack else ""


class ShapeRecorder(fx.Interpreter):
    """Runs a traced graph and keeps what every value looks like.

    Attributes:
        shapes: shape of every tensor; None for other values.
        floating: whether a tensor holds floats.
        python: values without any tensor in them (sizes, numbers).
        fixed: those of them that do not depend on the batch size.
        unchanged: whether a call returned its first operand as it was: type, shape and values.
        smallest: smallest element of every floating input.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        """Record the graph of ``model``, which must be in eval mode."""
        super().__init__(fx.GraphModule(model, graph))
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.floating: dict[str, bool] = {}
        self.python: dict[str, Any] = {}
        self.fixed: dict[str, Any] = {}
        self.unchanged: dict[str, bool] = {}
        self.smallest: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node and note what its value looks like."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
            self.floating[n.name] = result.is_floating_point()
            if n.op == "placeholder" and result.numel() and result.is_floating_point():
                self.smallest[n.name] = float(result.min())
            if n.op.startswith("call_"):
                source = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
                self.unchanged[n.name] = (
                    isinstance(source, Tensor) and source.dtype == result.dtype and torch.equal(source, result)
                )
        else:
            self.shapes[n.name] = None
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
                self.python[n.name] = result
        return result


@torch.no_grad()
def record_shapes(
    model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]
) -> tuple[ShapeRecorder, dict[str, tuple[int, ...]]]:
    """Run the graph at the example's batch size and at twice that.

    Returns:
        the recorder of the first run, and for every tensor the dimensions that follow the batch.

    Raises:
        UserError: the network does not run on the example inputs, or only at this one batch size.
    """
    recorder = ShapeRecorder(model, graph)
    try:
        recorder.run(*inputs)
    except Exception as error:
        raise UserError(f"the network does not run on the example inputs: {_last_line(error)}") from error
    doubled = tree_map(lambda t: torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t, inputs)
    twice = ShapeRecorder(model, graph)
    try:
        twice.run(*doubled)
    except Exception as error:
        raise UserError(
            f"the network runs at one batch size only: {_last_line(error)}; "
            "take the batch from the tensor (x.flatten(1), x.size(0)) instead of a constant"
        ) from error
    recorder.fixed = {name: value for name, value in recorder.python.items() if value == twice.python.get(name)}
    batch_dims = {
        name: tuple(i for i, (a, b) in enumerate(zip(shape, twice.shapes[name] or (), strict=False)) if a != b)
        for name, shape in recorder.shapes.items()
        if shape is not None
    }
    return recorder, batch_dims


def _last_line(error: Exception) -> str:
    lines = [
        line
        for line in str(error).splitlines()
        if line.strip() and "fx graph" not in line and "While executing" not in line
    ]
    return lines[0].strip() if lines else repr(error)


def raw_graph(graph: fx.Graph) -> Graph:
    """Copy an fx graph into our own form, one node each; kinds are found by ``normalize``.

    Nodes that call modules or methods carry the path or name in ``target``; the nodes' names are fx's.
    """
    nodes: list[Node] = []
    inputs: list[str] = []
    output: Any = None

    def reference(node: fx.Node) -> Any:
        return Ref(node.name)

    def convert(value: Any) -> Any:
        return fx.node.map_arg(value, reference)

    for node in graph.nodes:
        args, kwargs = _plain(convert(node.args)), _plain(convert(node.kwargs))
        if node.op == "output":
            output = args[0]
        elif node.op == "placeholder":
            inputs.append(node.name)
            nodes.append(Node(node.name, "input", label=str(node.target), target=str(node.target)))
        elif node.op == "get_attr":
            nodes.append(
                Node(node.name, "constant", label=str(node.target), module=owner(node), target=str(node.target))
            )
        else:
            target, method = node.target, node.op == "call_method"
            nodes.append(Node(node.name, node.op, args, kwargs, _label(node), owner(node), target, method))
    return Graph(nodes, inputs, output)


def _label(node: fx.Node) -> str:
    """What a call's result is called: the module's path, or the calling module's path and the function's name."""
    if node.op == "call_module":
        return str(node.target)
    function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "call")
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
