"""The user's network with learnable quantizers in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.graph.exact.fold import FoldedLayer, fold_layer
from qkd_deploy.graph.input_sizes import fits
from qkd_deploy.graph.interpreter import run
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.lost_scales import are_near, lost_scales
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import apply, operator_of
from qkd_deploy.graph.ops.layers import (
    affine_of,
    batch_norm_of,
    is_depthwise,
    layer_forward,
    layer_of,
    layer_parameters,
    with_folded,
)
from qkd_deploy.graph.ops.normalization import in_whole_steps
from qkd_deploy.graph.passes.batch_norms_as_depthwise import STEP, is_channel_identity
from qkd_deploy.graph.placement.place import Placed, has_known_codes
from qkd_deploy.graph.placement.report import Account, account_of
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.graph.quantizer_record import QuantizerRecord, read_record, require_same_quantizers
from qkd_deploy.graph.sized_graphs import SizedGraphs
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.batch_norm import normalize_and_quantize
from qkd_deploy.quantizers.learned_range import with_moves
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.quantizers.step import StepQuantizer

EXTRA_STATE = "_extra_state"
"""PyTorch's name of ``get_extra_state`` in a state_dict; those of older versions lack it."""
_WATCH_EVERY = 64
"""Training batches between two looks at the scales on an accelerator."""


