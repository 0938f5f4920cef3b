"""Trace a user's module into a graph of single steps (the package's docstring tells the whole way).

The network is traced in train and in eval mode. Where the two graphs differ (dropout written with ``self.training``,
stochastic depth), the module that reads the flag becomes a leaf and both are traced again.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.bits import keep_in_float
from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Graph, references, substitute
from qkd_deploy.graph.trace.assigned_parts import read_elsewhere
from qkd_deploy.graph.trace.batch_norms import batch_norm_chains
from qkd_deploy.graph.trace.batch_sizes import more_examples, two_or_more
from qkd_deploy.graph.trace.checks import named_inputs
from qkd_deploy.graph.trace.derived_modules import make_plain
from qkd_deploy.graph.trace.errors import STATELESS, by_batch, explain, module_name
from qkd_deploy.graph.trace.modes import Difference, differences, owner, values_of
from qkd_deploy.graph.trace.raw_graph import raw_graph
from qkd_deploy.graph.trace.tracer import ConcreteTracer, Leaves

_MAX_ROUNDS = 64


@dataclass(frozen=True)
class Traced:
    """A network as a graph of single steps.

    Attributes:
        graph: one node for every step, as ``raw_graph`` describes it.
        mode_leaves: paths of the modules kept whole because they read ``self.training``.
        trained_output: what the network returns in train mode where that is less, or in another form: a ``Ref`` to one
            of the outputs in place of every tensor. None where it is the same.
    """

    graph: Graph
    mode_leaves: set[str]
    trained_output: Any = None


def trace(
    network: nn.Module,
    inputs: tuple[Any, ...],
    leaf_types: tuple[type[nn.Module], ...] = (),
    mode_leaves: set[str] | None = None,
    kept: Collection[str] = (),
) -> Traced:
    """Trace a network as its eval mode runs it.

    Args:
        network: changed where tracing needs it: tensors that its forward makes become buffers outside its state, and
            classes derived from layers and batch norms become plain ones (``derived_modules``).
        inputs: example inputs, batch first.
        leaf_types: classes to keep as single nodes.
        mode_leaves: those of an earlier trace, at other sizes: only eval mode is traced then.
        kept: paths of modules to keep so, too.

    Raises:
        UserError: code that cannot be traced (names module and line), a network that does not run on the inputs or
            at one batch size only, or one whose train and eval modes differ outside any submodule.
    """
    named = named_inputs(network, inputs)
    chains, others = batch_norm_chains(network)
    chains = {path: children for path, children in chains.items() if path not in kept}
    leaves = Leaves(frozenset(others), leaf_types, chains, kept)
    if mode_leaves is not None:
        leaves = leaves.and_paths(mode_leaves)
        return _finish(network, _trace_copy(network, False, named, leaves), named, leaves)
    for _ in range(_MAX_ROUNDS):
        evaluated = _trace_copy(network, False, named, leaves)
        trained = _trace_copy(network, True, two_or_more(named), leaves)
        found = differences(trained.graph, evaluated.graph)
        if not found and str(evaluated.output) == str(trained.output):
            return _finish(network, evaluated, named, leaves)
        paths = {path for path, difference in found.items() if not difference.more} - {""}
        if paths <= leaves.paths:
            less = _returned_in_both(trained, evaluated)
            if less is not None:
                return replace(_finish(network, evaluated, named, leaves), trained_output=less)
            paths = set(found) - {""}
        if paths <= leaves.paths:
            raise _mode_error(network, found)
        leaves = leaves.and_paths(paths)
    raise UserError(
        f"too many modules behave differently in train and eval mode; with one that holds them, {keep_in_float('PATH')}"
    )


def _trace_copy(network: nn.Module, training: bool, named: Mapping[str, Tensor], leaves: Leaves) -> ConcreteTracer:
    """Trace a copy that shares the parameters, because a forward may change its module."""
    model = sharing_parameters(network).train(training)
    tracer = ConcreteTracer(model, {name: value.clone() for name, value in named.items()}, leaves)
    try:
        tracer.record()
    except Exception as error:  # the user's code may raise anything
        raise explain(error, model, tracer.path) from error
    if not training and (tracer.assigned_part is not None or tracer.assumes_another_shape):
        _require_own_answer(network, tracer, named)
    return tracer


@torch.no_grad()
def _require_own_answer(network: nn.Module, tracer: ConcreteTracer, named: Mapping[str, Tensor]) -> None:
    """Refuse a network whose traced steps do not compute what it does: what tracing supposed of it is not so."""
    own = tree_leaves(sharing_parameters(network)(*(value.clone() for value in named.values())))
    traced, part = tree_leaves(tracer.answer), tracer.assigned_part
    if len(own) == len(traced) and all(map(_is_equal, traced, own)):
        return
    if part is None:
        raise explain(by_batch(), tracer.network, "")
    raise explain(read_elsewhere(part.meta["facts"].line), tracer.network, owner(part))


def _returned_in_both(trained: ConcreteTracer, evaluated: ConcreteTracer) -> Any:
    """What train mode returns, in terms of what eval mode returns; None where it returns something else."""
    values = values_of(evaluated.graph)
    names = {values[ref.name]: ref for ref in references(evaluated.output)}
    own = values_of(trained.graph)
    if any(own[ref.name] not in names for ref in references(trained.output)):
        return None
    return substitute(trained.output, lambda ref: names[own[ref.name]])


def sharing_parameters(network: nn.Module) -> nn.Module:
    """Copy the modules of a network around the same parameters."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in network.parameters()}
    return copy.deepcopy(network, shared)


