"""A step of the network, and references to what other steps make.

A node's name is the name of the tensor that it makes; its arguments are literals and ``Ref``s to other nodes, nested in
tuples, lists and dicts as the user wrote them. Everything in it is plain data or importable functions, so that graphs
copy and pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

LAYER_KINDS = ("conv", "linear")
"""Kinds of nodes that have weights."""


@dataclass(frozen=True)
class Ref:
    """The value that the node called ``name`` makes."""

    name: str


@dataclass(eq=False)
class Node:
    """One step of the network.

    Attributes:
        name: unique; the tensor's name in reports and in the ONNX file.
        kind: what it does, a key of ``contract.OPERATORS``.
        args: positional arguments.
        kwargs: keyword arguments.
        label: what the tensor is called after the user's modules; names are labels made unique.
        module: path of the user's module that it comes from, "" for the network itself.
        target: the module path (layers, float modules) or function that computes it; None where ``kind`` says all.
        method: whether ``target`` is a tensor method's name.
        batch_norm: path of the batch norm fused behind a layer.
        affine: path of what multiplies and shifts a layer's output channels behind its batch norm.
        gain: path of what multiplies the columns of a layer's weights, or their input channels: the parameter of a
            layer norm in front, or the normalisation of pixels.
        offset: path of what a layer adds to those of its input, by way of its bias.
        clip: the float range of the activation function fused behind it; None where there is none.
        quantizer: key of the activation quantizer on its output; None leaves it as it is.
        source: key of the quantizer that made the grid of the first input, for layers with integer inputs.
        shape: output shape for the example inputs; None for values that are no tensors.
        batch_dims: its dimensions that follow the batch.
        dtype: the type of its elements in the float network.
        reason: why the node stays in float, as a sentence.
        tail: whether it stands between the last integer kernels and the outputs, where it is computed in float.
        partial: whether only those rows are computed that anybody reads.
        line: of the user's code that makes the value, as ``file:line``; "" for values that no line of it makes.
        unchanged: whether the user's call returned its first operand as it was: type, shape and elements.
        value: the number or size that a node of kind "scalar" computes, for the example inputs.
        smallest: smallest element of the examples of a float input.
        span: smallest and largest element of the examples of an input of whole numbers or booleans.
        position: orders the nodes of a graph; only the graph sets it.
        on_new_arguments: what the graph does when ``args`` or ``kwargs`` are set, to know who reads what.
    """

    name: str
    kind: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    module: str = ""
    target: str | Callable[..., Any] | None = None
    method: bool = False
    batch_norm: str | None = None
    affine: str | None = None
    gain: str | None = None
    offset: str | None = None
    clip: tuple[float, float] | None = None
    quantizer: str | None = None
    source: str | None = None
    shape: tuple[int, ...] | None = None
    batch_dims: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    reason: str = ""
    tail: bool = False
    partial: bool = False
    line: str = field(default="", repr=False)
    unchanged: bool = False
    value: Any = None
    smallest: float | None = None
    span: tuple[int, int] | None = None
    position: float = field(default=0.0, init=False, repr=False)
    on_new_arguments: Callable[[Node], None] | None = field(default=None, init=False, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in ("args", "kwargs") and self.on_new_arguments is not None:
            self.on_new_arguments(self)

    def become(self, kind: str, args: tuple[Any, ...], **kwargs: Any) -> None:
        """Make it a node of a kind that says all: no target of the user's, and no reason to stay in float."""
        self.kind, self.args, self.kwargs, self.reason = kind, args, kwargs, ""
        self.target, self.method = None, False

    @property
    def is_layer(self) -> bool:
        """True for convolutions and linear layers."""
        return self.kind in LAYER_KINDS

    @property
    def is_on_tokens(self) -> bool:
        """True for linear layers with codes in and out and more dimensions than rows and features.

        They run as convolutions over their tokens, other linear layers as products of matrices.
        """
        quantized = self.source is not None and self.quantizer is not None
        return self.kind == "linear" and quantized and len(self.sizes) > 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape for the example inputs; () for values that are no tensors."""
        return self.shape or ()

    @property
    def open_shape(self) -> tuple[int, ...]:
        """Its shape with -1 for what follows the batch, as a reshape takes it."""
        return tuple(-1 if dim in self.batch_dims else size for dim, size in enumerate(self.sizes))

    @property
    def inputs(self) -> list[str]:
        """Names of all nodes that the arguments refer to, in order."""
        return [ref.name for ref in references((self.args, self.kwargs))]


def references(value: Any) -> Iterator[Ref]:
    """Yield all ``Ref``s nested in a value."""
    if isinstance(value, Ref):
        yield value
    for part in _parts(value).values():
        yield from references(part)


def substitute(value: Any, replace: Callable[[Ref], Any]) -> Any:
    """Replace every ``Ref`` nested in a value."""
    return replace(value) if isinstance(value, Ref) else rebuilt(value, lambda part: substitute(part, replace))


def rebuilt(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Make a container of the same class with every part converted; anything else is left as it is."""
    parts = {name: convert(part) for name, part in _parts(value).items()}
    if _is_record(value) or not parts:
        return type(value)(**parts) if _is_record(value) else value
    if isinstance(value, slice) or hasattr(value, "_fields"):
        return type(value)(*parts.values())
    return type(value)(parts.items() if isinstance(value, dict) else parts.values())


def _parts(value: Any) -> dict[Any, Any]:
    """The parts of a container by name, key or position; {} for everything else."""
    if _is_record(value):
        return members(value)
    if isinstance(value, dict):
        return value
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop, "step": value.step}
    return {}


def members(record: Any) -> dict[str, Any]:
    """The parts of a dataclass by name."""
    return {f.name: getattr(record, f.name) for f in fields(record) if f.init}


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, (type, Ref))
