"""Does every operation that stays in float have a right translation? Asked when a network is prepared.

The exporter writes these operations by the same ``translate``, so that what it could not write, or would write wrongly,
is refused before anybody trains the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.errors import UserError
from qkd_deploy.gate.operators import require_operators
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.graph.interpreter import start, step
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops import apply
from qkd_deploy.graph.ops.constants import SCALAR
from qkd_deploy.graph.ops.float_ops import FLOAT_OP, called_in_words, is_group_norm
from qkd_deploy.graph.ops.layers import layer_in_float
from qkd_deploy.graph.ops.lookups import LOOKUP
from qkd_deploy.graph.ops.normalization import BATCH_NORM
from qkd_deploy.graph.translation.translate import EXAMPLES, Untranslatable, translate
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault

_RUNTIME = OnnxRuntime()
_TOLERANCE = 1e-3
"""By how much of its range a translated result may differ: float operators round otherwise, wrong ones are far off."""
_OTHER_INTEGERS = 0.01
"""Share of whole numbers, such as positions of largest elements, which may differ because a float was rounded."""


class _Wrong(Exception):
    """How a translation fails, as a clause for the user."""


def require_translations(network: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> None:
    """Translate each operation that stays in float, run it in ONNX Runtime, and compare with PyTorch.

    Args:
        network: in eval mode.
        graph: with its quantizers placed, which stay out of this.
        inputs: examples. Operations are compared on what the network makes of them, at another number of images than
            they were translated for.

    Raises:
        UserError: an operation cannot be translated or run, or gives something else; or a value that is read as a
            tensor, or returned, is none. Names it.
    """
    _require_tensors(graph)
    constants = graph.constants()
    translated = {n.name for n in graph.nodes if n.name not in constants and _is_translated(network, n)}
    if not translated:
        return

    def compute(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = (
            layer_in_float(network, node, *args)
            if node.is_layer
            else apply(network, node, args, kwargs, training=False)
        )
        value = value if node.clip is None else value.clamp(*node.clip)
        return _as_traced(node, value)

    values = start(graph, _several(inputs))
    with torch.no_grad():
        for node in graph.nodes:
            operands = [values[name] for name in dict.fromkeys(node.inputs)] if node.name in translated else []
            step(graph, values, node, compute)
            if node.name in translated:
                _require_translation(network, graph, node, operands, values[node.name])


def _as_traced(node: Node, value: Any) -> Any:
    """A float of the type that the network makes: rows compute in the type of their operand, and copy casts."""
    return value.to(node.dtype) if isinstance(value, Tensor) and node.dtype.is_floating_point else value


def _is_translated(network: nn.Module, node: Node) -> bool:
    """True for nodes that the exporter writes as PyTorch translates them."""
    if node.kind == LOOKUP.name:
        return node.quantizer is None
    return node.kind in (FLOAT_OP.name, BATCH_NORM.name) and not is_group_norm(network, node)


def _several(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The examples, repeated where they are as many as translations are made for, or fewer."""
    count = EXAMPLES // inputs[0].shape[0] + 1
    return tuple(torch.cat([x] * count) for x in inputs)


def _require_tensors(graph: Graph) -> None:
    """Refuse values that no file can hold: several of them, or numbers, in the place of a tensor."""
    for name in graph.outputs():
        if graph.node(name).shape is None:
            raise UserError(
                f"the network returns {name}, which is no tensor; return tensors, alone or in tuples, lists and dicts"
            )
    for node in graph.nodes:
        if node.kind == FLOAT_OP.name:
            whole = [name for name in node.inputs if _is_several(graph.node(name))]
            if whole:
                raise _refusal(node, f"it reads {whole[0]}, which is several tensors and not one")


def _is_several(node: Node) -> bool:
    return node.shape is None and node.kind != SCALAR.name


def _require_translation(network: nn.Module, graph: Graph, node: Node, operands: list[Tensor], value: Any) -> None:
    """Refuse an operation whose translation fails or gives something else."""
    try:
        model = ir.to_proto(translate(network, graph, node).model)
        require_operators(model)
        expected = [_array(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        for problem in _differences(expected, _run(model, operands)):
            raise _Wrong(problem)
    except (Untranslatable, NotAsExportedError, _Wrong) as error:
        raise _refusal(node, str(error)) from error


def untranslatable(node: Node, error: Untranslatable) -> UserError:
    """Make the error of an operation that PyTorch cannot write in ONNX."""
    return _refusal(node, str(error))


def _refusal(node: Node, problem: str) -> UserError:
    line = f" at {node.line}" if node.line else ""
    return UserError(
        f"{node.name} ({called_in_words(node)}){line} has no integer kernel and cannot be exported in float either: "
        f"{problem}; replace the operation, or let the network end in front of it and compute it outside"
    )


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor in NumPy, which does not have all of PyTorch's types."""
    try:
        return tensor.cpu().numpy()
    except TypeError as error:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise _Wrong(f"no runtime here takes or gives {kind}") from error


def _run(model: onnx.ModelProto, operands: list[Tensor]) -> list[np.ndarray]:
    """Run a translation alone, as it is written."""
    feeds = {v.name: _array(x) for v, x in zip(model.graph.input, operands, strict=True)}
    try:
        return [*_RUNTIME.session(model, optimized=False).run(feeds).values()]
    except RuntimeFault as error:
        raise _Wrong(f"{_RUNTIME.name} {_RUNTIME.version} cannot run it ({error.first_line})") from error


def _differences(expected: list[np.ndarray], found: list[np.ndarray]) -> Iterator[str]:
    """What differs between the results of PyTorch and of ONNX Runtime, as clauses."""
    if len(expected) != len(found):
        yield f"PyTorch writes it with {len(found)} results instead of {len(expected)}"
    for one, other in zip(expected, found, strict=False):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            yield (
                f"PyTorch writes it so that it gives {other.dtype} {list(other.shape)} instead of {one.dtype} "
                f"{list(one.shape)} for {len(one)} images"
            )
        elif not _is_close(one, other):
            yield "PyTorch writes it so that it gives other values"


def _is_close(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return one.size == 0 or float((one != other).mean()) <= _OTHER_INTEGERS
    finite = np.abs(one[np.isfinite(one)])
    allowed = _TOLERANCE * float(finite.max(initial=0.0)) + 1e-6
    return bool(np.allclose(one, other, rtol=0, atol=allowed, equal_nan=True))
