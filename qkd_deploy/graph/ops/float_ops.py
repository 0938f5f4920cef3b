"""Operations that stay in float between quantized borders, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from qkd_deploy.graph.contract.evaluation import in_float, own_call
from qkd_deploy.graph.contract.lowering import called
from qkd_deploy.graph.contract.operator import Operands, Operator, Sign
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.ops.lookups import sign_of_call
from qkd_deploy.graph.ops.normalization import SOFTMAX
from qkd_deploy.graph.trace.derived_modules import BATCH_NORMS

FLOAT_REASONS: dict[Any, str] = {
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d), "ONNX Runtime has no integer ConvTranspose"),
    nn.Conv3d: "three-dimensional convolutions have no integer kernel here",
    nn.MultiheadAttention: "attention with masks, extra keys (bias_k, zeros) or over the batch stays in float",
    **dict.fromkeys(BATCH_NORMS, "a batch norm that follows no convolution or linear layer of its own stays in float"),
}
"""Why operations of the user's stay in float."""

KEPT = "it is kept in float, as asked"
"""Why modules stay in float that the user names."""

GENERAL_REASON = "there is no integer kernel for it in the contract table"


def is_kept_layer(node: Node, network: nn.Module) -> bool:
    """True for a module with weights that stays in float because the user names it."""
    if node.kind != FLOAT_OP.name or node.reason != KEPT:
        return False
    return any(weight.dim() > 1 for weight in network.get_submodule(str(node.target)).parameters())


def _sign(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    if called(network, node) in SOFTMAX.torch:
        return Sign.NONNEGATIVE
    return sign_of_call(node, operands, network, graph)


FLOAT_OP = Operator(
    name="float_op",
    docs="any other operation, as the user called it",
    kernel="",
    operands=Operands.FLOATS,
    own_scale=False,
    floats=own_call,
    integers=in_float,
    sign=_sign,
    internal=True,
)
ROWS = (FLOAT_OP,)