def _mode_error(network: nn.Module, found: Mapping[str, Difference]) -> UserError:
    line = f" at {found[''].line}" if "" in found and found[""].line else ""
    return UserError(
        f"{module_name(network, '')} takes another path in train than in eval mode outside any submodule{line}; "
        "move that code into a module of its own, so that it can be kept as one step"
    )


def _finish(network: nn.Module, tracer: ConcreteTracer, named: Mapping[str, Tensor], leaves: Leaves) -> Traced:
    _require_same_buffers(network, tracer.network, named)
    _require_no_memory(network, tracer, named)
    _adopt(network, tracer)
    graph = raw_graph(tracer.graph, tracer.output, named)
    return Traced(graph, set(leaves.paths))


def _require_same_buffers(network: nn.Module, traced: nn.Module, named: Mapping[str, Tensor]) -> None:
    """Refuse a forward that changes a buffer in eval mode; it may replace one, if the next call computes the same."""
    before = dict(network.named_buffers())
    now: list[tuple[str, Any]] = list(traced.named_buffers())
    for path, buffer in now:
        if isinstance(buffer, fx.Proxy):
            differs = not _answers_alike(network, named)
        else:
            differs = path in before and not torch.equal(buffer, before[path])
        if differs:
            raise UserError(f"{module_name(network, path.rpartition('.')[0])} changes its buffer {path}; {STATELESS}")


def _require_no_memory(network: nn.Module, tracer: ConcreteTracer, named: Mapping[str, Tensor]) -> None:
    """Refuse a forward that computes something else at the second call, with tensors that the first left behind.

    Caches may be read at the second call instead of computed, as long as the answers are the same.
    """
    kept = _attributes_with_proxies(tracer.network)
    if not kept:
        return
    try:
        same = not differences(tracer.again(named).record(), tracer.graph)
    except Exception:  # noqa: BLE001  # whatever it is, the first call did not raise it
        same = False
    if not same and not _answers_alike(network, named):
        path, name = kept[0]
        raise UserError(f"{module_name(tracer.network, path)} keeps {name} from one call to the next; {STATELESS}")


@torch.no_grad()
def _answers_alike(network: nn.Module, named: Mapping[str, Tensor]) -> bool:
    """Tell whether a network gives the same for the examples once more, and after it has seen more of them."""
    model, examples = copy.deepcopy(network), tuple(named.values())
    try:
        with torch.random.fork_rng(devices=[]):
            first, second = tree_leaves(model(*examples)), tree_leaves(model(*examples))
            model(*map(more_examples, examples))
            third = tree_leaves(model(*examples))
    except Exception:  # noqa: BLE001  # the user's code may raise anything at what an earlier call has left behind
        return False
    return all(map(_is_equal, first, second)) and all(map(_is_equal, first, third))


def _is_equal(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else bool(one == two)


def _attributes_with_proxies(model: nn.Module) -> list[tuple[str, str]]:
    """Find the attributes that hold a traced tensor: the module's path and the attribute's name."""
    attributes = [(path, name, value) for path, module in model.named_modules() for name, value in vars(module).items()]
    return [
        (path, name)
        for path, name, value in attributes
        if any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves(value))
    ]


def _adopt(network: nn.Module, tracer: ConcreteTracer) -> None:
    """Give the network what only the traced copy has: plain classes, and the tensors that its forward made."""
    make_plain(network, tracer.expanded)
    for node in tracer.graph.nodes:
        path = str(node.target)
        if node.op == "get_attr" and "." not in path and not hasattr(network, path):
            network.register_buffer(path, getattr(tracer.network, path), persistent=False)
