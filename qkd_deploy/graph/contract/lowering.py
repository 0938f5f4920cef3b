"""Lowering: calls as the user wrote them become nodes of the contract's kinds, with canonical arguments.

Every row of the contract that stands for PyTorch operations has a function that rewrites one raw node in place
(``Operator.lower``). ``Lowering`` is what these functions work with: what nodes say about tensors, and how nodes are
rewritten and inserted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qkd_deploy.graph.contract.operator import Operator, StaysInFloat
from qkd_deploy.graph.ir import Graph, Node, Ref, references

_ALIASES = {"axis": "dim", "keepdims": "keepdim", "min_val": "min", "max_val": "max", "padding": "pad"}
"""Other names of arguments, of NumPy's fashion and of modules."""


class Lowering:
    """The graph that is being lowered, and its network."""

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        """Nothing is copied: the graph is rewritten, and the network gets constants that rewriting makes."""
        self.network, self.graph = network, graph

    # -- what is known about values --------------------------------------------------------------------------------

    def tensor(self, value: Any) -> Node | None:
        """The node that makes a tensor operand; None for everything else."""
        node = self.graph.node(value.name) if isinstance(value, Ref) else None
        return None if node is None or node.shape is None else node

    def rank(self, value: Any) -> int:
        """Number of dimensions of a tensor operand; -1 for everything else."""
        node = self.tensor(value)
        return -1 if node is None else len(node.sizes)

    def shape(self, value: Any) -> tuple[int, ...]:
        """Shape of a tensor operand for the example inputs; () for everything else."""
        node = self.tensor(value)
        return () if node is None else node.sizes

    def dtype(self, value: Any) -> torch.dtype | None:
        """Type of a tensor operand's elements; None for everything else."""
        node = self.tensor(value)
        return None if node is None else node.dtype

    def is_float(self, value: Any) -> bool:
        """True for a float tensor, computed or constant."""
        dtype = self.dtype(value)
        return dtype is not None and dtype.is_floating_point

    def is_activation(self, value: Any) -> bool:
        """True for a float tensor that the network computes."""
        return self.is_float(value) and self.graph.node(value.name).kind != "constant"

    def depends_on_inputs(self, value: Any) -> bool:
        """True for a tensor operand that an input of the network has a part in, by more than its sizes."""
        waiting, met = [ref.name for ref in references(value)], set[str]()
        while waiting:
            node = self.graph.node(waiting.pop())
            if node.kind == "input":
                return True
            if node.kind != "scalar" and node.name not in met:
                met.add(node.name)
                waiting += node.inputs
        return False

    def batch_dims(self, value: Any, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Dimensions of a tensor operand that follow the batch; ``default`` where nothing is known of it."""
        node = self.tensor(value)
        return default if node is None else node.batch_dims

    def require_off_batch(self, value: Any, dims: Any, reason: str) -> None:
        """Refuse what happens along the batch of an operand.

        Raises:
            StaysInFloat: one of ``dims`` follows the batch, or nothing is known and it is the first.
        """
        if set(dims) & set(self.batch_dims(value, (0,))):
            raise StaysInFloat(reason)

    # -- rewriting ---------------------------------------------------------------------------------------------------

    def bind(self, node: Node, target: Any, names: tuple[str, ...], **defaults: Any) -> dict[str, Any]:
        """Arguments by name; a module's attributes count as arguments.

        Args:
            node: the call.
            target: what is called.
            names: of the positional arguments, since most functions tell no signature.
            defaults: values of arguments that are not given.
        """
        aliases = {alias: name for alias, name in _ALIASES.items() if name in names}
        given = dict(zip(names, node.args, strict=False))
        given |= {aliases.get(key, key): value for key, value in node.kwargs.items()}
        if isinstance(target, nn.Module):
            attributes = {aliases.get(key, key): value for key, value in vars(target).items()}
            given |= {key: value for key, value in attributes.items() if key in names}
        return {**defaults, **given}

    def become(
        self, node: Node, operator: Operator, args: tuple[Any, ...], /, *, target: Any = None, **kwargs: Any
    ) -> None:
        """Make a node one of a kind, with canonical arguments; ``kwargs`` are the node's."""
        node.become(operator.name, args, **kwargs)
        node.target = target

    def keep_call(self, node: Node, operator: Operator) -> None:
        """Make a node one of a kind that calls what the user called."""
        node.kind, node.reason = operator.name, ""

    def insert_before(
        self,
        node: Node,
        operator: Operator,
        args: tuple[Any, ...],
        suffix: str,
        shape: tuple[int, ...],
        *,
        batch_dims: tuple[int, ...] = (),
        **fields: Any,
    ) -> Ref:
        """Insert a node in front of another one.

        Args:
            node: the one that will read it.
            operator: its kind.
            args: its arguments.
            suffix: of its name and label.
            shape: of its result.
            batch_dims: for results of another shape than any operand, which pass on theirs.
            fields: further fields of ``Node``.
        """
        name = self.graph.unused_name(f"{node.name}_{suffix}")
        like = next((a for a in args if isinstance(a, Ref) and self.shape(a) == shape), None)
        dims = batch_dims if like is None else self.batch_dims(like)
        label = f"{node.label}.{suffix}"
        made = Node(name, operator.name, args, label=label, module=node.module, shape=shape, batch_dims=dims, **fields)
        self.graph.insert_before(node, made)
        return Ref(name)

    def remove(self, node: Node) -> None:
        """Let the readers of a node read its operand."""
        self.graph.remove(node, node.args[0].name)

    def without_batch_copies(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """Constants instead of their copies for every image, where another operand brings the images."""
        single = tuple(self._unexpanded(operand) for operand in operands)
        if single == operands:
            return operands
        constants = self.graph.constants()
        brought = any(isinstance(operand, Ref) and operand.name not in constants for operand in single)
        return single if brought else operands

    def _unexpanded(self, value: Any) -> Any:
        node = self.graph.node(value.name) if isinstance(value, Ref) else None
        if node is None or node.kind != "expand":
            return value
        source: Ref = node.args[0]
        copied = {dim for dim, size in enumerate(node.kwargs["sizes"]) if size not in (-1, 1)}
        return source if copied <= {*node.batch_dims} and source.name in self.graph.constants() else value


def is_number(value: Any) -> bool:
    """True for a number that the model's code holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_computed(*values: Any) -> bool:
    """True where values hold results of the graph, and so are known only when it runs."""
    return any(references(values))


def named(target: Any) -> str:
    """The name of a function or of a tensor's method."""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def torch_key(target: Any) -> Any:
    """Find the key that rows list for a module instance, function or method name: its class, itself, or itself."""
    return type(target) if isinstance(target, nn.Module) else target


def called(network: nn.Module, node: Node) -> Any:
    """The class, function or method's name that a node calls."""
    if isinstance(node.target, str) and not node.method:
        return type(network.get_submodule(node.target))
    return torch_key(node.target)
