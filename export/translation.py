"""Translate one float operation by ``torch.onnx.export``; equal operations of PyTorch's are translated once a process.

A translation takes about two seconds, whatever the operation, and one network is often exported several times (int8 and
packed; every width of a comparison). So results are kept, as bytes: they hold no network, and everybody gets a graph of
their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from types import FunctionType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.export.graph_builder import OPSET
from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.ops import apply

_EXAMPLE_BATCH = 2
_ANYWHERE = "module"
"""The path of modules without tensors, which leaves no trace in what they are translated to."""
_KEPT_BYTES = 64 * 2**20
_KNOWN_CODE = ("torch", "qkd_deploy", "builtins", "collections", "copyreg", "functools", "_operator")
"""Packages whose functions and classes stay what they are while a process runs; a user's own may change."""


class _Operation(nn.Module):
    """One node as a module of its tensor operands; of the network it holds only the module that the node calls."""

    def __init__(self, network: nn.Module, node: Node) -> None:
        super().__init__()
        self.network = nn.Module()  # so that parameters are called "network.PATH" in the file
        self.node, self.operands, self.called = node, list(dict.fromkeys(node.inputs)), node.target
        if isinstance(node.target, str) and not node.method:
            module = network.get_submodule(node.target)
            if _leaves_no_path(module):  # an activation function, say: it is the same wherever it is called
                self.node = replace(node, target=_ANYWHERE)
            *parents, name = str(self.node.target).split(".")
            holder = self.network
            for parent in parents:
                holder.add_module(parent, nn.Module())
                holder = holder.get_submodule(parent)
            holder.add_module(name, module)

    def forward(self, *tensors: Tensor) -> Any:
        known = dict(zip(self.operands, tensors, strict=True))

        def value(ref: Ref) -> Tensor:
            return known[ref.name]

        args, kwargs = substitute((self.node.args, self.node.kwargs), value)
        return apply(self.network, self.node, args, kwargs, training=False)


def _leaves_no_path(module: nn.Module) -> bool:
    """True for modules of PyTorch's that hold no tensors: the path of a tensor is part of its name in the file.

    Those of a user's own may hold tensors that are neither parameters nor buffers.
    """
    known = all(type(part).__module__.partition(".")[0] == "torch" for part in module.modules())
    return known and next(module.parameters(), None) is None and next(module.buffers(), None) is None


class _Fingerprint(pickle.Pickler):
    """Pickles what a translation depends on: tensors by their content, classes and functions by name.

    Raises:
        pickle.PicklingError: a class or function of the user's own, whose code may change between two exports.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._numbers: dict[int, int] = {}  # by identity: tensors that are shared stay shared

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__.partition(".")[0] not in _KNOWN_CODE:
            raise pickle.PicklingError(f"{obj} is not PyTorch's")
        if not isinstance(obj, Tensor):
            return None
        content = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        number = self._numbers.setdefault(id(obj), len(self._numbers))
        return number, str(obj.dtype), tuple(obj.shape), hashlib.sha256(content).digest()


class _Translations:
    """Serialized models by fingerprint; the ones used longest ago go first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: bytes, model: bytes) -> None:
        self._kept[key] = model
        self._size += len(model)
        while self._size > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


_translations = _Translations(_KEPT_BYTES)


def translate(network: nn.Module, node: Node, operands: list[Node]) -> ir.Graph:
    """A node as an ONNX graph of its operands, without local functions and unused nodes.

    Args:
        network: holds the module that the node calls.
        node: the operation.
        operands: the nodes that it reads, each once, in order.

    Raises:
        UserError: PyTorch cannot translate the operation.
    """
    operation = _Operation(network, node).eval()
    key = _fingerprint(operation, operands)
    model = _translations.get(key) if key is not None else None
    if model is None:
        model = ir.to_proto(_translated(operation, operands)).SerializeToString()
        if key is not None:
            _translations.keep(key, model)
    return ir.from_proto(onnx.load_from_string(model)).graph


def _fingerprint(operation: _Operation, operands: list[Node]) -> bytes | None:
    """A digest of everything that the translation depends on; None where some of it cannot be known.

    Names of tensors do not count, the path of the module does: its parameters are called after it.
    """
    node, names = operation.node, operation.operands

    def number(ref: Ref) -> Ref:
        return Ref(str(names.index(ref.name)))

    arguments = substitute((node.args, node.kwargs), number)
    examples = [(operand.shape, operand.dtype, operand.batch_dims) for operand in operands]
    written = io.BytesIO()
    try:
        _Fingerprint(written).dump((node.kind, node.target, node.method, arguments, examples, operation.network))
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, NotImplementedError):
        return None
    return hashlib.sha256(written.getvalue()).digest()


def _translated(operation: _Operation, operands: list[Node]) -> ir.Model:
    """Export an operation by PyTorch, on examples of its operands, and inline the functions that it is made of."""
    node = operation.node
    examples = tuple(
        torch.zeros([_EXAMPLE_BATCH if i in o.batch_dims else n for i, n in enumerate(o.sizes)], dtype=o.dtype)
        for o in operands
    )
    batch = torch.export.Dim("batch", min=1)
    dims = tuple(dict.fromkeys(o.batch_dims, batch) for o in operands)
    try:
        with _silenced():
            program = torch.onnx.export(
                operation, examples, dynamo=True, opset_version=OPSET, dynamic_shapes=(dims,), verbose=False
            )
    except Exception as error:  # the exporter raises many kinds
        raise UserError(
            f"{node.name} ({operation.called}) stays in float and PyTorch cannot export it to ONNX; "
            f"replace the operation ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    assert program is not None
    InlinePass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    return program.model


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
