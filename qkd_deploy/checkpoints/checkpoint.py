"""Checkpoints: tensors and plain data that rebuild a network, quantized or not, without running code from the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.records import (
    FORMAT,
    DatasetRecord,
    ModelRecord,
    TrainingRecord,
    is_checkpoint,
    quantization_entry,
)
from qkd_deploy.checkpoints.schema import VERSION, read_content
from qkd_deploy.checkpoints.seal import Digests
from qkd_deploy.checkpoints.torch_file import TorchFile, read_torch_file, save_tensors
from qkd_deploy.checkpoints.weights import load_into
from qkd_deploy.checkpoints.weights_file import weights_file
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.graph.prepare import prepare_as
from qkd_deploy.graph.prepared import EXTRA_STATE, PreparedModel, renewed
from qkd_deploy.models import create_model
from qkd_deploy.quantizers.base import Quantizer


@dataclass(frozen=True)
class Checkpoint:
    """A network with all that is needed to rebuild it; ``quantization`` is None for full precision.

    ``source`` and ``digests`` say where it was read; ``digests`` is None for one that was not.
    """

    state_dict: dict[str, Tensor]
    model: ModelRecord
    dataset: DatasetRecord
    training: TrainingRecord
    quantization: QuantizationSettings | None = None
    source: str = "the checkpoint"
    digests: Digests | None = None


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    quantization = checkpoint.quantization
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "state_dict": {name: value.detach().cpu() for name, value in checkpoint.state_dict.items()},
        "model": asdict(checkpoint.model),
        "dataset": asdict(checkpoint.dataset),
        "training": asdict(checkpoint.training),
        "quantization": None if quantization is None else quantization_entry(quantization),
    }
    save_tensors(path, content)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: the file is missing, damaged, wants to run code, or is not a checkpoint of this version.
    """
    file = read_torch_file(path)
    if not is_checkpoint(file.content):
        raise UserError(f"{path} is not a checkpoint of qkd-deploy; use the model.pt of a training run")
    return _checkpoint(file, path)


def checkpoint_of(path: Path | str) -> Checkpoint | None:
    """Read the file as a checkpoint of this package; None where it is another kind of file with weights.

    Raises:
        UserError: the file cannot be read.
    """
    if weights_file(path).suffix in (".safetensors", ".onnx"):
        return None
    file = read_torch_file(path)
    return _checkpoint(file, path) if is_checkpoint(file.content) else None


def _checkpoint(file: TorchFile, path: Path | str) -> Checkpoint:
    return Checkpoint(**read_content(file.content, path)._asdict(), source=str(path), digests=file.digests)


def rebuild(checkpoint: Checkpoint, model: str | nn.Module | None = None) -> PreparedModel:
    """Rebuild the prepared network of a quantized checkpoint, in evaluation mode.

    Args:
        checkpoint: from ``load_checkpoint``.
        model: names the network (``package.module:factory``) or is a fresh instance of it. A factory that only the
            file names is never imported, because that would run code of the file's choosing.

    Raises:
        UserError: the checkpoint is not quantized, needs ``model``, does not fit it, or has values that are not
            finite.
    """
    record = checkpoint.quantization
    if record is None:
        raise UserError(f"{checkpoint.source} holds a full-precision network; use the model.pt of a training run")
    prepared = prepare_student(_network(checkpoint, model), checkpoint.model.image_shape, record)
    _load_prepared(prepared, checkpoint, _name(checkpoint, model))
    prepared.eval()
    return prepared


def prepared_with_own_functions(checkpoint: Checkpoint, model: str | nn.Module | None = None) -> PreparedModel:
    """Prepare the network of a quantized checkpoint with the activation functions that it was written with.

    It has the checkpoint's weights; its scales are not set.

    Raises:
        UserError: as ``rebuild``.
    """
    assert checkpoint.quantization is not None
    settings = replace(checkpoint.quantization, replace={})
    prepared = prepare_student(_network(checkpoint, model), checkpoint.model.image_shape, settings)
    weights = {name: value for name, value in checkpoint.state_dict.items() if name.startswith("network.")}
    prepared.load_state_dict(weights, strict=False)
    return prepared


def prepare_student(network: nn.Module, image_shape: list[int], settings: QuantizationSettings) -> PreparedModel:
    """Call ``prepare`` with these settings, for images of shape [C, H, W]."""
    pixels = torch.full((1, *image_shape), -1.0)  # negative: normalised pixels are signed
    return prepare_as(network, settings, (pixels,))


def _network(checkpoint: Checkpoint, model: str | nn.Module | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    record = checkpoint.model
    if model is None and ":" in record.name:
        raise UserError(
            f"{checkpoint.source} holds a network from {record.name}; to allow importing that code, "
            f"name it again: model={record.name!r}, or --model {record.name} on the command line"
        )
    return create_model(model or record.name, record.num_classes, record.in_channels, record.args)


def _name(checkpoint: Checkpoint, model: str | nn.Module | None) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else model or checkpoint.model.name


def _load_prepared(prepared: PreparedModel, checkpoint: Checkpoint, name: str) -> None:
    state = {
        **renewed(checkpoint.state_dict, prepared),
        EXTRA_STATE: prepared.get_extra_state(),
    }  # of the same settings
    load_into(prepared, state, name, checkpoint.source)
    quantizers = [module for module in prepared.modules() if isinstance(module, Quantizer)]
    for step in (value.detach().min().item() for quantizer in quantizers for value in quantizer.ranges()):
        if not step > 0:
            raise UserError(f"{checkpoint.source} is damaged: a quantization step is {step:g}; use another file")
