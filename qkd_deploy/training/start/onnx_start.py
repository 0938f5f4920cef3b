"""A network that starts from an ONNX file in full precision, and the proof that it computes what the file does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.onnx_order import modules_in_order, weights_by_order
from qkd_deploy.checkpoints.onnx_weights import OnnxWeights, read_onnx_weights
from qkd_deploy.checkpoints.weights import load_into
from qkd_deploy.checkpoints.weights_fit import common_prefix
from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.training.start.batch_norm_statistics import restore_statistics

_TOLERANCE = 1e-3
"""Of outputs, relative to the largest: float32 kernels sum in different orders."""


def load_onnx_into(
    network: nn.Module, path: Path | str, network_name: str, images: Tensor, *, skip: Sequence[str] | None = None
) -> str:
    """Copy the weights of a float ONNX file into a network, by name or, where names are lost, by order and shape.

    By order is only accepted where the network then computes what the file computes. Batch norms that the exporter
    folded into convolutions get the statistics of ``images`` again, which leaves what the network computes as it is.

    Args:
        network: is changed in place.
        path: the file, which may lie in a zip archive.
        network_name: for messages.
        images: float [N, C, H, W], as the network takes them.
        skip: as for ``load_into``; only where the file has the network's names.

    Returns:
        what was loaded, as one line.

    Raises:
        UserError: the file cannot be read or does not fit, or the network computes something else.
    """
    found = read_onnx_weights(path)
    named = _by_name(network, found, network_name, path)
    if named is not None:
        account = load_into(network, named, network_name, path, skip=skip)
        return account if skip else f"{account}, {_comparison(_difference(network, found, images))}"
    if skip:
        raise UserError(f"{path} has lost the names of its weights, so that none can be skipped; give PyTorch's file")
    with evaluating(network):
        order = modules_in_order(network, images[:2])
    ordered = weights_by_order(network, order, found.layers, network_name, path)
    account = load_into(network, ordered.weights, network_name, path)
    difference = _difference(network, found, images)
    if difference is None or difference > _TOLERANCE:
        raise UserError(
            f"{path} has lost the names of its weights, and by their order {network_name} {_comparison(difference)}; "
            "give PyTorch's file"
        )
    restore_statistics(network, ordered.folded, images)
    norms = f", {len(ordered.folded)} batch norms with the statistics of {len(images)} images" if ordered.folded else ""
    return f"{account}, by order{norms}, {_comparison(_difference(network, found, images))}"


def _by_name(network: nn.Module, found: OnnxWeights, network_name: str, path: Path | str) -> dict[str, Tensor] | None:
    """The weights under the names that network and file share; None where the file lacks some."""
    wanted = network.state_dict()
    prefix = common_prefix(found.named, wanted, network_name, path)
    named = {name: value for name, value in found.named.items() if name.removeprefix(prefix) in wanted}
    known = {name.removeprefix(prefix) for name in named}
    return named if known.issuperset(name for name in wanted if not name.endswith("num_batches_tracked")) else None


def _difference(network: nn.Module, found: OnnxWeights, images: Tensor) -> float | None:
    """Compare the outputs for two images: the largest difference relative to the largest output.

    Returns:
        None where the file does not run on them, or returns something of another shape.
    """
    with torch.no_grad(), evaluating(network):
        ours = network(images[:2])
    try:
        session = OnnxRuntime().session(_evaluating(found.model))
        batch = session.inputs[0].shape[0] or 2
        parts = torch.split(images[:2].cpu(), batch)
        rows = [session.run({session.inputs[0].name: part.numpy()}) for part in parts]
    except RuntimeFault:
        return None
    theirs = torch.cat([torch.from_numpy(next(iter(row.values()))) for row in rows])
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        return None
    return float((ours.cpu() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def _evaluating(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let batch norms and dropouts of a file that was exported in training mode do what they do in evaluation."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
            del node.attribute[:], node.output[1:]
            node.attribute.extend(kept)
        elif node.op_type == "Dropout":
            del node.input[1:]
    return changed


def _comparison(difference: float | None) -> str:
    if difference is None:
        return "cannot be compared with it on these images"
    if difference <= _TOLERANCE:
        return "computes what the file computes"
    return f"computes something else than the file (by {difference:.1%}): paddings, strides or functions differ"
