"""Weights in a float ONNX file: the constants of its layers, in PyTorch's layout and in the order of its nodes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from qkd_deploy.checkpoints.weights_file import missing, weights_file
from qkd_deploy.errors import UserError, unreadable

_ENTRIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), ("weight", "bias")),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization"), ("weight", "bias")),
    **dict.fromkeys(("MatMul", "PRelu"), ("weight",)),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}
"""By operator the constants behind its first input, as PyTorch's module calls them."""


@dataclass(frozen=True)
class OnnxLayer:
    """A node with weights.

    Attributes:
        operator: of ONNX, such as "Conv".
        values: by PyTorch's name of an entry ("weight", "bias", ...) its value, as PyTorch's module holds it.
        names: of the same constants in the file.
    """

    operator: str
    values: dict[str, Tensor]
    names: dict[str, str]

    def __str__(self) -> str:
        return f"{self.operator} ({', '.join(f'{name} {list(value.shape)}' for name, value in self.values.items())})"


@dataclass(frozen=True)
class OnnxWeights:
    """What an ONNX file holds beside its graph.

    Attributes:
        model: the whole file.
        layers: nodes with weights, in execution order; one that is used twice stands once.
        constants: all floats that are stored under a name.
    """

    model: onnx.ModelProto
    layers: list[OnnxLayer]
    constants: dict[str, Tensor]

    @property
    def named(self) -> dict[str, Tensor]:
        """The same weights by the names that the file has for them."""
        own = {layer.names[entry]: value for layer in self.layers for entry, value in layer.values.items()}
        return {**self.constants, **own}


def read_onnx_weights(path: Path | str) -> OnnxWeights:
    """Read the weights of a float ONNX file, which may lie in a zip archive.

    Raises:
        UserError: it cannot be read, is no ONNX file, or holds a quantized network.
    """
    model = _model(path)
    if any("uantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        raise UserError(f"{path} holds the rounded weights of a quantized network; give one in full precision")
    try:
        return _weights_in(model)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:  # onnx and NumPy have no common one
        raise UserError(f"{path} is damaged: a node or a constant is not as ONNX says; export it again") from error


def _weights_in(model: onnx.ModelProto) -> OnnxWeights:
    constants = _Constants(model)
    layers: dict[tuple[str, ...], OnnxLayer] = {}
    for node in model.graph.node:
        constants.follow(node)
        layer = constants.layer(node)
        if layer is not None:
            layers.setdefault(tuple(layer.names.values()), layer)
    return OnnxWeights(model, list(layers.values()), constants.floats())


def _model(path: Path | str) -> onnx.ModelProto:
    content = weights_file(path).content()
    try:
        return onnx.load(content) if isinstance(content, Path) else onnx.load_model(io.BytesIO(content.getvalue()))
    except FileNotFoundError as error:
        raise missing(error.filename or path) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # the protobuf parser's own errors, or external constants that cannot be read
        raise UserError(f"{path} is no ONNX model, or it is damaged; use another file") from error


class _Constants:
    """Values that no input has a part in, as far as they only change their layout, with the names they have."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._names = {name: name for name in self._arrays}
        self._biases = self._biases_of_products(model)

    def floats(self) -> dict[str, Tensor]:
        """All floats that are stored under a name."""
        stored = {name: self._arrays[name] for name, origin in self._names.items() if name == origin}
        return {name: _tensor(array) for name, array in stored.items() if array.dtype.kind == "f"}

    def follow(self, node: onnx.NodeProto) -> None:
        """Note the results of nodes that only hand constants on."""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self._note(node.output[0], numpy_helper.to_array(node.attribute[0].t), node.output[0])
        elif node.op_type in ("Identity", "Unsqueeze", "Transpose") and node.input[0] in self._arrays:
            array = self._arrays[node.input[0]]
            if node.op_type == "Transpose":
                array = np.transpose(array, _attribute(node, "perm", None))
            self._note(node.output[0], array, self._names[node.input[0]])

    def layer(self, node: onnx.NodeProto) -> OnnxLayer | None:
        """Read a node with weights; None for all others."""
        places = {
            entry: name
            for entry, name in zip(_ENTRIES.get(node.op_type, ()), node.input[1:], strict=False)
            if name in self._arrays
        }
        if "weight" not in places or (node.op_type == "MatMul" and self._arrays[places["weight"]].ndim != 2):
            return None
        if node.op_type == "MatMul" and node.output[0] in self._biases:
            places["bias"] = self._biases[node.output[0]]
        values = {entry: self._layout(node, entry, self._arrays[name]) for entry, name in places.items()}
        return OnnxLayer(node.op_type, values, {entry: self._names[name] for entry, name in places.items()})

    def _layout(self, node: onnx.NodeProto, entry: str, array: np.ndarray) -> Tensor:
        """Bring a constant into the layout of PyTorch's module."""
        turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0))
        if entry == "weight" and turned:
            array = array.T
        return _tensor(array.reshape(-1) if node.op_type == "PRelu" else array)

    def _note(self, name: str, array: np.ndarray, origin: str) -> None:
        self._arrays[name], self._names[name] = array, origin

    def _biases_of_products(self, model: onnx.ModelProto) -> dict[str, str]:
        """Find vectors that are added to a result, by the result's name."""
        sums = [node.input for node in model.graph.node if node.op_type == "Add"]
        pairs = [(one, two) for inputs in sums for one, two in (inputs, inputs[::-1])]
        return {one: two for one, two in pairs if two in self._arrays and self._arrays[two].ndim == 1}


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))
