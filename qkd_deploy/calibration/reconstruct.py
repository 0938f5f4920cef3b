"""Finish a calibrated network without labels and without training: choose weights layer by layer.

The network in full precision and the quantized one run side by side, once, on the same images. Where both arrive at a
layer, its weights and its mean are set so that the quantized layer, reading what it will read when deployed, gives
what the layer in full precision gives (``compensated_rounding``). So every layer also makes up for the errors of those
before it, activations included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.calibration.calibrate import DIAGNOSED, input_batches
from qkd_deploy.calibration.diagnosis import Diagnosis, diagnose
from qkd_deploy.calibration.float_reference import FloatReference
from qkd_deploy.calibration.inputs import evenly_spaced
from qkd_deploy.calibration.own_layers import own_layers
from qkd_deploy.calibration.settings import IMAGES
from qkd_deploy.calibration.side_by_side import SideBySide
from qkd_deploy.data import ImageDataset
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.graph.integer.given import as_prepared, require_deployable
from qkd_deploy.graph.interpreter import start, step
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel

_VALUES = 2**26
"""Values of the largest tensor, over all images: 256 MiB of float32, of which some six are alive at a time."""
_SECONDS_BETWEEN_LINES = 10


@torch.no_grad()
def reconstruct(
    prepared: nn.Module,
    network: nn.Module,
    data: Tensor | Iterable[Any] | ImageDataset | AnySplit,
    *,
    images: int = IMAGES,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Choose the weights of a calibrated network so that each layer gives what it gives in full precision.

    Weights, running means of batch norms and biases change; scales do not. Layers whose weights or batch norm other
    layers use too keep the weights of ``network``. Memory is bounded: fewer images are used where they are large.

    Args:
        prepared: calibrated, wrapped or not; its weights and statistics are replaced.
        network: in full precision, the one that ``prepared`` was made from.
        data: as for ``calibrate``; labels are not read. Batches are read until there are ``images`` samples.
        images: how many samples to use at most.
        seed: chooses the places of images at which layers are compared; the same seed gives the same bits.
        progress: receives lines about what is being done, with the time left.

    Returns:
        the layers for which the bits are too few all the same.

    Raises:
        UserError: not a calibrated model, there are no data, they hold raw pixels, ``network`` is another one, or the
            quantizer rounds weights in a way of its own.
    """
    prepared = as_prepared(prepared, "reconstruct")
    require_deployable(prepared, "reconstruct")
    require_kind(network, nn.Module, "network", "pass the network in full precision that was prepared")
    layers = own_layers(prepared)
    inputs = _samples(prepared, data, images)
    prepared = prepared.at(inputs)
    _restore(prepared, network)
    reference = FloatReference(prepared)
    progress(f"reconstructing {len(layers)} layers on {len(inputs[0])} images")
    with evaluating(prepared):
        pair = SideBySide(prepared, torch.Generator().manual_seed(seed))
        quantized, full = start(prepared.graph, inputs), start(prepared.graph, inputs)
        done, began, told = 0, time.monotonic(), time.monotonic()
        for node in prepared.graph.nodes:
            pair.chosen = node.name in layers
            step(prepared.graph, full, node, pair.run_full)
            step(prepared.graph, quantized, node, pair.run_quantized)
            done += pair.chosen
            now = time.monotonic()
            if pair.chosen and done < len(layers) and now - told > _SECONDS_BETWEEN_LINES:
                told = now
                left = (now - began) * (len(layers) - done) / done
                progress(f"reconstructed {done} of {len(layers)} layers, about {left:.0f} s left")
        return diagnose(prepared, reference, tuple(value[:DIAGNOSED] for value in inputs))


def _restore(prepared: PreparedModel, network: nn.Module) -> None:
    """Give ``prepared`` the weights and the statistics of ``network``.

    Raises:
        UserError: they do not fit.
    """
    state, own = network.state_dict(), prepared.network.state_dict()
    if any(name not in own or own[name].shape != tensor.shape for name, tensor in state.items()):
        raise UserError("reconstruct needs the float network that was prepared; give the one that prepare() took")
    prepared.network.load_state_dict(state, strict=False)


def _samples(prepared: PreparedModel, data: Any, images: int) -> tuple[Any, ...]:
    """Gather the network's inputs, as many as fit into memory, evenly spaced over all that were given."""
    if images < 2:
        raise UserError(f"reconstruction on {images} images is impossible; give 2 or more, better some hundred")
    gathered: list[tuple[Any, ...]] = []
    count = 0
    for batch in input_batches(prepared, data, images):
        gathered.append(batch)
        count += len(batch[0])
        if count >= images:
            break
    if not gathered:
        raise UserError("there is nothing to reconstruct with; give at least one batch")
    if count < 2:  # a linear layer's input then has no variance
        raise UserError("reconstruction needs more than one sample; give two or more, better some hundred")
    inputs = tuple(torch.cat(tensors) for tensors in zip(*gathered, strict=True))
    places = evenly_spaced(min(images, _most(prepared, inputs)), count).to(inputs[0].device)
    return tuple(tensor[places] for tensor in inputs)


def _most(prepared: PreparedModel, inputs: tuple[Any, ...]) -> int:
    """Count the samples whose largest tensor fits into ``_VALUES``."""
    largest = 1

    def measure(node: Node, value: Any) -> None:
        nonlocal largest
        if isinstance(value, Tensor):
            largest = max(largest, value.numel())

    with evaluating(prepared):
        prepared.run_observed(tuple(tensor[:1] for tensor in inputs), measure)
    return max(1, _VALUES // largest)
