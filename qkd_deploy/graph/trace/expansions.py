"""PyTorch's attention and transformer encoders as the steps that they compute.

Their own forwards call one large function, or a fused kernel where nothing is trained, so that nothing in them could be
quantized. Where the steps written here compute the same for the example inputs, tracing takes them instead; modules,
parameters and names stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qkd_deploy.graph.modes import evaluating

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""

_ROUNDING = 1e-4
"""How far two float computations of one value may be apart, as a part of the largest element."""


def steps_of(module: nn.Module, one: Arguments, two: Arguments) -> Callable[..., Any] | None:
    """Find a function of the module and its arguments that computes the module's forward in single steps.

    Args:
        module: any module; not changed.
        one: arguments of a call, for the examples.
        two: the same for twice as many.

    Returns:
        None where there is no such function: other classes, attention with masks, forwards or hooks of the user's own.
    """
    steps = next((steps for kind, steps in _STEPS.items() if _runs_forward_of(module, kind)), None)
    if steps is None or (steps is _attend and not _is_plain_attention(module, one, two)):
        return None
    return steps if _equals(module, steps, one) else None


def _runs_forward_of(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a module is PyTorch's, or derived from it without a forward or hooks of its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, kind) and type(module).forward is kind.forward and not hooks


def _is_plain_attention(module: Any, one: Arguments, two: Arguments) -> bool:
    """Tell whether each example attends to its own keys, all of them, and to nothing else."""
    first, second = _bound(module, one), _bound(module, two)
    has_extra_keys = module.bias_k is not None or module.add_zero_attn
    if _is_masked(first) or has_extra_keys or first["query"].dim() != 3:
        return False
    # where the batch is the dimension that is attended over, it doubles for twice the examples
    length = 1 if module.batch_first else 0
    return all(first[name].shape[length] == second[name].shape[length] for name in ("query", "key", "value"))


def _bound(module: nn.Module, call: Arguments) -> dict[str, Any]:
    """Give the arguments of a call of attention their names."""
    args, kwargs = call
    return inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs).arguments


def _is_masked(arguments: Mapping[str, Any]) -> bool:
    masks = [arguments.get(name) for name in ("key_padding_mask", "attn_mask")]
    return any(mask is not None for mask in masks) or bool(arguments.get("is_causal"))


@torch.no_grad()
def _equals(module: nn.Module, steps: Callable[..., Any], call: Arguments) -> bool:
    """Tell whether the steps give what the module gives in eval mode."""
    args, kwargs = call
    try:
        with evaluating(module):
            expected = tree_leaves(module(*args, **kwargs))
            got = tree_leaves(steps(module, *args, **kwargs))
    except Exception:  # noqa: BLE001  # whatever it is: as one step, the module raises it again and is named
        return False
    return len(expected) == len(got) and all(map(_is_close, expected, got))


def _is_close(expected: Any, got: Any) -> bool:
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
    """Compute ``nn.MultiheadAttention`` without masks."""
    # tokens to (batch, heads, length, features of a head), and back to where batch and length were
    split, join = ((0, 2, 1, 3), (0, 2, 1, 3)) if module.batch_first else ((1, 2, 0, 3), (2, 0, 1, 3))
    heads = (module.num_heads, module.head_dim)
    q, k, v = (part.unflatten(-1, heads).permute(split) for part in _projected(module, query, key, value))
    weights = (q @ k.transpose(-2, -1) * module.head_dim**-0.5).softmax(-1)
    if module.dropout:
        weights = F.dropout(weights, module.dropout, module.training)
    output = module.out_proj
    result = F.linear((weights @ v).permute(join).flatten(2), output.weight, output.bias)
    if not need_weights:
        return result, None
    return result, _mean_over_heads(weights) if average_attn_weights else weights


def _projected(module: Any, query: Any, key: Any, value: Any) -> Any:
    """Make queries, keys and values: of one tensor by one layer, of several by one layer each."""
    whole, bias = module.in_proj_weight, module.in_proj_bias
    if whole is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    elif query is key and key is value:
        return F.linear(query, whole, bias).chunk(3, -1)
    else:
        weights = _thirds(whole, module.embed_dim)
    return list(map(F.linear, (query, key, value), weights, _thirds(bias, module.embed_dim)))


def _thirds(parameter: Any, size: int) -> tuple[Any, Any, Any]:
    """Cut the parameter of one layer into those for queries, keys and values."""
    if parameter is None:
        return None, None, None
    return parameter[0:size], parameter[size : 2 * size], parameter[2 * size : 3 * size]


def _mean_over_heads(weights: Any) -> Any:
    """Average over the heads (dimension 1), written as a pool over positions, which an integer kernel computes."""
    sizes = (weights.shape[2], weights.shape[3])
    return weights.flatten(2).transpose(1, 2).mean(2).unflatten(1, sizes)


def _encode(
    module: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    """Compute ``nn.TransformerEncoderLayer``; masks concern its attention only."""

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
    """Compute ``nn.TransformerEncoder``; that a mask is causal is a hint that changes nothing but speed."""
    for layer in module.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if module.norm is None else module.norm(src)


_STEPS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: _attend,
    nn.TransformerEncoderLayer: _encode,
    nn.TransformerEncoder: _encode_all,
}
