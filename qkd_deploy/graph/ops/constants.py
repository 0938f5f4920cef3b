"""Nodes that no kernel makes: inputs, constants of the network, and Python values."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qkd_deploy.graph.contract.evaluation import attribute_at, in_float, move_codes, output_grid, own_call
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.quantized import QuantizedTensor


class PixelMap(nn.Module):
    """How the input that a network takes belongs to ``(pixel - 128) / 64``: ``x = gain * y + offset`` by channel."""

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        """Keep numbers by channel, float32 [C], which no checkpoint holds."""
        super().__init__()
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``y`` of images ``x`` [N, C, H, W]: a subtraction and a division, each of which rounds once."""
        return (x - self.offset.view(-1, 1, 1)) / self.gain.view(-1, 1, 1)


def pixel_map(network: nn.Module, node: Node) -> PixelMap | None:
    """Find the map of an input whose codes are pixels though it is normalised otherwise; None for other inputs."""
    return attribute_at(network, node.kwargs["pixels"]) if node.kwargs else None


def _taken(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    found = pixel_map(network, node)
    return args[0] if found is None else found(args[0])


def _input_codes(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Codes that come in as codes are taken as they are."""
    grid = output_grid(frozen, node)
    if grid is None:
        return None
    (x,) = args
    if isinstance(x, QuantizedTensor):
        return QuantizedTensor(x.codes, grid)
    return QuantizedTensor(grid.quantize(_taken(frozen.network, node, (x.float(),), kwargs, False)), grid)


def _read(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    return attribute_at(network, str(node.target))


INPUT = Operator(
    name="input",
    docs="an input of the network",
    kernel="QuantizeLinear",
    operands=Operands.NONE,
    own_scale=True,
    floats=_taken,
    integers=_input_codes,
    internal=True,
)
CONSTANT = Operator(
    name="constant",
    docs="a parameter or buffer of the network",
    kernel="",
    operands=Operands.NONE,
    own_scale=True,
    floats=_read,
    integers=in_float,
    internal=True,
)
SCALAR = Operator(
    name="scalar",
    docs="a size or number that Python computes, such as the batch",
    kernel="",
    operands=Operands.NONE,
    own_scale=False,
    floats=own_call,
    integers=move_codes,
    internal=True,
)

ROWS = (INPUT, CONSTANT, SCALAR)


def constant(low: Lowering, node: Node, values: Tensor, suffix: str = "constant") -> Ref:
    """Put a constant of the network's own in front of the node that reads it."""
    buffer = f"{node.name}_{suffix}"
    low.network.register_buffer(buffer, values.detach().clone().float(), persistent=False)
    return low.insert_before(node, CONSTANT, (), suffix, tuple(values.shape), target=buffer)


def own_constant(low: Lowering, node: Node, value: Any, suffix: str) -> Any:
    """Copy a constant node for one reader: it stays in float there, while other readers may need its codes."""
    if not isinstance(value, Ref):
        return value
    source = low.graph.node(value.name).target
    return low.insert_before(node, CONSTANT, (), suffix, low.shape(value), target=source)


def parameter(low: Lowering, node: Node, module: nn.Module, name: str) -> Ref | None:
    """Make a constant node for a parameter of the module that a node calls; None where it has none."""
    value = getattr(module, name)
    if value is None:
        return None
    return low.insert_before(node, CONSTANT, (), name, tuple(value.shape), target=f"{node.module}.{name}")


def fixed_tensor(low: Lowering, value: Any) -> Tensor | None:
    """Read a float constant that training does not change; None for everything else."""
    if not low.is_float(value) or low.is_activation(value):
        return None
    found = attribute_at(low.network, str(low.graph.node(value.name).target))
    return None if isinstance(found, nn.Parameter) else found


def fixed_number(low: Lowering, value: Any) -> float | None:
    """Read a fixed constant of one element without dimensions; None for everything else."""
    if not isinstance(value, Ref) or low.graph.node(value.name).kind != "constant" or low.shape(value) != ():
        return None
    found = fixed_tensor(low, value)
    return None if found is None else float(found)
