"""A graph for images of all heights and widths: nodes that compute what depends on them, in front of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qkd_deploy.export.graph_builder import require_valid
from qkd_deploy.gate.names import BATCH

AXES = {"height": 2, "width": 3}
"""The dimensions of images, by the names that they have in the file."""

Polynomial = np.ndarray
"""Coefficients int64 [4, ...] of 1, h, w and h w, for every element of a constant."""


def opened(base: onnx.ModelProto, polynomials: dict[str, Polynomial], multiple: int) -> onnx.ModelProto:
    """Make a file for images of all sizes of one for some size.

    Args:
        base: the file for one size.
        polynomials: by name, the constants that depend on the size, for units of ``multiple`` pixels.
        multiple: what heights and widths have to be multiples of.

    Returns:
        the file, with nodes in front that compute these constants, and with open sizes at its ends.
    """
    model = onnx.ModelProto()
    model.CopyFrom(base)
    graph, image = model.graph, model.graph.input[0]
    kept = [tensor for tensor in graph.initializer if tensor.name not in polynomials]
    nodes = _SizeNodes(image.name, multiple)
    if multiple > 1:
        checked = f"{image.name}.checked"
        for node in graph.node:
            node.input[:] = [checked if name == image.name else name for name in node.input]
        whole = np.array([[0, 0, 0, 0], [0, 0, multiple, 0], [0, 0, 0, multiple], [0, 0, 0, 0]], np.int64)
        nodes.add_polynomial(f"{checked}.shape", whole)  # 0 copies a size
        nodes.add("Reshape", [image.name, f"{checked}.shape"], checked, f"{image.name}/has_multiples_of_{multiple}")
    for name, polynomial in polynomials.items():
        nodes.add_polynomial(name, polynomial)
    used = {name for node in (*nodes.nodes, *graph.node) for name in node.input}
    order = [node for node in (*nodes.nodes, *graph.node) if used.intersection(node.output) or node in graph.node]
    described = [value for value in graph.value_info if value.name not in polynomials]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.value_info.extend(described)
    graph.node.extend(order)
    graph.initializer.extend([*kept, *(tensor for tensor in nodes.constants if tensor.name in used)])
    _open_ends(model)
    return model


class _SizeNodes:
    """Nodes that compute sizes from the shape of an image; those of height and width come first."""

    def __init__(self, image: str, multiple: int) -> None:
        self._image = image
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        unit = self._constant(f"{image}.multiple", np.array([multiple], np.int64))
        for side, axis in AXES.items():
            pixels = f"{image}.{side}"
            self.add("Shape", [image], pixels, f"{pixels}/Shape", start=axis, end=axis + 1)
            self.add("Div", [pixels, unit], f"{pixels}.units", f"{pixels}/Div")
        sides = [f"{image}.{side}.units" for side in AXES]
        self.add("Mul", sides, f"{image}.places", f"{image}.places/Mul")
        self._variables = (*sides, f"{image}.places")

    def add(self, operator: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        """Append a node with one output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))

    def add_polynomial(self, name: str, polynomial: Polynomial) -> None:
        """Compute a constant of the file for one size from the size of the image."""
        terms = [self._constant(f"{name}.fixed", polynomial[0])]
        for factor, variable in zip(polynomial[1:], self._variables, strict=True):
            if factor.any():
                side = variable.removeprefix(f"{self._image}.").removesuffix(".units")
                term = f"{name}.by_{side}"
                factors = self._constant(f"{term}.factor", factor)
                self.add("Mul", [factors, variable], term, f"{term}/Mul")
                terms.append(term)
        total = terms[0]
        for number, term in enumerate(terms[1:], start=1):
            result = name if number == len(terms) - 1 else f"{name}.sum_{number}"
            self.add("Add", [total, term], result, f"{name}/Add_{number}")
            total = result

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _open_ends(model: onnx.ModelProto) -> None:
    """Leave height and width of the input open by their names, and all sizes of outputs but those of the batch."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for side, axis in AXES.items():
        dims[axis].dim_param = side
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                dim.ClearField("dim_value")
    require_valid(model)
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_param not in (BATCH, *AXES):  # a name that the inference made up
                dim.ClearField("dim_param")
