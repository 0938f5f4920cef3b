"""Translate one float operation by ``torch.onnx.export``; equal operations of PyTorch's are translated once a process.

A translation takes half a second, whatever the operation, and one network is often exported several times (int8 and
packed; every width of a comparison). So results are kept, as bytes: they hold no network, and everybody gets a graph of
their own.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.translation.kept import Translations, fingerprint
from qkd_deploy.graph.translation.operation import Operation

OPSET = 21
"""The operator set of ONNX that files are written in."""
EXAMPLES = 2
"""Images of the examples that operations are translated on; what is written for them must be right for any number."""
_KEPT_BYTES = 64 * 2**20

_translations = Translations(_KEPT_BYTES)


class Untranslatable(Exception):
    """PyTorch cannot write an operation in ONNX; the message says why, in its words."""


@dataclass(frozen=True)
class Translation:
    """An operation as an ONNX graph of its operands, without local functions and unused nodes.

    Attributes:
        model: it; the outputs of its graph are the tensors of the result, in order.
        structure: how the operation nests its results: True for each tensor, False for anything else.
    """

    model: ir.Model
    structure: Any

    def nested(self, values: Iterable[Any]) -> Any:
        """Nest values of the graph's outputs as the operation nests its results; None where it has no tensor."""
        rest = iter(values)
        return tree_map(lambda is_tensor: next(rest) if is_tensor else None, self.structure)


def translate(network: nn.Module, graph: Graph, node: Node) -> Translation:
    """Write a node as an ONNX graph of its operands.

    Args:
        network: holds the module that the node calls.
        graph: says which shapes the operands have.
        node: the operation.

    Raises:
        Untranslatable: PyTorch cannot write it.
    """
    operation = Operation(network, node).eval()
    operands = [graph.node(name) for name in operation.operands]
    batch = graph.batch_size
    examples = tuple(_example(operand, batch) for operand in operands)
    key = fingerprint(operation, operands, examples)
    model = _translations.get(key) if key is not None else None
    if model is None:
        dims = tuple(_open_dims(operand, batch) for operand in operands)
        model = ir.to_proto(_translated(operation, examples, dims)).SerializeToString()
        if key is not None:
            _translations.keep(key, model)
    with torch.no_grad():
        structure = tree_map(lambda result: isinstance(result, Tensor), operation(*examples))
    return Translation(ir.from_proto(onnx.load_from_string(model)), structure)


def _example(operand: Node, batch: int) -> Tensor:
    """Zeros in the shape of an operand, for ``EXAMPLES`` images in place of ``batch``."""
    sizes = [n // batch * EXAMPLES if i in operand.batch_dims else n for i, n in enumerate(operand.sizes)]
    return torch.zeros(sizes, dtype=operand.dtype)


def _open_dims(operand: Node, batch: int) -> dict[int, Any]:
    """The dimensions of an operand that follow the batch, as multiples of one symbol."""
    symbol: Any = torch.export.Dim("batch", min=1)
    times = {dim: operand.sizes[dim] // batch for dim in operand.batch_dims}
    return {dim: symbol if count == 1 else count * symbol for dim, count in times.items()}


def _translated(operation: Operation, examples: tuple[Tensor, ...], dims: tuple[dict[int, Any], ...]) -> ir.Model:
    """Export an operation by PyTorch, and inline the functions that it is made of."""
    try:
        with _silenced(), _with_kept_registry():
            program = torch.onnx.export(
                operation, examples, dynamo=True, opset_version=OPSET, dynamic_shapes=(dims,), verbose=False
            )
    except Exception as error:  # the exporter raises many kinds
        raise Untranslatable(_reason(error)) from error
    assert program is not None
    InlinePass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    return program.model


def _reason(error: BaseException) -> str:
    """Find what began it: PyTorch wraps that in advice to those who write exporters. Its first sentence is enough."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Nothing of what PyTorch's exporter prints, logs and warns of: users have not called it."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _with_kept_registry() -> Iterator[None]:
    """Let PyTorch's exporter collect its translations once a process instead of every time, which takes 1.4 s.

    Where PyTorch has moved the parts behind ``torch.onnx.export``, this is slower and nothing else.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    method = vars(ONNXRegistry)["from_torchlib"]
    setattr(ONNXRegistry, "from_torchlib", staticmethod(_made_once(ONNXRegistry.from_torchlib)))  # noqa: B010
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", method)  # noqa: B010


@functools.cache
def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps what it has made."""
    return functools.cache(make)
