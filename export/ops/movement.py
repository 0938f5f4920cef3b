"""Data movement in ONNX, on codes wherever the runtime would otherwise move floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qkd_deploy.errors import UserError
from qkd_deploy.export.quantized_graph import QuantizedGraph
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.module_keys import module_key


def _dropped(source: Node, node: Node) -> list[int]:
    """The dimensions of size 1 that a reshape leaves out, where it does nothing else; none otherwise."""
    target, axes, j = node.shape or (), [], 0
    for i, size in enumerate(source.shape or ()):
        if j < len(target) and size == target[j] and (i in source.batch_dims) == (j in node.batch_dims):
            j += 1
        elif size == 1 and i not in source.batch_dims:
            axes.append(i)
        else:
            return []
    return axes if j == len(target) else []


class Movement(QuantizedGraph):
    """Handlers of reshapes, slices, padding, upsampling and other scales."""

    def _reshape(self, node: Node) -> ir.Value:
        if len(node.batch_dims) > 1:
            raise UserError(f"{node.name} spreads the batch over several dimensions; reshape one sample at a time")
        source = self.frozen.graph.node(node.inputs[0])
        axes = _dropped(source, node) if source.kind == "slice" else []
        if axes:  # the runtime moves transpositions past it, as past no Reshape
            operands = [self.values[source.name], self.builder.constant(f"{node.name}.axes", np.array(axes, np.int64))]
            return self.builder.add("Squeeze", operands, f"{node.name}.float", node=node.name)
        target = self.builder.constant(f"{node.name}.shape", np.array(node.open_shape, np.int64))
        operands = [self.values[node.inputs[0]], target]
        return self.builder.add("Reshape", operands, f"{node.name}.float", node=node.name)

    def _slice(self, node: Node) -> ir.Value:
        axes, starts, stops, steps = np.array(node.kwargs["ranges"], np.int64).reshape(-1, 4).T
        bounds = {"starts": starts, "stops": stops, "axes": axes} | ({"steps": steps} if (steps != 1).any() else {})
        limits = [self.builder.constant(f"{node.name}.{key}", values) for key, values in bounds.items()]
        return self.builder.add("Slice", [self.values[node.inputs[0]], *limits], f"{node.name}.float", node=node.name)

    def _pad(self, node: Node) -> ir.Value:
        """On codes, where zero is the zero point."""
        amounts = np.array(node.kwargs["amounts"], np.int64)
        pads = self.builder.constant(f"{node.name}.pads", amounts.T.reshape(-1))
        mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[node.kwargs["mode"]]
        return self._on_codes(node, "Pad", [pads], mode == "constant", {"mode": mode})

    def _resize(self, node: Node) -> ir.Value:
        b, factors = self.builder, node.kwargs["factors"]
        scales = b.constant(f"{node.name}.scales", np.array([1, 1, *factors], np.float32))
        attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._on_codes(node, "Resize", [None, scales], False, attributes)

    def _rescale(self, node: Node) -> ir.Value:
        """The same codes with another scale."""
        codes, factor = self._codes(node.inputs[0]), node.kwargs["factor"]
        if codes is None:
            number = self.builder.scalar(f"{node.name}.factor", factor, np.float32)
            return self.builder.add("Mul", [self.values[node.inputs[0]], number], f"{node.name}.float", node=node.name)
        grid = self.frozen.grid(module_key(node.name))
        self.grids[node.name] = (node, grid)
        return self._dequantize(node, grid, codes)

    def _roll(self, node: Node) -> ir.Value:
        """The end in front of the beginning, dimension by dimension, on codes where there are any."""
        b, operand = self.builder, node.inputs[0]
        value, shape = self._codes(operand) or self.values[operand], node.shape or ()
        for i, (shift, dim) in enumerate(zip(node.kwargs["shifts"], node.kwargs["dims"], strict=True)):
            at, parts = (-shift) % shape[dim], []
            for part, bounds in (("end", (at, shape[dim])), ("beginning", (0, at))):
                limits = [
                    b.constant(f"{node.name}.{part}_{i}.{key}", np.array([number], np.int64))
                    for key, number in zip(("start", "stop", "axis"), (*bounds, dim), strict=True)
                ]
                parts.append(b.add("Slice", [value, *limits], f"{node.name}.{part}_{i}", node=node.name))
            value = b.add("Concat", parts, f"{node.name}.rolled_{i}", node=node.name, attributes={"axis": dim})
        return self._dequantize(node, self.grids[operand][1], value) if operand in self.grids else value

    def _index(self, node: Node) -> ir.Value:
        given = node.kwargs["positions"]
        if isinstance(given, Ref):
            positions = self.values[given.name]
        else:
            positions = self.builder.constant(f"{node.name}.positions", np.array(given, np.int64))
        return self._on_codes(node, "Gather", [positions], False, {"axis": node.kwargs["dim"]})

    def _extreme(self, node: Node, operator: str) -> ir.Value:
        axes = self.builder.constant(f"{node.name}.axes", np.array(node.kwargs["dim"], np.int64))
        return self._on_codes(node, operator, [axes], False, {"keepdims": int(node.kwargs["keepdim"])})

    def _expand(self, node: Node) -> ir.Value:
        """Where a constant is repeated for every image, their number is that of the network's input."""
        source = self.frozen.graph.node(node.inputs[0])
        more = len(node.shape or ()) - len(source.shape or ())
        own = [1 if dim in node.batch_dims else size for dim, size in enumerate(node.shape or ())]
        sizes = self.builder.constant(f"{node.name}.own_sizes", np.array(own, np.int64))
        copied = [dim for dim in node.batch_dims if dim - more not in source.batch_dims]
        if copied:
            sizes = self._with_batch(node, sizes, copied[0])
        return self._on_codes(node, "Expand", [sizes], False, {})

    def _with_batch(self, node: Node, sizes: ir.Value, dim: int) -> ir.Value:
        """``sizes`` with the number of images at ``dim``."""
        b, inputs = self.builder, [self.frozen.graph.node(value.name) for value in self.inputs if value.name]
        i, at = next((i, given.batch_dims[0]) for i, given in enumerate(inputs) if given.batch_dims)
        where = {"start": at, "end": at + 1}
        images = b.add("Shape", [self.inputs[i]], f"{node.name}.images", node=node.name, attributes=where)
        place = b.constant(f"{node.name}.batch", np.array([dim], np.int64))
        return b.add("ScatterElements", [sizes, place, images], f"{node.name}.sizes", node=node.name)

    def _on_codes(
        self, node: Node, operator: str, rest: list[ir.Value | None], zero_last: bool, attributes: dict[str, Any]
    ) -> ir.Value:
        """An operator that the runtime would compute in float between quantizers, directly on codes."""
        b, codes = self.builder, self._codes(node.inputs[0])
        if codes is None:
            operands = [self.values[node.inputs[0]], *rest]
            return b.add(operator, operands, f"{node.name}.float", node=node.name, attributes=attributes)
        holder, grid = self.grids[node.inputs[0]]
        zero = [self._grid_constants(holder, grid)[1]] if zero_last else []
        moved = b.add(operator, [codes, *rest, *zero], f"{node.name}.moved", node=node.name, attributes=attributes)
        return self._dequantize(node, grid, moved)