class PreparedModel(nn.Module):
    """A network with fake quantizers; train it like any module.

    In train mode batch norms use batch statistics. In eval mode layers compute with the folded constants that
    ``freeze`` would give, biases on the int32 grid included: the float preview of the integer model, equal to it but
    for rounding ties. ``network`` holds the user's modules under their own names.

    ``trained_output`` is what train mode returns of the graph's outputs, where that is less than evaluation returns (a
    detector's maps without their decoding); else None.
    """

    def __init__(self, network: nn.Module, placed: Placed, settings: QuantizationSettings) -> None:
        """Wrap ``network`` (not copied); made by ``prepare``."""
        super().__init__()
        self.network = network
        self.graph = placed.graph
        self.settings = settings
        self.layer_bits = placed.layer_bits
        self.rescaled = placed.rescaled
        self.by_size: SizedGraphs | None = None
        self.trained_output: Any = None
        kind = QUANTIZERS[settings.quantizer]
        owners = {node.quantizer: node for node in self.graph.nodes}
        self.activations = nn.ModuleDict(
            {k: self._fixed(owners[k], spec) or kind.activation(spec) for k, spec in placed.activations.items()}
        )
        self.weights = nn.ModuleDict({weight_key(node): self._weight_quantizer(node) for node in self.layers()})
        self.account: Account = account_of(placed)
        self._trained_batches = 0
        self._initialized = False
        self.register_load_state_dict_pre_hook(_renew)  # type: ignore[no-untyped-call]

    def _fixed(self, node: Node, spec: TensorSpec) -> Quantizer | None:
        """A quantizer whose step is known: of raw pixels, and of functions with a known range."""
        step = operator_of(node).step
        if step is not None:
            return StepQuantizer(spec, step=step, learnable=False)
        if not has_known_codes(node, self.settings):
            return None
        assert self.settings.input_quantization is not None
        scale, zero_point = self.settings.input_quantization
        grid = TensorSpec(spec.bits, zero_point > 0, zero_point, -zero_point, 2**spec.bits - 1 - zero_point)
        return StepQuantizer(grid, step=scale, learnable=False)

    def _weight_quantizer(self, node: Node) -> Quantizer:
        bits = self.layer_bits[node.name].weight
        if is_channel_identity(layer_of(self.network, node)):
            return StepQuantizer(TensorSpec.weight(bits), step=STEP, learnable=False)
        spec = self.weight_spec(node, bits)
        channels = None
        if self.settings.weight_scales == "channel":
            channels = layer_parameters(self.network, node)[0].shape[0]
        return QUANTIZERS[self.settings.quantizer].weight(spec, channels)

    def weight_spec(self, node: Node, bits: int) -> TensorSpec:
        """The grid that a layer's weights have at so many bits."""
        depthwise = is_depthwise(layer_of(self.network, node))
        return TensorSpec.weight(bits, self.settings.weight_range, depthwise=depthwise)

    def quantizer_record(self) -> QuantizerRecord:
        """Describe the quantizers, whose codes are no tensors."""
        quantizers = {f"weights.{key}": value for key, value in self.weights.items()}
        quantizers |= {f"activations.{key}": value for key, value in self.activations.items()}
        specs = {name: value.spec for name, value in quantizers.items() if isinstance(value, Quantizer)}
        settings = self.settings
        return QuantizerRecord(
            bits=str(settings.bits),
            quantizer=settings.quantizer,
            normalization="" if settings.normalization is None else str(settings.normalization),
            replace=dict(settings.replace),
            grids={name: (spec.lo, spec.hi, spec.zero_point) for name, spec in specs.items()},
        )

    def get_extra_state(self) -> Tensor:
        """Return what the state_dict says of the quantizers: text as a uint8 tensor [bytes]."""
        return self.quantizer_record().as_tensor()

    def set_extra_state(self, state: Any) -> None:
        """Refuse the state_dict of another model, before any tensor of it is copied.

        Raises:
            UserError: the model that it was saved from has other quantizers; names the first.
        """
        saved = read_record(state)
        if saved is not None:
            require_same_quantizers(saved, self.quantizer_record())

    def layers(self) -> list[Node]:
        """The convolution and linear nodes, in execution order."""
        return [node for node in self.graph.nodes if node.is_layer]

    def weight_steps(self) -> list[nn.Parameter]:
        """What training moves of the weights' scales: parameters of shape ``[C]``, or ``[]``; usually one per layer."""
        return [value for quantizer in self._quantizers(self.weights) for value in quantizer.learned()]

    def activation_steps(self) -> list[nn.Parameter]:
        """What training moves of the activations' scales: scalar parameters; fixed ones are left out."""
        return [value for quantizer in self._quantizers(self.activations) for value in quantizer.learned()]

    def network_parameters(self) -> list[nn.Parameter]:
        """The network's own parameters."""
        return list(self.network.parameters())

    def differences(self) -> list[str]:
        """How what is trained differs from the published quantizers, each sentence once; empty where it does not."""
        quantizers = [*self._quantizers(self.weights), *self._quantizers(self.activations)]
        return list(dict.fromkeys(quantizer.difference for quantizer in quantizers if quantizer.difference))

    @staticmethod
    def _quantizers(holder: nn.ModuleDict) -> Iterator[Quantizer]:
        for quantizer in holder.values():
            assert isinstance(quantizer, Quantizer)
            yield quantizer

    def activation(self, key: str) -> Quantizer:
        """The activation quantizer of that key."""
        quantizer = self.activations[key]
        assert isinstance(quantizer, Quantizer)
        return quantizer

    def weight(self, node: Node) -> Quantizer:
        """The weight quantizer of a layer."""
        quantizer = self.weights[weight_key(node)]
        assert isinstance(quantizer, Quantizer)
        return quantizer

    def forward(self, *inputs: Any) -> Any:
        """Whatever the user's network returns, with fake quantization.

        Raises:
            UserError: in train mode, nothing has set the scales, or one is lost: not finite, or a factor of 100 from
                its start; or the model cannot be computed at the sizes of the inputs, as ``at`` says.
        """
        if self.training and not torch.compiler.is_compiling():
            if not self._initialized:
                self.require_initialized("training")
                self._initialized = True
            self._watch_scales()
        return self.at(inputs)._run(inputs)

    def at(self, inputs: tuple[Any, ...]) -> PreparedModel:
        """This model with the graph of its network at the sizes of ``inputs``; all modules and scales are the same.

        Raises:
            UserError: the network does not run at these sizes, or would be computed otherwise; names the operation.
        """
        if self.by_size is None or fits(self.graph, inputs):
            return self
        made: PreparedModel = torch.compiler.disable(_at_other_sizes)(self, self.by_size, inputs)  # type: ignore[no-untyped-call]
        return made

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        if not self.training and torch.compiler.is_compiling():
            # folding checks values as it goes: compiled, every layer would be a graph of its own, several times over
            return torch.compiler.disable(run)(self.graph, inputs, self.evaluate)  # type: ignore[no-untyped-call]
        return run(self.graph, inputs, self.evaluate, self.trained_output if self.training else None)

    def require_initialized(self, what: str) -> None:
        """Refuse scales that nothing has set: tensors have hardly a code, and training no gradient.

        Raises:
            UserError: all learned scales are those that ``prepare`` made; ``what`` says before what to set them.
        """
        quantizers = (*self._quantizers(self.weights), *self._quantizers(self.activations))
        learned = [quantizer for quantizer in quantizers if not quantizer.fixed]
        if learned and all(quantizer.is_unset() for quantizer in learned):
            raise UserError(
                "no scale of this model was ever set, so that it answers all inputs alike; call initialize(model, "
                f"batch) or calibrate(model, data) before {what}"
            )

    def _watch_scales(self) -> None:
        """Look at the scales before every batch; on accelerators, where looking means waiting, now and then."""
        self._trained_batches += 1
        first = next(self.parameters(), None)
        if first is not None and (first.is_cpu or self._trained_batches % _WATCH_EVERY == 0):
            self.require_scales()

    def require_scales(self) -> None:
        """Refuse to go on with scales that training lost.

        Raises:
            UserError: one is not finite, or a factor of 100 from where it was initialised; names it.
        """
        if are_near([*self.weight_steps(), *self.activation_steps()]):
            return
        names = {node.quantizer: node.name for node in self.graph.nodes if node.quantizer is not None}
        quantizers = {names[key]: self.activation(key) for key in self.activations}
        quantizers |= {f"{node.target}.weight": self.weight(node) for node in self.layers()}
        raise lost_scales(quantizers)

    def run_observed(self, inputs: tuple[Any, ...], observe: Callable[[Node, Any], None]) -> Any:
        """Run the network, and show ``observe`` every node with its value before the quantizer.

        The scale that ``observe`` gives to a node's quantizer is the one that the value is then quantized with.
        """
        model = self.at(inputs)

        def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = model.unquantized(node, args, kwargs)
            observe(node, value)
            return value if node.quantizer is None else model.activation(node.quantizer)(value)

        return run(model.graph, inputs, run_node, self.trained_output if self.training else None)

    def evaluate(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One node: its operation, its clip, its quantizer."""
        if node.quantizer is None:
            return self.unquantized(node, args, kwargs)
        quantizer = self.activation(node.quantizer)
        if self.training and isinstance(quantizer, StepQuantizer) and quantizer.contains(node.clip):
            return self._train_quantized(node, quantizer, args, kwargs)
        return quantizer(self.unquantized(node, args, kwargs))

    def _train_quantized(
        self, node: Node, quantizer: StepQuantizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One node whose clip is left to its quantizer: fewer passes over memory, the same values and gradients."""
        if not node.is_layer:
            return quantizer(self._applied(node, args, kwargs, None))
        value = self._products(node, args[0])
        batch_norm = batch_norm_of(self.network, node)
        if batch_norm is None or node.affine is not None:
            return quantizer(with_folded(self.network, node, value))
        return normalize_and_quantize(batch_norm, quantizer, value)

    def unquantized(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], source: tuple[Tensor, int] | None = None
    ) -> Any:
        """One node before its quantizer; ``source`` is for a layer's constants, as in ``folded``."""
        value = self.unclipped(node, args, kwargs, source)
        return value if node.clip is None else value.clamp(*node.clip)

    def unclipped(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], source: tuple[Tensor, int] | None = None
    ) -> Any:
        """One node before its activation function and its quantizer; ``source`` as in ``unquantized``."""
        if node.is_layer:
            return self._layer(node, args[0], source)
        return self._applied(node, args, kwargs, source)

    def _applied(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], source: tuple[Tensor, int] | None
    ) -> Any:
        """Any node but a layer; what is added to codes in whole steps is rounded to these."""
        if node.source is not None:
            scale, _ = source or self._source(node.source)
            args = in_whole_steps(scale, *args)
        return apply(self.network, node, args, kwargs, training=self.training)

    def _layer(self, node: Node, x: Tensor, source: tuple[Tensor, int] | None) -> Tensor:
        if self.training:
            return self._train_layer(node, x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            folded = self.folded(node, source)
            value = layer_forward(layer_of(self.network, node), x.float(), folded.weight(), folded.real_bias())
        if not torch.is_grad_enabled():
            return value
        trained = self._train_layer(node, x)  # eval mode with gradients: the folded value, the ordinary gradient
        return value + (trained - trained.detach())  # the difference is zero, so that the value stays as it is

    def _train_layer(self, node: Node, x: Tensor) -> Tensor:
        return with_folded(self.network, node, self._products(node, x))

    def _products(self, node: Node, x: Tensor) -> Tensor:
        """A layer with quantized weights, without its batch norm."""
        weight, bias = layer_parameters(self.network, node)
        return layer_forward(layer_of(self.network, node), x, self.weight(node)(weight), bias)

    def folded(self, node: Node, source: tuple[Tensor, int] | None = None) -> FoldedLayer:
        """The layer's constants as ``freeze`` would make them.

        Args:
            node: a layer of this model.
            source: scale and largest code of the input's grid; this model's own quantizer when left out.
        """
        weight, bias = layer_parameters(self.network, node, exact=True)
        quantizer = self.weight(node)
        scale, extent = source or (None, 0)
        if source is None and node.source is not None:
            scale, extent = self._source(node.source)
        codes = quantizer.codes(weight)
        affine = affine_of(self.network, node)
        return fold_layer(
            codes,
            quantizer.scale().detach(),
            quantizer.spec,
            bias,
            batch_norm_of(self.network, node),
            None if affine is None else affine.exact_pair(),
            scale,
            extent,
            node.name,
            node.module or str(node.target),
        )

    def _source(self, key: str) -> tuple[Tensor, int]:
        """Scale and largest code of a grid."""
        if key in self.rescaled:
            other, factor = self.rescaled[key]
            scale, extent = self._source(other)
            return scale * factor, extent
        quantizer = self.activation(key)
        return quantizer.scale().detach(), max(-quantizer.spec.lo, quantizer.spec.hi)


def renewed(state: Mapping[str, Tensor], model: PreparedModel, prefix: str = "") -> dict[str, Tensor]:
    """Give a state_dict of an older version the entries of today.

    Ranges were single tensors, and tensors that are floats today, in the tail of the network, had scales.
    """
    floats = (module_key(node.name) for node in model.graph.nodes if node.quantizer is None)
    gone = tuple(f"{prefix}activations.{key}." for key in floats)
    return {name: value for name, value in with_moves(state, model, prefix).items() if not name.startswith(gone)}


def _at_other_sizes(model: PreparedModel, by_size: SizedGraphs, inputs: tuple[Any, ...]) -> PreparedModel:
    sized = by_size.at(model.network, inputs)
    other = copy.copy(model)  # shares all modules, and is in the mode that the model is in now
    other.graph, other.rescaled = sized.graph, sized.rescaled
    return other


def _renew(model: PreparedModel, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let ``load_state_dict`` take what older versions saved."""
    entries = {f"{prefix}{EXTRA_STATE}": model.get_extra_state(), **renewed(state, model, prefix)}
    state.clear()
    state.update(entries)


def weight_key(node: Node) -> str:
    """Key of a layer's weight quantizer: the module's path, so that shared layers share it."""
    return module_key(str(node.target))
