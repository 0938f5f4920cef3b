"""A tracer for ``torch.fx`` that runs every call on example inputs, so that ordinary Python about sizes just works."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from qkd_deploy.graph.computed_tensors import HookedTensor, computes_its_tensors, own_class
from qkd_deploy.graph.trace.assigned_parts import with_part
from qkd_deploy.graph.trace.batch_sizes import agree
from qkd_deploy.graph.trace.calls import Call, at
from qkd_deploy.graph.trace.derived_modules import LAYERS, layer_of_call
from qkd_deploy.graph.trace.errors import STATELESS, Untraceable, user_line
from qkd_deploy.graph.trace.expansions import steps_of
from qkd_deploy.graph.trace.proxies import Concrete, constants_of_the_batch, tensors_by_isinstance
from qkd_deploy.graph.trace.raw_graph import output_structure
from qkd_deploy.graph.trace.shapes import facts_of, has_tensor
from qkd_deploy.graph.trace.steps import StepRunner

_FACTORIES = (torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn)
"""Functions that take sizes one by one, and then PyTorch does not ask proxies."""
_NEW = ("new_full", "new_ones", "new_tensor", "new_zeros")
"""Methods that make a tensor of sizes and numbers."""


@dataclass(frozen=True)
class Leaves:
    """The modules that become single nodes, beside PyTorch's own.

    Attributes:
        paths: modules by path.
        types: modules by class.
        chains: derived batch norms by path, with the names of the children that run after the plain batch norm.
        kept: modules by path that the user wants in float; none of them is among ``chains``.
    """

    paths: frozenset[str]
    types: tuple[type[nn.Module], ...]
    chains: Mapping[str, tuple[str, ...]]
    kept: Collection[str] = ()

    def keep(self, module: nn.Module, path: str) -> bool:
        """Tell whether a module is kept whole."""
        by_path = path in self.paths or path in self.chains or path in self.kept
        return by_path or isinstance(module, self.types)

    def and_paths(self, paths: set[str]) -> Leaves:
        """Return these and more modules."""
        return replace(self, paths=self.paths | paths)


class ConcreteTracer(fx.Tracer):
    """Traces one network in one mode.

    Attributes:
        network: the network; a forward may change it, so that callers pass a copy.
        output: the network's result, nested as it was, with a ``Ref`` for every tensor.
        answer: the same with the values for the examples.
        assumes_another_shape: it compares the shape of a batch with one that it keeps, which is taken for another: most
            batches are of another size, and only what caches in this way is left to be the same for both.
        expanded: paths of the layers and batch norms of derived classes that become several steps.
    """

    def __init__(self, network: nn.Module, inputs: Mapping[str, Tensor], leaves: Leaves) -> None:
        """Take a network in its present mode and examples by the names of the arguments of ``forward``."""
        super().__init__(autowrap_modules=(), autowrap_functions=_FACTORIES)  # type: ignore[arg-type]
        self._autowrap_search.append(torch)
        self.network = network
        self._inputs, self._leaves = inputs, leaves
        self._opened: set[str] = set()
        self.expanded: set[str] = set()
        self._runner = StepRunner(network, inputs, self.expanded)
        self.proxy_buffer_attributes = True
        self.output: Any = None
        self.answer: Any = None
        self.assumes_another_shape = False

    def again(self, inputs: Mapping[str, Tensor]) -> ConcreteTracer:
        """Make a tracer of the same network that has seen nothing yet."""
        return ConcreteTracer(self.network, inputs, self._leaves)

    def record(self) -> fx.Graph:
        """Trace the network; everything random that it draws is put back.

        Returns:
            the graph, also found in ``self.graph``. Every node has its ``Facts`` in ``meta["facts"]``.

        Raises:
            Exception: the user's code may raise anything; ``path`` then says in which module.
        """
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            tensors_by_isinstance(self.network),
            constants_of_the_batch(self),
        ):
            graph = self.trace(self.network)
        for node in graph.nodes:
            if node.op == "get_attr" and "facts" not in node.meta:  # made by fx where a tensor was an argument
                value = operator.attrgetter(str(node.target))(self.network)
                node.meta["facts"] = facts_of(value, value)
        return graph

    @property
    def assigned_part(self) -> fx.Node | None:
        """The first assignment to a part of a tensor."""
        return next((node for node in self.graph.nodes if node.target is with_part), None)

    @property
    def path(self) -> str:
        """The innermost module that is being traced, or was when tracing failed; "" for the network itself."""
        return next((path for path, _ in reversed(self.module_stack.values())), "")

    # -- what fx asks ------------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep PyTorch's own modules, and those of ``Leaves``, as single nodes."""
        if module_qualified_name in self._opened:
            return False
        if self._leaves.keep(m, module_qualified_name) or isinstance(m, HookedTensor):
            return True
        pytorchs = own_class(m).__module__.startswith("torch.") and super().is_leaf_module(m, module_qualified_name)
        return pytorchs and not (isinstance(m, LAYERS) and computes_its_tensors(m))

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make one placeholder for every example; other arguments of ``forward`` keep their defaults."""
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self._inputs]

        def run(*inputs: Any) -> Any:
            answer = self.network.forward(*inputs)
            self.output, nodes = output_structure(answer, self.create_arg)
            self.answer = tree_map_only(Concrete, lambda proxy: proxy.seen[0], answer)
            return tuple(nodes)

        return run, proxies

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a node of a leaf, trace through everything else."""
        if self._runner.is_running or self._is_made_in_forward(m):
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        steps = None if self._leaves.keep(m, path) else self._expansion(m, args, kwargs)
        self._opened.discard(path)
        if steps is not None:
            self._opened.add(path)
            forward = partial(steps, m)
        if path in self._leaves.chains:
            self.expanded.add(path)
        result = super().call_module(m, forward, args, kwargs)
        for child in self._leaves.chains.get(path, ()):
            result = m.get_submodule(child)(result)
        return result

    def _is_made_in_forward(self, m: nn.Module) -> bool:
        """Tell whether a forward has made a module for itself, like ``nn.ReLU()(x)``; it may have no weights."""
        assert self.submodule_paths is not None
        if m in self.submodule_paths:
            return False
        if next(m.parameters(), None) is not None:
            raise Untraceable(
                f"it calls a {type(m).__name__} with weights that is not registered in the network",
                "keep modules in attributes, nn.ModuleList or nn.ModuleDict, not in plain lists",
            )
        return True

    def _expansion(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        """Find the steps of one of PyTorch's large modules, where they equal its forward."""
        with self._runner.running():
            return steps_of(m, *((at(index, args), at(index, kwargs)) for index in range(2)))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Give parameters and buffers as proxies to the user's code, as tensors to a call that is being computed."""
        return attr_val if self._runner.is_running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        """Give the node of a proxy; anything else as fx has it."""
        if isinstance(a, fx.Proxy):
            if a.tracer is not self:
                raise Untraceable("it reads a tensor that an earlier call has left behind", STATELESS)
            return a.node
        return a if isinstance(a, fx.Node) else super().create_arg(a)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], Any] | None = None,
    ) -> Any:
        """Run one call; return a plain value where it gives one, else make a node of the graph."""
        call = self._canonical(Call(kind, target, args, kwargs))
        constant = self._constant_of_a_kind(call)
        if constant is not None:
            return constant
        seen, unchanged = self._runner.run(call)
        if call.is_open and not has_tensor(seen[0]) and agree(seen):
            return seen[0]
        if _compares_shapes(call):
            self.assumes_another_shape = True
            return call.target is operator.ne
        name = name if call.kind == kind else None  # the name was made for the function that has become a layer
        made: Any = super().create_proxy(
            call.kind, call.target, call.args, call.kwargs, name, type_expr, lambda node: Concrete(node, self, seen)
        )
        made.node.meta["facts"] = facts_of(*seen, unchanged=unchanged, line=user_line())
        return self._parts(made) if call.is_open else made

    def _canonical(self, call: Call) -> Call:
        """Write a call as ``operator.add(constant, x)`` for ``Tensor.__add__``, as a layer for ``F.conv2d`` of one."""
        if call.kind == "call_method" and call.target.startswith("__") and hasattr(operator, call.target):
            return replace(call, kind="call_function", target=getattr(operator, call.target))
        if call.kind != "call_function":
            return call
        found = layer_of_call(self.network, call.target, call.args, call.kwargs)
        if found is None:
            return call
        path, x = found
        if path in self._leaves.kept:
            return call
        self.expanded.add(path)
        return Call("call_module", path, (x,))

    def _constant_of_a_kind(self, call: Call) -> Tensor | None:
        """Compute a tensor that owes no more to another one than type and device; None for every other call."""
        if call.kind != "call_method":
            return None
        first, *others = call.args
        if call.target == "type_as" and isinstance(first, Tensor):
            made_of, arguments = first, tuple(at(0, other) for other in others)
        elif call.target in _NEW and isinstance(first, Concrete) and first.reads_tensors:
            made_of, arguments = first.seen[0], tuple(others)
            if any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((arguments, call.kwargs))):
                return None
        else:
            return None
        with self._runner.running():
            made: Tensor = getattr(made_of, call.target)(*arguments, **call.kwargs)
        return made

    def _parts(self, whole: Concrete) -> Any:
        """Take tuples, lists and dictionaries of tensors apart, with a node for every part."""
        one, two = whole.seen[:2]
        if not isinstance(one, (tuple, list, dict)) or not has_tensor(one):
            return whole
        if len(one) != len(two):
            raise Untraceable(
                "it takes the batch apart",
                "treat all elements of the batch alike, without loops over them",
            )
        return self._parts_of_dict(whole, one) if isinstance(one, dict) else self._parts_of_sequence(whole, one)

    def _parts_of_sequence(self, whole: Concrete, one: Any) -> Any:
        parts = [self._part(whole, index) for index in range(len(one))]
        return type(one)(*parts) if hasattr(one, "_fields") else type(one)(parts)

    def _parts_of_dict(self, whole: Concrete, one: dict[Any, Any]) -> Any:
        parts = {key: self._part(whole, key) for key in one}
        return parts if type(one) is dict else whole  # classes of dictionaries have constructors of their own

    def _part(self, whole: Concrete, key: Any) -> Any:
        return self.create_proxy("call_function", operator.getitem, (whole, key), {})


def _compares_shapes(call: Call) -> bool:
    """Tell whether a call compares the whole shape of a batch with a shape that is there already."""
    if call.kind != "call_function" or call.target not in (operator.eq, operator.ne):
        return False
    compared = [argument.seen[0] if isinstance(argument, Concrete) else argument for argument in call.args]
    return all(isinstance(value, torch.Size) for value in compared) and len(compared[0]) > 1
