"""From learned scales to integers: every constant of the deployed model, computed once."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.input_sizes import Sizes, sizes_given
from qkd_deploy.graph.integer.given import as_prepared, require_deployable
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.integer.lower_bounds import lower_bound
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.integer.offsets import with_offsets
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.lost_scales import warn_of_far_weights
from qkd_deploy.graph.module_keys import before_key, module_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.layers import layer_parameters
from qkd_deploy.graph.ops.lookups import LOOKUP
from qkd_deploy.graph.placement.place import WIDE_BITS
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import LookupParams, QuantParams, meets_signed, real
from qkd_deploy.graph.trace.errors import leaf_advice

_KEPT = 16
"""Models of other sizes that are kept, the latest ones."""


@torch.no_grad()
def freeze(prepared: nn.Module) -> FrozenModel:
    """Make the integer model of a prepared one, which stays as it is; takes milliseconds.

    The model may be wrapped: an average (EMA), for several devices, or compiled.

    Batch norms are folded in their running statistics, activation functions become ranges of codes, and the output
    scales of sums, products and functions are moved by parts in a million until every CPU agrees on every result.

    Raises:
        UserError: not a prepared model, one whose scales nothing has set, weights or scales that are not finite, or a
            layer whose accumulator could overflow; names the layer.
    """
    prepared = as_prepared(prepared, "freeze")
    require_deployable(prepared, "freeze")
    warn_of_far_weights(
        {
            f"{node.target}.weight": (layer_parameters(prepared.network, node)[0], prepared.weight(node))
            for node in prepared.layers()
        }
    )
    snapshot = copy.deepcopy(prepared)  # training may go on
    frozen = _frozen(snapshot)
    frozen.by_size = _FrozenBySize(snapshot)
    return frozen


def _frozen(prepared: PreparedModel) -> FrozenModel:
    """Make the integer model around the network of a prepared one."""
    freezing = _Freezing(prepared)
    graph = copy.deepcopy(prepared.graph)
    for node in graph.nodes:
        freezing.add(node)
    device = next(prepared.parameters()).device
    return FrozenModel(prepared.network, graph, freezing.grids, freezing.layers).to(device)


@dataclass
class _FrozenBySize:
    """Freezes a model for inputs of other sizes, on which few constants depend: scales of sums over places.

    Attributes:
        prepared: the model that was frozen; shares the network with the frozen one.
        known: models that were made, by sizes.
    """

    prepared: PreparedModel
    known: dict[Sizes, FrozenModel] = field(default_factory=dict)

    def __call__(self, frozen: FrozenModel, inputs: tuple[Any, ...]) -> FrozenModel:
        """Give ``frozen`` for the sizes of inputs."""
        sizes = sizes_given(frozen.graph, inputs)
        if sizes not in self.known:
            with torch.inference_mode(False), torch.no_grad():
                made = _frozen(self.prepared.to(frozen.device).at(real(inputs)))
            self.known[sizes] = _sharing_layers(made, frozen)
            for old in list(self.known)[:-_KEPT]:
                del self.known[old]
        return self.known[sizes]


def _sharing_layers(frozen: FrozenModel, other: FrozenModel) -> FrozenModel:
    """Let a model hold the layers of another one where they are equal."""
    for key, layer in frozen.layers.items():
        own = other.layers[key]
        if all(map(torch.equal, layer.buffers(), own.buffers())):
            frozen.layers[key] = own
    return frozen


class _Freezing:
    """Constants of the nodes so far.

    Attributes:
        grids: scale and range of codes, by the keys of quantizers.
        least: the least codes that occur, by the same keys.
        holder: for every tensor, the key that its codes are described by; None for floats.
        layers: constants of the layers.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared
        self.grids: dict[str, QuantParams] = {}
        self.least: dict[str, int] = {}
        self.holder: dict[str, str | None] = {}
        self.layers: dict[str, IntegerLayer] = {}

    def add(self, node: Node) -> None:
        """Compute the constants of a node whose operands are there."""
        self.holder[node.name] = node.quantizer
        if node.quantizer is None and operator_of(node).moves_codes:
            self.holder[node.name] = self._moved(node)
        if node.is_layer:
            self._add_layer(node)
        if node.quantizer is not None:
            self._add_quantized(node, node.quantizer)

    def _moved(self, node: Node) -> str | None:
        """The key of codes that only move, or stand for a multiple of what they stood for."""
        made = self.holder.get(node.inputs[0]) if node.inputs else None
        if made is None:
            return None
        operator = operator_of(node)
        if operator.pads:
            self.least[made] = min(self.least[made], 0)
        if operator.scale_factor is None:
            return made
        own = module_key(node.name)
        self.grids[own], self.least[own] = self.grids[made].times(operator.scale_factor(node)), self.least[made]
        return own

    def _add_layer(self, node: Node) -> None:
        _require_finite(self.prepared, node)
        source = None
        if node.source is not None:
            source = self.grids[node.source].scale, self.grids[node.source].extent
        folded = self.prepared.folded(node, source)
        self.layers[module_key(node.name)] = IntegerLayer(folded, self.prepared.layer_bits[node.name].weight)

    def _add_quantized(self, node: Node, key: str) -> None:
        keys = [held for name in node.inputs if (held := self.holder.get(name)) is not None]
        operands = [self.grids[held] for held in keys]
        if operator_of(node).sums_products and len(operands) > 1:
            terms = self.prepared.graph.node(node.inputs[0]).sizes[-1]
            _require_short_sums(self.prepared.network, node, terms, operands[0], operands[1])
        ranges = [replace(_code_range(self.grids[held]), lo=self.least[held]) for held in keys]
        self.grids[key], self.least[key] = _params(self.prepared, node, operands, ranges)
        if operands:
            self._read_off(node, key, operands[0])

    def _read_off(self, node: Node, key: str, operand: QuantParams) -> None:
        """Add a function's table, or what its codes stand for while they are made."""
        relabelling = operator_of(node).relabelling
        if node.kind == LOOKUP.name:
            self.grids[key] = _with_table(self.prepared, node, operand, self.grids[key])
        if relabelling is not None:
            before = relabelling.before(_code_range(operand), node.name)
            self.grids[before_key(node.name)] = _as_params(before)
            self.grids[key] = _as_params(relabelling.after(before))
            self.least[key] = self.grids[key].lo


