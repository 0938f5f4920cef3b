"""PyTorch's attention and transformer encoders as the steps that they compute.

Their own forwards call one large function, or a fused kernel where nothing is trained, so that nothing in them could be
quantized. Where the steps written here compute the same for the example inputs, tracing takes them instead; modules,
parameters and names stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.modes import evaluating

Call = tuple[tuple[Any, ...], dict[str, Any]]

_ROUNDING = 1e-4
"""How far two float computations of one value may be apart, as a part of the largest element."""


def steps_of(module: nn.Module, one: Call, two: Call) -> Callable[..., Any] | None:
    """A function of the module and its arguments that computes what the module does; None where there is none.

    Args:
        module: any module; not changed.
        one: arguments of a call, for the examples.
        two: the same for twice as many.
    """
    steps = next((steps for kind, steps in _STEPS.items() if _runs_forward_of(module, kind)), None)
    if steps is None or (steps is _attend and not _is_plain_attention(module, one, two)):
        return None
    return steps if _equals(module, steps, one) else None


def _runs_forward_of(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is PyTorch's, or derived from it without a forward or hooks of its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, kind) and type(module).forward is kind.forward and not hooks


def _is_plain_attention(module: Any, one: Call, two: Call) -> bool:
    """Whether each example attends to its own keys, all of them, and to nothing else."""
    signature = inspect.signature(nn.MultiheadAttention.forward)
    first, second = (signature.bind(module, *args, **kwargs).arguments for args, kwargs in (one, two))
    if any(first.get(name) is not None for name in ("key_padding_mask", "attn_mask")) or first.get("is_causal"):
        return False
    if module.bias_k is not None or module.add_zero_attn or first["query"].dim() != 3:
        return False
    length = 1 if module.batch_first else 0
    return all(first[name].shape[length] == second[name].shape[length] for name in ("query", "key", "value"))


@torch.no_grad()
def _equals(module: nn.Module, steps: Callable[..., Any], call: Call) -> bool:
    """Whether the steps give what the module gives in eval mode."""
    args, kwargs = call
    try:
        with evaluating(module):
            expected, got = (tree_leaves(run(*args, **kwargs)) for run in (module, _bound(steps, module)))
    except Exception:  # noqa: BLE001  # whatever it is: as one step, the module raises it again and is named
        return False
    return len(expected) == len(got) and all(_close(a, b) for a, b in zip(expected, got, strict=True))


def _bound(steps: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    return lambda *args, **kwargs: steps(module, *args, **kwargs)


def _close(expected: Any, got: Any) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        return expected is got
    same_shape = expected.shape == got.shape
    return same_shape and bool((expected - got).abs().max() <= _ROUNDING * expected.abs().max())


# -- the steps; ``module`` is Any because while tracing its parameters are Proxies -----------------------------------


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: None = None,
    need_weights: bool = True,
    attn_mask: None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """``nn.MultiheadAttention`` without masks."""
    order = (0, 2, 1, 3) if module.batch_first else (1, 2, 0, 3)
    split = (module.num_heads, module.head_dim)
    q, k, v = (part.unflatten(-1, split).permute(order) for part in _projected(module, query, key, value))
    weights = (q @ k.transpose(-2, -1) * module.head_dim**-0.5).softmax(-1)
    if module.dropout:
        weights = F.dropout(weights, module.dropout, module.training)
    back = (0, 2, 1, 3) if module.batch_first else (2, 0, 1, 3)
    output = module.out_proj
    result = F.linear((weights @ v).permute(back).flatten(2), output.weight, output.bias)
    if not need_weights:
        return result, None
    return result, _mean_over_heads(weights) if average_attn_weights else weights


def _projected(module: Any, query: Any, key: Any, value: Any) -> Any:
    """Queries, keys and values: of one tensor by one layer, of several by one layer each."""
    whole, bias = module.in_proj_weight, module.in_proj_bias
    if whole is not None and query is key and key is value:
        return F.linear(query, whole, bias).chunk(3, -1)
    size = module.embed_dim
    parts = [slice(i * size, (i + 1) * size) for i in range(3)]
    separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = separate if whole is None else [whole[part] for part in parts]
    biases = [None if bias is None else bias[part] for part in parts]
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def _mean_over_heads(weights: Any) -> Any:
    """The heads put where a pool over positions has them."""
    sizes = (weights.shape[2], weights.shape[3])
    return weights.flatten(2).transpose(1, 2).mean(2).unflatten(1, sizes)


def _encode(
    module: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    """``nn.TransformerEncoderLayer``; masks concern its attention only."""

    def attention(x: Any) -> Any:
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        return module.dropout1(module.self_attn(x, x, x, need_weights=False, **masks)[0])

    def feed_forward(x: Any) -> Any:
        return module.dropout2(module.linear2(module.dropout(module.activation(module.linear1(x)))))

    if module.norm_first:
        src = src + attention(module.norm1(src))
        return src + feed_forward(module.norm2(src))
    src = module.norm1(src + attention(src))
    return module.norm2(src + feed_forward(src))


def _encode_all(
    module: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
) -> Any:
    """``nn.TransformerEncoder``; that a mask is causal is a hint that changes nothing but speed."""
    for layer in module.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if module.norm is None else module.norm(src)


_STEPS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: _attend,
    nn.TransformerEncoderLayer: _encode,
    nn.TransformerEncoder: _encode_all,
}
