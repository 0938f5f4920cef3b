"""What ONNX Runtime's CPU provider runs in integers, as data.

``OPERATORS`` says for every kind of node which integer kernel is expected and what its operands need.
``TORCH_OPS`` maps the ways in which PyTorch users write an operation (module class, function, tensor method) to its
kind. Whatever is not listed stays in float, between quantized borders, with ``FLOAT_REASONS`` or a general sentence.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.graph.trace.derived_modules import BATCH_NORMS
from qkd_deploy.graph.trace.modes import DROPOUT_FUNCTIONS


@dataclass(frozen=True)
class Operator:
    """How a kind of node behaves in an integer graph.

    Attributes:
        kernel: the ONNX Runtime kernel that computes it, "" for nodes that make no kernel.
        operand_bits: "layer" (the layer's activation bits), "wide" (8 bits, or the residual setting), "pool" (8 bits),
            "codes" (acts on codes: passes on what its readers need), "float" (reads floats), "none" (no tensors).
        own_grid: whether its output is quantized on a grid of its own.
        step: the fixed 8-bit output step of functions whose range is known; None where it is learned.
    """

    kernel: str
    operand_bits: str
    own_grid: bool
    step: float | None = None


OPERATORS: dict[str, Operator] = {
    "input": Operator("QuantizeLinear", "none", True),
    "conv": Operator("QLinearConv", "layer", True),
    "linear": Operator("QGemm", "layer", True),
    "add": Operator("QLinearAdd", "wide", True),
    "mul": Operator("QLinearMul", "wide", True),
    "matmul": Operator("QLinearMatMul", "wide", True),
    "concat": Operator("QLinearConcat", "wide", True),
    "avg_pool": Operator("QLinearConv", "wide", True),
    "uneven_avg_pool": Operator("QLinearAveragePool", "wide", True),
    "global_avg_pool": Operator("QLinearGlobalAveragePool", "pool", True),
    "requantize": Operator("QLinearAdd", "codes", True),
    "clip": Operator("QLinearAdd", "wide", True),
    "table": Operator("GatherElements", "wide", True),
    "leaky_relu": Operator("QLinearLeakyRelu", "wide", True),
    "sigmoid": Operator("QLinearSigmoid", "wide", True, 2.0**-8),
    "tanh": Operator("QLinearSigmoid", "wide", True, 2.0**-7),
    "hard_sigmoid": Operator("QLinearAdd", "wide", True, 2.0**-8),
    "softmax": Operator("QLinearSoftmax", "wide", True, 2.0**-8),
    "exponential": Operator("", "wide", True, 2.0**-7),
    "weighted_mean": Operator("MatMulInteger", "wide", True),
    "layer_norm": Operator("", "wide", True),
    "max_pool": Operator("MaxPool", "codes", False),
    "reshape": Operator("Reshape", "codes", False),
    "transpose": Operator("Transpose", "codes", False),
    "slice": Operator("Slice", "codes", False),
    "pad": Operator("Pad", "codes", False),
    "resize": Operator("Resize", "codes", False),
    "rescale": Operator("", "codes", False),
    "roll": Operator("Concat", "codes", False),
    "expand": Operator("Expand", "codes", False),
    "index": Operator("Gather", "codes", False),
    "amax": Operator("ReduceMax", "codes", False),
    "amin": Operator("ReduceMin", "codes", False),
    "dropout": Operator("", "codes", False),
    "batch_norm": Operator("BatchNormalization", "float", False),
    "float": Operator("", "float", False),
    "constant": Operator("", "none", True),
    "python": Operator("", "none", False),
}

FLOAT_CONSTANTS = ("leaky_relu", "layer_norm")
"""Kinds that read their constants (slopes, gains and offsets) in float."""

TABLES: dict[Any, str] = {
    **dict.fromkeys((nn.GELU, F.gelu), "Gelu"),
    **dict.fromkeys((nn.Mish, F.mish), "Mish"),
    **dict.fromkeys((nn.ELU, F.elu), "Elu"),
    **dict.fromkeys((nn.SELU, F.selu), "Selu"),
    **dict.fromkeys((nn.CELU, F.celu), "Celu"),
    **dict.fromkeys((nn.Softplus, F.softplus), "Softplus"),
    **dict.fromkeys((nn.Softsign, F.softsign), "Softsign"),
    **dict.fromkeys((nn.Hardshrink, F.hardshrink, nn.Softshrink, F.softshrink), "Shrink"),
    **dict.fromkeys((torch.exp, "exp"), "Exp"),
    **dict.fromkeys((torch.erf, "erf"), "Erf"),
    **dict.fromkeys((torch.sqrt, "sqrt"), "Sqrt"),
    **dict.fromkeys((torch.abs, "abs"), "Abs"),
    **dict.fromkeys((torch.square, "square", torch.pow, operator.pow, "pow"), "Pow"),
    **dict.fromkeys((torch.sin, "sin"), "Sin"),
    **dict.fromkeys((torch.cos, "cos"), "Cos"),
}
"""Functions of single elements that become tables of 256 codes, and their names in ONNX."""

TORCH_OPS: dict[Any, str] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), "conv"),
    nn.Linear: "linear",
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d), "functional_layer"),
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
    **dict.fromkeys((operator.add, torch.add, "add"), "add"),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub", "subtract"), "sub"),
    **dict.fromkeys((torch.rsub, "rsub"), "rsub"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul", "multiply"), "mul"),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "divide"), "div"),
    **dict.fromkeys((operator.neg, torch.neg, torch.negative, "neg", "negative"), "neg"),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"), "matmul"),
    F.scaled_dot_product_attention: "attention",
    torch.einsum: "einsum",
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "concat"),
    **dict.fromkeys(
        (nn.MaxPool1d, nn.MaxPool2d, F.max_pool1d, F.max_pool2d, torch.max_pool1d, torch.max_pool2d), "max_pool"
    ),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d), "avg_pool"),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d), "adaptive_avg_pool"
    ),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), "adaptive_max_pool"),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d), "adaptive_max_pool"),
    **dict.fromkeys((torch.mean, "mean"), "mean"),
    **dict.fromkeys((torch.sum, "sum"), "sum"),
    **dict.fromkeys((torch.amax, "amax"), "amax"),
    **dict.fromkeys((torch.amin, "amin"), "amin"),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Hardtanh, F.relu, F.relu6, F.hardtanh), "clip"),
    **dict.fromkeys(
        (torch.relu, torch.relu_, "relu", "relu_", torch.clamp, torch.clip, "clamp", "clamp_", "clip", "clip_"), "clip"
    ),
    **dict.fromkeys((torch.clamp_min, torch.clamp_max, "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"), "clip"),
    **dict.fromkeys((nn.LeakyReLU, F.leaky_relu, nn.PReLU, F.prelu, torch.prelu, "prelu"), "leaky_relu"),
    **dict.fromkeys((nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((nn.Tanh, F.tanh, torch.tanh, "tanh"), "tanh"),
    **dict.fromkeys((nn.SiLU, F.silu), "silu"),
    **dict.fromkeys((nn.GLU, F.glu), "glu"),
    **dict.fromkeys((nn.Hardsigmoid, F.hardsigmoid), "hard_sigmoid"),
    **dict.fromkeys((nn.Hardswish, F.hardswish), "hard_swish"),
    **dict.fromkeys(TABLES, "table"),
    **dict.fromkeys((nn.Softmax, F.softmax, torch.softmax, "softmax"), "softmax"),
    **dict.fromkeys((nn.LayerNorm, F.layer_norm), "layer_norm"),
    **dict.fromkeys((F.pad, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d), "pad"),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d), "pad"),
    **dict.fromkeys((F.interpolate, nn.Upsample, nn.UpsamplingNearest2d), "resize"),
    **dict.fromkeys((F.pixel_shuffle, nn.PixelShuffle), "pixel_shuffle"),
    **dict.fromkeys((F.pixel_unshuffle, nn.PixelUnshuffle), "pixel_unshuffle"),
    **dict.fromkeys((nn.ChannelShuffle, torch.channel_shuffle), "channel_shuffle"),
    **dict.fromkeys((torch.stack,), "stack"),
    **dict.fromkeys((torch.roll, "roll"), "roll"),
    **dict.fromkeys((torch.select, "select"), "select"),
    **dict.fromkeys((torch.index_select, "index_select"), "index_select"),
    **dict.fromkeys((torch.flip, "flip"), "flip"),
    **dict.fromkeys((torch.repeat_interleave, "repeat_interleave"), "repeat_interleave"),
    **dict.fromkeys(
        (nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten),
        "reshape",
    ),
    **dict.fromkeys(("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze"), "reshape"),
    **dict.fromkeys(("view_as", "reshape_as"), "reshape_like"),
    **dict.fromkeys((torch.permute, torch.transpose, "permute", "transpose"), "transpose"),
    **dict.fromkeys((torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis), "transpose"),
    **dict.fromkeys(("swapaxes", "swapdims", "movedim", "moveaxis"), "transpose"),
    getattr: "attribute",
    **dict.fromkeys(("to", "type", "clone", "detach", torch.clone, torch.detach), "copy"),
    **dict.fromkeys(("expand", "expand_as", "repeat"), "copy"),
    operator.getitem: "getitem",
    torch.narrow: "narrow",
    "narrow": "narrow",
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout), "dropout"),
    **dict.fromkeys(DROPOUT_FUNCTIONS, "dropout"),
    **dict.fromkeys((nn.Identity, "contiguous", torch.Tensor.contiguous, "float"), "identity"),
}
"""Ways to write an operation -> its kind; in-place variants are rewritten before (``in_place``)."""

CLIP_RANGES: dict[Any, tuple[float, float]] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), (0.0, float("inf"))),
    **dict.fromkeys((nn.ReLU6, F.relu6), (0.0, 6.0)),
}
"""Ranges of the activation functions that take no bounds as arguments."""

NEUTRAL: dict[Any, int] = {
    **dict.fromkeys((operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"), 1),
    **dict.fromkeys((operator.add, torch.add, "add", operator.sub, torch.sub, "sub"), 0),
}
"""Second operands with which an operation changes nothing."""

NONNEGATIVE: set[Any] = {
    *(nn.Softmax, F.softmax, torch.softmax, "softmax"),
    *(nn.Softplus, F.softplus, torch.exp, "exp", torch.sqrt, "sqrt", torch.abs, "abs", torch.square, "square"),
}
"""Operations of the user's whose results are never negative."""

MOSTLY_POSITIVE: set[Any] = {nn.GELU, F.gelu, nn.Mish, F.mish}
"""Operations of the user's whose results are never far below zero."""

FLOAT_REASONS: dict[Any, str] = {
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d), "ONNX Runtime has no integer ConvTranspose"),
    **dict.fromkeys((nn.Conv3d,), "three-dimensional convolutions have no integer kernel here"),
    nn.MultiheadAttention: "attention with masks, extra keys (bias_k, zeros) or over the batch stays in float",
    **dict.fromkeys(BATCH_NORMS, "a batch norm that follows no convolution or linear layer of its own stays in float"),
}
KIND_REASONS: dict[str, str] = {
    "layer_norm": "LayerNorm is computed in float32, from exact sums of integers: the same on every CPU",
    "exponential": "exponentials are computed in float32, on a grid on which every CPU agrees",
    "weighted_mean": "its sums are integers; they are divided by each other in float32: the same on every CPU",
}
"""Why kinds of the contract compute in float although they are exact."""

GENERAL_REASON = "there is no integer kernel for it in the contract table"


def torch_key(target: Callable[..., Any] | nn.Module | str) -> Any:
    """The key of a module instance, function or method name in the tables."""
    return type(target) if isinstance(target, nn.Module) else target


def float_reason(target: Any) -> str:
    """Why an operation stays in float."""
    return FLOAT_REASONS.get(torch_key(target), GENERAL_REASON)


def table_name(network: nn.Module, target: Any) -> str:
    """The ONNX name of a function that becomes a table; a string is the path of a module or a method's name."""
    if isinstance(target, str) and target not in TABLES:
        target = type(network.get_submodule(target))
    return TABLES[target]