def _require_finite(prepared: PreparedModel, node: Node) -> None:
    """Refuse weights that rounding would hide: an infinite one is clipped to the largest code."""
    weight, _ = layer_parameters(prepared.network, node)
    if not bool(torch.isfinite(weight).all()):
        raise UserError(f"{node.name} has weights that are not finite; restore an earlier checkpoint")


def _require_short_sums(network: nn.Module, node: Node, terms: int, left: QuantParams, right: QuantParams) -> None:
    """Refuse products that could overflow int32, also while the zero points are not yet taken off."""
    top, zero = left.zero_point + left.hi, right.zero_point
    if meets_signed(left, right):
        other, zero = max(right.middle - right.lo, right.hi - right.middle), abs(right.middle)
    else:
        other = zero + right.hi
    if terms * (top * other + left.zero_point * other + zero * top) >= 2**31:
        raise UserError(
            f"{node.name} sums {terms:,} products, which could overflow int32; let it sum fewer, or "
            + leaf_advice(network, node.module)
        )


def _params(
    prepared: PreparedModel, node: Node, operands: list[QuantParams], ranges: list[CodeRange]
) -> tuple[QuantParams, int]:
    """Scale and range of a node's output, narrowed to its activation function, and the least code that occurs.

    ``ranges`` are the operands' codes from the least that occurs.
    """
    assert node.quantizer is not None
    quantizer = prepared.activation(node.quantizer)
    spec, scale = quantizer.spec, float(quantizer.scale())
    if not np.isfinite(scale):
        raise UserError(f"the step of {node.name} is not finite; restore an earlier checkpoint")
    make_portable = operator_of(node).portable_scale if operands else None

    def place(zero_point: int) -> tuple[QuantParams, int]:
        portable = scale
        if make_portable is not None:
            out = CodeRange(scale, zero_point, *_clipped(scale, spec.lo, spec.hi, node.clip))
            codes = with_offsets(prepared, node, [_code_range(grid) for grid in operands])
            portable = make_portable(prepared.network, prepared.graph, node, codes, out)
        low, high = _clipped(portable, spec.lo, spec.hi, node.clip)
        bound = lower_bound(prepared.graph, node, ranges, portable)
        bounded = bound is not None and bound >= low
        params = QuantParams(portable, spec.bits, zero_point, low, high, bounded_below=bounded)
        return params, low if bound is None else max(low, bound)

    params, occurs = place(spec.zero_point)
    at_the_top = 255 - params.hi
    # Weights beyond +-64 times codes up to 255 saturate on x86 CPUs without VNNI.
    if not params.bounded_below or at_the_top == params.zero_point or prepared.settings.weight_range == "full":
        return params, occurs
    moved, occurs_there = place(at_the_top)
    fits = moved.bounded_below and moved.hi + at_the_top == 255
    return (moved, occurs_there) if fits else (params, occurs)


def _clipped(scale: float, lo: int, hi: int, clip: tuple[float, float] | None) -> tuple[int, int]:
    """A float clip as an integer one: rounding is monotone, so ``round(clip(x)/s) = clip(round(x/s))``."""
    low, high = clip or (-np.inf, np.inf)
    ends = np.rint(np.array([low, high], np.float32) / np.float32(scale))
    return int(max(lo, ends[0])), int(min(hi, ends[1]))


def _with_table(prepared: PreparedModel, node: Node, source: QuantParams, params: QuantParams) -> LookupParams:
    """The codes of a function for all 256 stored codes of its operand, computed in float64."""
    stored = torch.arange(256, device=source.scale.device)
    x = ((stored - source.zero_point).float() * source.scale).double()
    y = LOOKUP.floats(prepared.network, node, (x, *node.args[1:]), node.kwargs, False)
    if node.clip is not None:
        y = y.clamp(*node.clip)
    codes = torch.round(torch.nan_to_num(y) / params.scale.double()).clamp(params.lo, params.hi)
    return LookupParams(params, (codes + params.zero_point).to(torch.uint8))


def _as_params(codes: CodeRange) -> QuantParams:
    return QuantParams(codes.scale, WIDE_BITS, codes.zero_point, codes.lo, codes.hi)


def _code_range(params: QuantParams) -> CodeRange:
    return CodeRange(float(params.scale), params.zero_point, params.lo, params.hi)
