"""How rows compute: a user's own calls, plain functions, kernels with an output scale, and movement of codes."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from qkd_deploy.graph.contract.operator import Floats, Frozen, Integers, Operands, Operator
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams, real


def attribute_at(network: nn.Module, path: str) -> Any:
    """Read the parameter, buffer or module at a dotted path."""
    return attrgetter(path)(network)


# -- on floats ---------------------------------------------------------------------------------------------------------


def plain(function: Callable[..., Any]) -> Floats:
    """Compute with a function of the node's arguments alone."""

    def run(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
        return function(*args, **kwargs)

    return run


def own_call(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    """Call the module, tensor method or function that the user called."""
    if node.method:
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if isinstance(node.target, str):
        return network.get_submodule(node.target)(*args, **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


# -- on codes ----------------------------------------------------------------------------------------------------------


def output_grid(frozen: Frozen, node: Node) -> QuantParams | None:
    """The scale and range of a node's output; None where it stays in float."""
    return None if node.quantizer is None else frozen.grid(node.quantizer)


def kernel(function: Callable[..., Tensor]) -> Integers:
    """Compute codes with a function of the output's ``QuantParams`` and the arguments, where there is a quantizer."""

    def run(
        operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> QuantizedTensor | None:
        grid = output_grid(frozen, node)
        return None if grid is None else QuantizedTensor(function(grid, *args, **kwargs), grid)

    return run


def move_codes(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do with codes what is done with floats; they keep their scale."""
    if not isinstance(args[0], QuantizedTensor):
        return None
    moved = operator.floats(frozen.network, node, (args[0].codes, *args[1:]), kwargs, False)
    return QuantizedTensor(moved, args[0].grid) if isinstance(moved, Tensor) else moved


def in_float(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Leave a node to be computed on floats."""


def requantized(grid: QuantParams, x: QuantizedTensor | Tensor) -> Tensor:
    """Round a tensor, or the real values of its codes, to another scale."""
    return grid.quantize(real(x))


def mover(name: str, docs: str, kernel: str, floats: Floats, **facets: Any) -> Operator:
    """Make the row of an operation that moves values or picks some: their codes keep their scale and their signs."""
    return Operator(
        name=name,
        docs=docs,
        kernel=kernel,
        operands=Operands.CODES,
        own_scale=False,
        floats=floats,
        integers=move_codes,
        sign=as_operands,
        **facets,
    )
