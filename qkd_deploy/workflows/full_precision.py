"""Full-precision weights from a file of any kind, with the settings that say what they belong to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from qkd_deploy.checkpoints.checkpoint import Checkpoint, checkpoint_of, prepare_student, rebuild
from qkd_deploy.data import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.sensitivity import Sensitivity, sensitivity
from qkd_deploy.pixels.normalization import CENTERED
from qkd_deploy.settings import require_known
from qkd_deploy.training.expectations import Expectations
from qkd_deploy.training.groups import Student
from qkd_deploy.training.networks import NetworkSource, start_network
from qkd_deploy.training.run_data import dataset_of, images_for
from qkd_deploy.workflows.settings import PostTraining, SensitivityData

Known = TypeVar("Known", PostTraining, SensitivityData)


def settings_for(path: Path | str, kind: type[Known], given: Mapping[str, Any], known: Checkpoint | None) -> Known:
    """Complete the settings with the network that the file knows where none is named.

    Args:
        path: full-precision weights.
        kind: the class of the settings.
        given: the settings that the user named.
        known: from ``checkpoint_of``.

    Raises:
        UserError: a setting is wrong; the network is not known, or only by the name of code that would have to be
            imported.
    """
    require_known(given, kind)
    if "model" in given:
        return kind(**given)
    if known is None:
        raise UserError(f"{path} holds weights alone; name the network they belong to, such as --model resnet20")
    record = known.model
    if ":" in record.name:
        named = shlex.quote(record.name)
        raise UserError(
            f"{path} holds a network from {record.name}; to allow importing that code, name it again: --model {named}"
        )
    return kind(**{"model_args": record.args, "classes": record.num_classes, **given, "model": record.name})


def images_of(
    path: Path | str, settings: PostTraining | SensitivityData, progress: Callable[[str], None]
) -> tuple[ImageDataset, Expectations]:
    """Load the images of the settings as the network with the weights at ``path`` expects them.

    Raises:
        UserError: they cannot be loaded, or a normalisation does not fit them.
    """
    source = NetworkSource(settings.model, settings.model_args, str(path), skip=None)
    dataset, expected = images_for(settings, {"student": source})
    for remark in expected.remarks:
        progress(remark)
    return dataset, expected


def start_for(path: Path | str, dataset: ImageDataset, student: Student, progress: Callable[[str], None]) -> nn.Module:
    """Build the network in full precision, in evaluation mode; any outputs will do for a data set with its own metric.

    Raises:
        UserError: it cannot be built, does not fit the weights, or does not take the images.
    """
    trains, args = dataset.metric is None, student.model_args
    return start_network(student.model, path, dataset, args=args, report=progress, trains=trains).eval()


def prepared_for(network: nn.Module, dataset: ImageDataset, bits: NetworkBits) -> PreparedModel:
    """Put quantizers for the images of a data set into a copy of a network, in evaluation mode."""
    shape = list(dataset.train.image_shape)
    return prepare_student(network, shape, bits.quantization(dataset.normalization)).eval()


def file_sensitivity(
    path: Path | str,
    bits: str | None,
    *,
    settings: Mapping[str, Any],
    progress: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Rank the layers of a file with weights by the loss that each causes when it alone is quantized.

    Args:
        path: full-precision weights of any kind, or a quantized checkpoint, whose weights before rounding are taken.
        bits: of the layer that is quantized; None takes those of the checkpoint, or w4a4.
        settings: of ``SensitivityData``: the data set (a checkpoint knows its own), the network, the number of images.
        progress: receives lines about what is being done.

    Raises:
        UserError: the weights, the network or the data set cannot be used.
    """
    if Path(path).suffix == ".onnx":
        raise UserError(f"{path} holds rounded weights; sensitivity needs the checkpoint that it was exported from")
    known = checkpoint_of(path)
    own = {} if known is None else {"dataset": known.dataset.name}
    if "dataset" not in {**own, **settings}:
        raise UserError(f"{path} holds weights alone; say on which images to measure, such as --dataset cifar10")
    network: nn.Module
    if known is not None and known.quantization is not None:
        given = {"model": known.model.name, "classes": known.model.num_classes, **own, **settings}
        measured = settings_for(path, SensitivityData, given, known)
        pixels = known.quantization.normalization or CENTERED
        dataset, chosen = dataset_of(measured).normalized(pixels), bits or str(known.quantization.bits)
        network = rebuild(known, settings.get("model"))
        which = f"the weights before rounding of a network trained at {known.quantization.bits}"
    else:
        measured = settings_for(path, SensitivityData, {**own, **settings}, known)
        dataset = images_of(path, measured, progress)[0]
        chosen, which = bits or NetworkBits.bits, "full-precision weights"
        network = prepared_for(start_for(path, dataset, measured, progress), dataset, NetworkBits())
    progress(f"each layer alone at {chosen}, on {which}, with images of {dataset.known_as}")
    return sensitivity(network, dataset, chosen, images=measured.images)
