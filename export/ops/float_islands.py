"""Operations that stay in float, translated one by one by PyTorch's own exporter and inlined into our graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.export.graph_builder import OPSET, GraphBuilder
from qkd_deploy.export.ops.group_norm import emit_group_norm, is_group_norm
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.ops import apply

_EXAMPLE_BATCH = 2
_INEXACT_WHEN_FUSED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Softmax")
"""Between quantizers ONNX Runtime gives these 8-bit weights of its own, or codes that are off by one (Softmax)."""


class _Island(nn.Module):
    """One node as a module of its tensor operands."""

    def __init__(self, network: nn.Module, node: Node, operands: list[str]) -> None:
        super().__init__()
        self.network, self.node, self.operands = network, node, operands

    def forward(self, *tensors: Tensor) -> Any:
        known = dict(zip(self.operands, tensors, strict=True))

        def value(ref: Ref) -> Tensor:
            return known[ref.name]

        args, kwargs = substitute((self.node.args, self.node.kwargs), value)
        return apply(self.network, self.node, args, kwargs, training=False)


def emit_float_op(builder: GraphBuilder, frozen: FrozenModel, node: Node, values: dict[str, ir.Value]) -> ir.Value:
    """Translate ``node`` and append it to the graph; returns its float value.

    Raises:
        UserError: PyTorch cannot translate the operation, or it returns several tensors.
    """
    if is_group_norm(frozen.network, node):
        return emit_group_norm(builder, frozen.network, node, values)
    operands = list(dict.fromkeys(node.inputs))
    island = _Island(frozen.network, node, operands).eval()
    shapes = [frozen.graph.node(name) for name in operands]
    model = _translate(island, shapes, node)
    graph = model.graph
    if len(graph.outputs) != 1:
        raise UserError(
            f"{node.name} returns several tensors and stays in float; use it through single-output operations"
        )
    replaced: dict[ir.Value | None, ir.Value | None] = {None: None}
    replaced.update(zip(graph.inputs, (values[name] for name in operands), strict=True))
    for name, value in graph.initializers.items():
        assert value.const_value is not None
        replaced[value] = builder.constant(f"{node.name}.{name}", value.const_value.numpy())
    for part in graph:
        outputs = []
        for i, output in enumerate(part.outputs):
            outputs.append(ir.Value(name=f"{node.name}.{output.name or f'{part.name}_{i}'}"))
        attributes = list(part.attributes.values())
        name = f"{node.name}/{part.op_type}_{len(builder.nodes)}"
        inputs = [replaced[value] for value in part.inputs]
        if part.op_type in _INEXACT_WHEN_FUSED:
            inputs[0] = block_fusion(builder, inputs[0], f"{name}.input")
        builder.nodes.append(ir.Node(part.domain, part.op_type, inputs, attributes, outputs=outputs, name=name))
        replaced.update(zip(part.outputs, outputs, strict=True))
    result = replaced[graph.outputs[0]]
    assert result is not None
    if node.quantizer is None or node.dtype == torch.float32:
        return result
    single = {"to": ir.DataType.FLOAT}  # quantizers read float32
    return builder.add("Cast", [result], f"{node.name}.single", node=node.name, attributes=single)


def block_fusion(builder: GraphBuilder, value: ir.Value | None, name: str) -> ir.Value:
    """The value behind a clip that changes nothing, which keeps ONNX Runtime from fusing across it."""
    lowest = builder.scalar("lowest", float(np.finfo(np.float32).min), np.float32)
    return builder.add("Clip", [value, lowest], name, node=name)


def _translate(island: _Island, operands: list[Node], node: Node) -> ir.Model:
    examples = tuple(
        torch.zeros([_EXAMPLE_BATCH if i in o.batch_dims else n for i, n in enumerate(o.shape or ())], dtype=o.dtype)
        for o in operands
    )
    batch = torch.export.Dim("batch", min=1)
    dims = tuple(dict.fromkeys(o.batch_dims, batch) for o in operands)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                island, examples, dynamo=True, opset_version=OPSET, dynamic_shapes=(dims,), verbose=False
            )
    except Exception as error:  # the exporter raises many kinds
        raise UserError(
            f"{node.name} ({node.target}) stays in float and PyTorch cannot export it to ONNX; "
            f"replace the operation ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model
    InlinePass()(model)
    RemoveUnusedNodesPass()(model)
    return model
