"""The networks that a run starts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.checkpoint import checkpoint_of, rebuild
from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.checkpoints.weights_file import weights_file
from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.tasks.task import plain_answers
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.sync_batch_norm import synchronise
from qkd_deploy.training.renormalize import renormalize
from qkd_deploy.training.seeds import seed_for
from qkd_deploy.training.start.onnx_start import load_onnx_into

_ONNX_IMAGES = 64
"""To compare a network with an ONNX file, and for the statistics of its batch norms."""


@dataclass(frozen=True)
class NetworkSource:
    """Where a network of a run comes from.

    Attributes:
        name, args: of its factory, as for ``create_model``.
        weights: file with its weights; None where it starts at random.
        skip: patterns of what stays at random beside those weights; None where there is no such setting.
    """

    name: str
    args: dict[str, Any]
    weights: str | None
    skip: tuple[str, ...] | None

    @property
    def incomplete(self) -> bool:
        """True where something in it is random, so that it is trained in full precision first."""
        return self.weights is None or bool(self.skip)


def source_of(config: TrainConfig, role: Role) -> NetworkSource:
    """Find out where the settings of a run let a network come from."""
    if role == "teacher":
        return NetworkSource(config.teacher, config.teacher_args, config.teacher_checkpoint, skip=None)
    weights = config.init or (config.teacher_checkpoint if config.how.teacher_is_student else None)
    return NetworkSource(config.model, config.model_args, weights, config.init_skip)


def sources_of(config: TrainConfig) -> dict[Role, NetworkSource]:
    """Find out where the networks of a run come from, by role."""
    roles: tuple[Role, ...] = ("teacher", "student") if config.uses_teacher else ("student",)
    return {role: source_of(config, role) for role in roles}


def networks_of_run(
    config: TrainConfig,
    dataset: ImageDataset,
    made_for: Mapping[Role, Normalization],
    processes: Processes,
    report: Callable[[str], None],
) -> dict[Role, nn.Module]:
    """Build the networks of a run and load their weights; see ``start_network``.

    The student is in full precision, and so is a teacher unless its checkpoint is quantized: that is what it teaches.

    Args:
        config: of the run.
        dataset: of the run, on its device.
        made_for: by role, the normalisation that a network was made for; images are converted for one that differs.
        processes: that share batch statistics where the settings say so.
        report: receives a line about each file of weights.

    Raises:
        UserError: as ``start_network`` and ``synchronise``.
    """
    networks: dict[Role, nn.Module] = {}
    network: nn.Module | None
    for role, source in sources_of(config).items():
        seed_for(config, role, "network")
        own = dataset.normalized(made_for[role])
        network = _quantized_teacher(source, own, report) if role == "teacher" else None
        if network is None:
            network = start_network(source.name, source.weights, own, args=source.args, skip=source.skip, report=report)
        if config.sync_batch_norm and (role == "teacher" or source.incomplete):
            synchronise(network, processes)
        if made_for[role] != dataset.normalization:
            renormalize(network, dataset.normalization, made_for[role], dataset.in_channels)
            report(f"{source.name} was made for pixels normalised by {made_for[role]}; its images are converted")
        networks[role] = network
    return networks


def _quantized_teacher(
    source: NetworkSource, dataset: ImageDataset, report: Callable[[str], None]
) -> PreparedModel | None:
    """Rebuild the quantized network of a checkpoint, for the images of ``dataset``; None where there is none."""
    known = None if source.weights is None else checkpoint_of(source.weights)
    if known is None or known.quantization is None:
        return None
    network = create_model(source.name, len(dataset.classes), dataset.in_channels, source.args)
    record = replace(known.model, name=source.name, image_shape=list(dataset.train.image_shape))
    teacher = rebuild(replace(known, model=record), network).to(dataset.train.device)
    _require_answers(teacher, source.name, dataset)
    report(f"{source.name}: quantized at {known.quantization.bits}, as {source.weights} is")
    return teacher


def start_network(
    name: str,
    weights: Path | str | None,
    dataset: ImageDataset,
    *,
    args: Mapping[str, Any] | None = None,
    skip: Sequence[str] | None = None,
    report: Callable[[str], None] | None = None,
    trains: bool = True,
) -> nn.Module:
    """Build a full-precision network for ``dataset``, on its device, in the mode in which its factory makes it.

    Args:
        name: as for ``create_model``.
        weights: file to start from; None leaves the random weights, drawn from torch's global generator.
        dataset: decides classes, channels and image size.
        args: keyword arguments of the factory, as for ``create_model``.
        skip: entries or modules that stay at random, as for ``load_into``.
        report: receives a line about the weights that were loaded.
        trains: whether it has to return what the task trains on; a data set with a metric of its own takes any outputs.

    Raises:
        UserError: the network cannot be built, does not fit the weights, or returns something else than the task
            needs.
    """
    network = create_model(name, len(dataset.classes), dataset.in_channels, args)
    if weights is not None:
        if weights_file(weights).suffix == ".onnx":
            _require_answers(network, name, dataset, trains=trains)
            account = load_onnx_into(network, weights, name, _images(dataset), skip=skip)
        else:
            account = load_into(network, read_weights(weights), name, weights, skip=skip) + _rounded_to(weights)
        if report is not None:
            report(f"{name}: {account}")
    network.to(dataset.train.device)
    _require_answers(network, name, dataset, trains=trains)
    return network


def _rounded_to(weights: Path | str) -> str:
    """Say of which quantized network the weights are, where they are of one."""
    known = checkpoint_of(weights)
    return "" if known is None or known.quantization is None else f", before rounding to {known.quantization.bits}"


def _images(dataset: ImageDataset) -> Tensor:
    """Normalise the first training images, on the CPU."""
    first = torch.arange(min(_ONNX_IMAGES, len(dataset.train)))
    return normalize(dataset.train.images_at(first), dataset.normalization).cpu()


@torch.no_grad()
def _require_answers(network: nn.Module, name: str, dataset: ImageDataset, *, trains: bool = True) -> None:
    first = torch.arange(min(2, len(dataset.train)))
    images = normalize(dataset.train.images_at(first), dataset.normalization)
    try:
        with evaluating(network):
            answers = network(images)
    except UserError:
        raise
    except Exception as error:  # code of the user's raises what it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot process images of shape {list(images.shape[1:])}: {reason}") from error
    if trains:
        dataset.task.check_answers(plain_answers(answers), len(images), len(dataset.classes), name)
