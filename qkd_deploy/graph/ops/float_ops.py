"""Operations that stay in float between quantized borders, and why; and the parts of those with several results."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract.evaluation import in_float, own_call, plain
from qkd_deploy.graph.contract.lowering import Lowering, called, is_computed
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, Sign, refuse_if
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.lookups import sign_of_call
from qkd_deploy.graph.ops.normalization import SOFTMAX
from qkd_deploy.graph.trace.derived_modules import BATCH_NORMS

FLOAT_REASONS: dict[Any, str] = {
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d), "ONNX Runtime has no integer ConvTranspose"),
    nn.Conv3d: "three-dimensional convolutions have no integer kernel here",
    nn.MultiheadAttention: "attention with masks, extra keys (bias_k, zeros) or over the batch stays in float",
    **dict.fromkeys(
        (nn.GRU, nn.LSTM, nn.RNN, nn.GRUCell, nn.LSTMCell, nn.RNNCell),
        "what a recurrent layer remembers has no scale, and ONNX Runtime no integer kernel for it",
    ),
    **dict.fromkeys(BATCH_NORMS, "a batch norm that follows no convolution or linear layer of its own stays in float"),
}
"""Why operations of the user's stay in float."""

KEPT = "it is kept in float, as asked"
"""Why modules stay in float that the user names."""

GENERAL_REASON = "there is no integer kernel for it in the contract table"
_SORTING = "sorting has no integer kernel; it only picks, so that nothing is lost"
_COMPUTED_SORT = "sorting by computed dimensions or numbers stays in float"


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
PART = Operator(
    name="part",
    docs="one of several results of an operation in float",
    kernel="",
    operands=Operands.FLOATS,
    own_scale=False,
    floats=plain(operator.getitem),
    integers=in_float,
    internal=True,
)


def is_group_norm(network: nn.Module, node: Node) -> bool:
    """True for a GroupNorm over images whose sizes do not follow the batch, which the exporter writes itself."""
    called = node.target is F.group_norm
    if isinstance(node.target, str) and not node.method:
        called = isinstance(network.get_submodule(node.target), nn.GroupNorm)
    return called and node.batch_dims == (0,)


def called_in_words(node: Node) -> str:
    """What a node calls, as users read it: the function, or the module's path."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def become_part(low: Lowering, node: Node, source: Node, key: Any) -> None:
    """Make a node one of the results of ``source``, called after it: ``gru.0``."""
    low.become(node, PART, (Ref(source.name), key))
    node.label = f"{source.label}.{key}"


# -- elements in their order -------------------------------------------------------------------------------------------
# Codes are often equal. PyTorch leaves it open which of equal elements ``topk`` finds first; ONNX says the first.


def in_order(x: Tensor, *, dim: int, largest: bool, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Find the elements along a dimension in falling (``largest``) or rising order, and their places.

    Of equal elements the one in front comes first. ``count`` is how many of them are returned, by default all.
    """
    length = x.shape[dim] if count is None else count
    if torch.compiler.is_exporting():  # ONNX has TopK alone, which promises what PyTorch's does not
        values, places = torch.topk(x, length, dim, largest)
        return values, places
    values, places = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, length), places.narrow(dim, 0, length)


def places_in_order(x: Tensor, *, dim: int, largest: bool) -> Tensor:
    """Find where the elements along a dimension are in falling (``largest``) or rising order."""
    return in_order(x, dim=dim, largest=largest)[1]


def _lower_topk(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "k", "dim", "largest", "sorted"), dim=-1, largest=True)
    refuse_if(is_computed(bound["k"]), _COMPUTED_SORT)
    _become_sort(low, node, in_order, bound["input"], bound["dim"], bound["largest"], count=bound["k"])


def _lower_sort(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "dim", "descending"), dim=-1, descending=False)
    _become_sort(low, node, in_order, bound["input"], bound["dim"], bound["descending"])


def _lower_argsort(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "dim", "descending"), dim=-1, descending=False)
    _become_sort(low, node, places_in_order, bound["input"], bound["dim"], bound["descending"])


def _become_sort(low: Lowering, node: Node, function: Any, x: Any, dim: Any, largest: Any, **options: Any) -> None:
    """Let a node call a function of ours on floats."""
    refuse_if(is_computed(dim, largest) or low.rank(x) < 1, _COMPUTED_SORT)
    low.require_off_batch(x, [dim % low.rank(x)], "sorting along the batch stays in float")
    node.become(FLOAT_OP.name, (x,), dim=dim, largest=largest, **options)
    node.target, node.reason = function, _SORTING


def take_along(x: Tensor, places: Tensor, *, dim: int) -> Tensor:
    """Take elements at places along a dimension; in the other dimensions the places broadcast, over the images too."""
    shape = [*x.shape]
    shape[dim] = places.shape[dim]
    return x.gather(dim, places.expand(shape))


def _lower_take_along(low: Lowering, node: Node, target: Any) -> None:
    """Say that places are repeated, which PyTorch's exporter forgets."""
    bound = low.bind(node, target, ("input", "indices", "dim"), dim=None)
    x, places, dim = bound["input"], bound["indices"], bound["dim"]
    rank = low.rank(x)
    refuse_if(not isinstance(dim, int) or low.rank(places) != rank, GENERAL_REASON)
    size = low.shape(places)[dim]
    kept = [*low.shape(x)[: dim % rank], size, *low.shape(x)[dim % rank + 1 :]]
    refuse_if(list(node.sizes) != kept, GENERAL_REASON)
    node.become(FLOAT_OP.name, (x, places), dim=dim)
    node.target, node.reason = take_along, GENERAL_REASON


ROWS = (
    FLOAT_OP,
    PART,
    Rewrite(
        name="topk", becomes="elements in order, of equal ones the first", torch=(torch.topk, "topk"), lower=_lower_topk
    ),
    Rewrite(
        name="sort", becomes="elements in order, of equal ones the first", torch=(torch.sort, "sort"), lower=_lower_sort
    ),
    Rewrite(
        name="argsort",
        becomes="elements in order, of equal ones the first",
        torch=(torch.argsort, "argsort"),
        lower=_lower_argsort,
    ),
    Rewrite(
        name="take_along_dim",
        becomes="a gather of as many places as there are images",
        torch=(torch.take_along_dim, "take_along_dim"),
        lower=_lower_take_along,
    ),
)
