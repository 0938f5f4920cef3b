"""A tracer for ``torch.fx`` that runs every step on example inputs, so that ordinary Python about sizes just works."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops import contract
from qkd_deploy.graph.trace.calls import (
    at_example,
    attribute,
    is_arithmetic,
    is_open,
    proxies_in,
    tensors_by_isinstance,
    tensors_in,
    user_line,
)
from qkd_deploy.graph.trace.derived_modules import layer_of_call, plain_forward
from qkd_deploy.graph.trace.errors import STATELESS, Failed
from qkd_deploy.graph.trace.expansions import steps_of
from qkd_deploy.graph.trace.output import output_structure
from qkd_deploy.graph.trace.proxies import (
    BATCHES,
    Concrete,
    Unknown,
    Untraceable,
    agree,
    at_other_batches,
    by_values,
    has_tensor,
    is_description,
)
from qkd_deploy.graph.trace.shapes import ShapeRecorder, more_examples, require_open_batch


class ConcreteTracer(fx.Tracer):
    """Traces one network in one mode.

    Attributes:
        recorder: what every node of the graph looks like.
        output: what the network returned, nested as it was, with a ``Ref`` for every tensor.
        expanded: paths of the layers and batch norms of derived classes that have become several steps.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        leaves: set[str],
        leaf_types: tuple[type[nn.Module], ...],
        followers: Mapping[str, tuple[str, ...]],
    ) -> None:
        """``inputs`` are the examples by name; ``followers`` as ``trace_batch_norms.followers`` finds them."""
        # these take sizes one by one, and then PyTorch does not ask Proxies
        factories = (torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn)
        super().__init__(autowrap_modules=(), autowrap_functions=factories)  # type: ignore[arg-type]
        self._autowrap_search.append(torch)
        self._leaves, self._leaf_types, self._followers = leaves, leaf_types, followers
        self._inputs = {name: (value, more_examples(value)) for name, value in inputs.items()}
        self._batch = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor) and value.dim())
        self._running = False
        self._opened: set[str] = set()
        self.expanded: set[str] = set()
        self.proxy_buffer_attributes = True
        self.recorder = ShapeRecorder()
        self.output: Any = None

    def again(self, inputs: Mapping[str, Any]) -> ConcreteTracer:
        """A tracer with the same settings that has seen nothing yet."""
        return ConcreteTracer(inputs, self._leaves, self._leaf_types, self._followers)

    # -- what fx asks ------------------------------------------------------------------------------------------------

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        """The graph of a network in its present mode; everything random that it draws is put back."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]), tensors_by_isinstance(root):
            graph = super().trace(root, concrete_args)
        for node in graph.nodes:
            if node.op == "get_attr" and node.name not in self.recorder.shapes:
                value = attribute(root, str(node.target))
                self.recorder.note(node, (value, value), unchanged=False)
        return graph

    @property
    def path(self) -> str:
        """The innermost module that is being traced, or was when tracing failed; "" for the network itself."""
        return next((path for path, _ in reversed(self.module_stack.values())), "")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keeps PyTorch's own modules, and those listed, as single nodes."""
        if module_qualified_name in self._opened:
            return False
        return self._is_kept(m, module_qualified_name) or super().is_leaf_module(m, module_qualified_name)

    def _is_kept(self, m: nn.Module, path: str) -> bool:
        return path in self._leaves or path in self._followers or isinstance(m, self._leaf_types)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One placeholder for every example; other arguments of ``forward`` keep their defaults."""
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self._inputs]

        def run(*inputs: Any) -> Any:
            assert isinstance(self.root, nn.Module)
            self.output, nodes = output_structure(self.root.forward(*inputs), self.create_arg)
            return tuple(nodes)

        return run, proxies

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Modules that a forward makes for itself, like ``nn.ReLU()(x)``, are traced through."""
        if self._running:
            return forward(*args, **kwargs)
        assert self.submodule_paths is not None
        if m not in self.submodule_paths:
            if next(m.parameters(), None) is not None:
                raise Untraceable(
                    f"it calls a {type(m).__name__} with weights that is not registered in the network",
                    "keep modules in attributes, nn.ModuleList or nn.ModuleDict, not in plain lists",
                )
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        steps = None if self._is_kept(m, path) else self._steps(m, args, kwargs)
        if steps is not None:
            self._opened.add(path)
            forward = partial(steps, m)
        else:
            self._opened.discard(path)
        followers = self._followers.get(path)
        if followers is not None:
            self.expanded.add(path)
        result = super().call_module(m, forward, args, kwargs)
        for child in followers or ():
            result = m.get_submodule(child)(result)
        return result

    def _steps(self, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        """What stands for the forward of one of PyTorch's large modules."""
        self._running = True
        try:
            return steps_of(m, *((at_example(i, args), at_example(i, kwargs)) for i in range(2)))
        finally:
            self._running = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers are Proxies for the user's code, tensors while a step runs."""
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        """The node of a Proxy; anything else as fx has it."""
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
        """Run one step; a plain value where it is one, else a node of the graph."""
        if kind == "call_method" and target.startswith("__") and hasattr(operator, target):
            kind, target = "call_function", getattr(operator, target)  # constant + x calls Tensor.__add__
        layer = layer_of_call(self.root, target, args, kwargs) if kind == "call_function" else None
        if layer is not None:
            self.expanded.add(layer[0])
            kind, target, args, kwargs, name = "call_module", layer[0], layer[1:], {}, None
        seen, unchanged = self._run(kind, target, args, kwargs)
        if is_open(kind, target) and not has_tensor(seen[0]) and agree(seen):
            return seen[0]
        result: Any = super().create_proxy(
            kind, target, args, kwargs, name, type_expr, lambda node: Concrete(node, self, seen)
        )
        result.node.meta["line"] = user_line()
        self.recorder.note(result.node, seen, unchanged)
        return self._parts(result) if is_open(kind, target) else result

    # -- running steps -----------------------------------------------------------------------------------------------

    def _run(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], bool]:
        """What a step gives, as in ``Concrete.seen``, and whether it is its first operand, unchanged."""
        if kind == "placeholder":
            return self._inputs[target], False
        if kind == "get_attr":
            value = self._call(kind, target, (), {})
            return (value, value), False
        operands = proxies_in((args, kwargs))
        numbers = operands and not tensors_in((args, kwargs)) and not any(operand.reads_tensors for operand in operands)
        if numbers and is_arithmetic(kind, target):
            return tuple(self._number(i, kind, target, args, kwargs) for i in range(2 + len(BATCHES))), False
        source = args[0].seen[0] if args and isinstance(args[0], Concrete) else None
        version = source._version if isinstance(source, Tensor) else 0
        drawn = torch.get_rng_state()
        one, two = (self._step(i, kind, target, args, kwargs) for i in range(2))
        self._require_no_chance(target, drawn)
        if not has_tensor(one) and one is not None:
            if not is_description(kind, target, source):
                raise by_values()
            return (one, two, *at_other_batches(one, two, self._batch)), False
        for pair in zip(tensors_in(one), tensors_in(two), strict=False):
            require_open_batch(*pair)
        return (one, two), (
            isinstance(source, Tensor)
            and isinstance(one, Tensor)
            and source._version == version
            and source.dtype == one.dtype
            and torch.equal(source, one)
        )

    def _step(self, index: int, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._call(kind, target, at_example(index, args), at_example(index, kwargs))
        except Exception as error:  # the user's code or example may raise anything
            raise Failed(doubled=index == 1) from error

    def _call(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        self._running = True
        try:
            if kind == "get_attr":
                return attribute(self.root, target)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs) if kind == "call_function" else self._call_leaf(target, args, kwargs)
        finally:
            self._running = False

    def _call_leaf(self, target: str, args: Any, kwargs: Any) -> Any:
        assert isinstance(self.root, nn.Module)
        module = self.root.get_submodule(target)
        with evaluating(module):  # a batch norm of one example has no statistics, and no statistics may change
            return plain_forward(module, *args) if target in self.expanded else module(*args, **kwargs)

    def _number(self, index: int, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if index < 2:
            return self._step(index, kind, target, args, kwargs)
        try:
            return self._step(index, kind, target, args, kwargs)
        except Failed:
            return Unknown()

    def _require_no_chance(self, target: Any, drawn: Tensor) -> None:
        known = not isinstance(target, str) and contract.TORCH_OPS.get(target) == "dropout"
        if not self.root.training and not known and not torch.equal(drawn, torch.get_rng_state()):
            raise Untraceable(
                "it draws random numbers in eval mode, too",
                "draw them only if self.training, in a module of its own, or pass them as an input",
            )

    def _parts(self, whole: Concrete) -> Any:
        """Tuples, lists and dictionaries of tensors as such, with a node for every part."""
        one, two = whole.seen[:2]
        if not isinstance(one, (tuple, list, dict)) or isinstance(one, torch.Size) or not has_tensor(one):
            return whole
        if len(one) != len(two):
            raise Untraceable(
                "it takes the batch apart",
                "treat all elements of the batch alike, without loops over them",
            )
        keys = list(one) if isinstance(one, dict) else range(len(one))
        parts = [self.create_proxy("call_function", operator.getitem, (whole, key), {}) for key in keys]
        if isinstance(one, dict):
            return dict(zip(keys, parts, strict=True)) if type(one) is dict else whole
        return type(one)(*parts) if hasattr(one, "_fields") else type(one)(parts)
