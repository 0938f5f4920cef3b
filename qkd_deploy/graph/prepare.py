"""From the user's network to one with learnable quantizers: trace, lower, rewrite, place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from qkd_deploy.bits import BitWidths
from qkd_deploy.graph.ir import references, substitute
from qkd_deploy.graph.lower import lower
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.passes import PassContext, StageLog, run_pipeline
from qkd_deploy.graph.passes.replace_activations import replace_activations
from qkd_deploy.graph.placement.layer_bits import float_modules, last_layers, layer_bits
from qkd_deploy.graph.placement.place import Placed, place
from qkd_deploy.graph.placement.settings import QuantizationSettings, parse_overrides
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.replacements import parse_replacements
from qkd_deploy.graph.sized_graphs import SizedGraphs
from qkd_deploy.graph.trace.checks import own_copy
from qkd_deploy.graph.trace.trace import Traced, sharing_parameters, trace
from qkd_deploy.graph.translation.check import require_translations
from qkd_deploy.pixels.normalization import SCALE, ZERO_POINT, Normalization

_IMAGES = 4
"""Dimensions of a batch of images."""


def prepare(
    model: nn.Module,
    bits: str | BitWidths,
    example_inputs: tuple[Any, ...] | Tensor,
    *,
    overrides: Mapping[str, str | BitWidths] | None = None,
    placement: str = "integer",
    residual: str = "wide",
    first_last_bits: int = 8,
    weight_range: str = "safe",
    weight_scales: str = "channel",
    input_quantization: tuple[float, int] | None = None,
    normalization: str | Normalization | None = None,
    leaf_modules: tuple[type[nn.Module], ...] = (),
    quantizer: str = "interval",
    replace: Mapping[str, str] | None = None,
) -> PreparedModel:
    """Insert learnable quantizers into a copy of any network that ``torch.fx`` can trace.

    Args:
        model: a float network; it is copied, not changed.
        bits: ``"w4a4"`` and the like.
        example_inputs: tensors as the network takes them, batch first; they say which sizes the network has
            to run at, and whether inputs are signed. Other sizes work where they are the same computation.
        overrides: bits for layers by pattern of their module path, e.g. ``{"layer4.*": "w8a8"}``, or ``"float"`` for
            modules that stay in float with all inside them, each as one step; the last match wins.
        placement: "integer" quantizes every tensor that an integer kernel makes; "paper" only what convolutions and
            linear layers read (for comparison with published tables; additions and batch norms then stay in float).
        residual: "wide" keeps residual sums at 8 bits with low-bit quantizers behind them; "shared" uses one low-bit
            quantizer for both (faster, coarser).
        first_last_bits: bits of weights and inputs of the first and last layers.
        weight_range: "safe" (symmetric codes, 8-bit ones within +-63 but for depthwise convolutions, and 7 bits for
            right operands of products of activations), "narrow" or "full"; see ``TensorSpec.weight``.
        weight_scales: "channel" gives every output channel of a layer a learned scale of its own, "layer" one to all
            (QKD's interval). The file has one scale per channel in both cases.
        input_quantization: scale and zero point of the input's 8-bit codes where they are known, as ``(1/64, 128)`` for
            pixels normalised by ``(p - 128) / 64``; learned otherwise.
        normalization: what the network takes pixels as: "imagenet", "half", "cifar10", "centered", numbers such as
            ``"0.485,0.456,0.406/0.229,0.224,0.225"`` (see ``Normalization.parse``). It still takes them so, but the
            input's codes are the pixels, exactly; ``export_onnx`` can then write files that take uint8.
        leaf_modules: classes to keep as one float step each, for code that cannot be traced.
        quantizer: the published method of all learned quantizers, a key of ``registry.QUANTIZERS``.
        replace: activation functions that become others, as ``{"silu": "relu6"}``; ``"features.3.*:silu"`` means those
            in modules whose path matches. The last match wins.

    Returns:
        A model called like ``model``, whose ``account`` says what runs in integers and what stays in float and why.
        Call ``initialize`` with a batch before training it.

    Raises:
        UserError: a network that cannot be traced, run or exported, or settings that do not fit it; names the module
            or line.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    settings = QuantizationSettings(
        bits=BitWidths.parse(bits),
        overrides=parse_overrides({} if overrides is None else overrides),
        placement=placement,
        residual=residual,
        first_last_bits=first_last_bits,
        weight_range=weight_range,
        weight_scales=weight_scales,
        input_quantization=(SCALE, ZERO_POINT)
        if normalization is not None and input_quantization is None
        else input_quantization,
        normalization=None if normalization is None else Normalization.parse(normalization),
        quantizer=quantizer,
        replace={} if replace is None else replace,
    )
    return prepare_as(model, settings, inputs, leaf_modules)


def prepare_as(
    model: nn.Module,
    settings: QuantizationSettings,
    inputs: tuple[Any, ...],
    leaf_modules: tuple[type[nn.Module], ...] = (),
) -> PreparedModel:
    """Do what ``prepare`` does, with its settings as one value."""
    network = own_copy(model)
    if settings.normalization is not None and len(inputs) == 1 and _are_images(inputs[0]):
        settings.normalization.for_channels(inputs[0].shape[1])
    training = network.training
    with evaluating(network):
        as_given = sharing_parameters(network)
        kept = float_modules(network, settings.overrides)
        traced = trace(network, inputs, leaf_modules, kept=kept)
        places = {ref.name: place for place, ref in enumerate(references(traced.graph.output))}
        placed = _placed(network, traced, settings)
        require_translations(network, placed.graph, inputs)
        prepared = PreparedModel(network, placed, settings)
        outputs = list(references(placed.graph.output))
        prepared.trained_output = substitute(traced.trained_output, lambda ref: outputs[places[ref.name]])
        smallest = tuple(placed.graph.node(name).smallest for name in placed.graph.inputs)
        again = _Preparation(as_given, settings, leaf_modules, traced.mode_leaves, smallest)
        prepared.by_size = SizedGraphs(placed, again)
        return prepared.train(training)


def _are_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == _IMAGES


def _placed(network: nn.Module, traced: Traced, settings: QuantizationSettings) -> Placed:
    """Lower, rewrite and place."""
    graph = traced.graph
    log = StageLog(graph)
    log.done("trace")
    lower(network, graph, traced.mode_leaves, float_modules(network, settings.overrides))
    log.done("lower")
    replaced = replace_activations(network, graph, parse_replacements(settings.replace))
    log.done(replace_activations.__name__)
    bits = partial(layer_bits, settings=settings)
    context = PassContext(network, graph, bits, last_layers, settings.normalization)
    run_pipeline(context, log, integer=settings.integer)
    placed = place(network, graph, settings)
    placed.replaced = replaced
    log.done("place")
    return placed


@dataclass(frozen=True)
class _Preparation:
    """How a network was prepared, and can be again for inputs of other sizes.

    Attributes:
        network: as the user gave it: tracing, lowering and passes change the one that they work on.
        settings: of ``prepare``.
        leaf_modules: classes to keep as one float step each.
        mode_leaves: modules that read ``self.training``.
        smallest: elements of the examples, which decide whether an input is signed.
    """

    network: nn.Module
    settings: QuantizationSettings
    leaf_modules: tuple[type[nn.Module], ...]
    mode_leaves: set[str]
    smallest: tuple[float | None, ...]

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, set[str], Placed]:
        """Do what ``PlaceAgain`` asks for, on a copy of the network on the CPU."""
        elsewhere = any(not parameter.is_cpu for parameter in self.network.parameters())
        network = (copy.deepcopy(self.network).cpu() if elsewhere else sharing_parameters(self.network)).eval()
        users = {path for path, _ in (*network.named_parameters(), *network.named_buffers())}
        kept = float_modules(network, self.settings.overrides)
        traced = trace(network, inputs, self.leaf_modules, self.mode_leaves, kept)
        for name, value in zip(traced.graph.inputs, self.smallest, strict=True):
            traced.graph.node(name).smallest = value
        return network, users, _placed(network, traced, self.settings)
