"""Post-training quantization: full-precision weights and some images become a quantized checkpoint and an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from qkd_deploy.atomic import all_or_nothing, is_same_file
from qkd_deploy.calibration.calibrate import calibrate_and_diagnose, input_batches
from qkd_deploy.calibration.diagnosis import Diagnosis
from qkd_deploy.calibration.reconstruct import reconstruct
from qkd_deploy.checkpoints.checkpoint import checkpoint_of, save_checkpoint
from qkd_deploy.checkpoints.origin import longest_origin, origin
from qkd_deploy.checkpoints.records import TrainingRecord
from qkd_deploy.data import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.export.onnx_export import ExportReport, build_model, export_onnx
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.choose import choose_bits
from qkd_deploy.mixed_precision.search import Choice
from qkd_deploy.training.networks import NetworkSource
from qkd_deploy.training.records import network_checkpoint
from qkd_deploy.training.run_data import RunData
from qkd_deploy.verification.checks.information import IMAGES
from qkd_deploy.verification.model_under_test import code_images
from qkd_deploy.workflows.export import output_beside
from qkd_deploy.workflows.full_precision import images_of, prepared_for, settings_for, start_for
from qkd_deploy.workflows.settings import PostTraining

METHOD, RECONSTRUCTED = "ptq", "ptq-reconstruct"
"""What checkpoints say about how their steps, and their weights, came about."""


@dataclass(frozen=True)
class CalibratedExport:
    """The written file, and the accuracy that it reaches.

    Attributes:
        report: on the ONNX file.
        checkpoint: the quantized checkpoint, as a training run leaves one.
        dataset: the data set's name for results.
        images: number of its held-out images.
        measure: what was measured on them: "accuracy", the data set's own metric, or, without labels, the agreement
            with the network in full precision.
        accuracy: that measure of the frozen integer model, in percent.
        float_accuracy: the same of the network in full precision; None where there are no labels.
        bits: what was given or chosen for the network.
        diagnosis: layers for which the bits are too few.
        choice: the bits chosen under a budget; None where none was given.
        calibrated_accuracy: the measure before ``reconstruct``; None where that was not asked for.
        figures, float_figures: all that the task measures of both networks, by name; empty without labels.
    """

    report: ExportReport
    checkpoint: Path
    dataset: str
    images: int
    measure: str
    accuracy: float
    float_accuracy: float | None
    bits: str
    diagnosis: Diagnosis
    choice: Choice | None = None
    calibrated_accuracy: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    float_figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """Points lost against full precision: of the measure, or, without labels, of agreement."""
        return (100.0 if self.float_accuracy is None else self.float_accuracy) - self.accuracy


def export_calibrated(
    path: Path | str,
    output: Path | str | None = None,
    *,
    settings: Mapping[str, Any],
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    dynamic_size: bool = False,
    tail: str = "separate",
    progress: Callable[[str], None] = lambda _: None,
) -> CalibratedExport:
    """Quantize a trained network without training it, and write it as ONNX with a quantized checkpoint beside it.

    The checkpoint takes the name of the ONNX file with the suffix ``.quantized.pt``. Both files are written, or none.

    Args:
        path: full-precision weights: a state_dict, safetensors, or a checkpoint of this package.
        output: the ONNX file; by default beside the weights, with the suffix ``.onnx``.
        settings: of ``PostTraining``: the data set, the network (a checkpoint of this package knows its own), bits,
            placement and calibration.
        weights: see ``export_onnx``.
        input: see ``export_onnx``.
        opset: see ``export_onnx``.
        dynamic_size: see ``export_onnx``.
        tail: see ``export_onnx``.
        progress: receives lines about what is being done.

    Raises:
        UserError: the weights are quantized already, of an unknown network or do not fit it, the data set cannot be
            used, a setting is wrong, or a file cannot be written.
    """
    target = output_beside(path, output)
    beside = target.with_suffix(".quantized.pt")
    if is_same_file(beside, path):
        raise UserError(f"the weights {path} would be replaced by the quantized checkpoint; choose another --output")
    config = _config(path, settings)
    dataset, expected = images_of(path, config, progress)
    data = RunData(dataset, None, None, expected)
    network = start_for(path, data.dataset, config, progress)
    before = data.figures(network, 0, None) if data.measurable else {}
    choice = None
    form: dict[str, Any] = {"weights": weights, "input": input, "opset": opset, "dynamic_size": dynamic_size}
    form["tail"] = tail
    if config.auto_bits:
        choice = _choose(network, data.dataset, config, form, progress)
        config = replace(config, bits_for={**config.bits_for, **choice.overrides(config.bits)})
    made = _quantize(network, data, config, progress)
    method = RECONSTRUCTED if config.reconstruct else METHOD
    checkpoint = network_checkpoint(
        made.prepared,
        NetworkSource(config.model, config.model_args, str(path), skip=None),
        data.dataset,
        TrainingRecord(method, 0, 0, made.accuracy, len(data.test), made.figures if data.measurable else {}),
        made.prepared.settings,
    )
    with all_or_nothing(beside):
        save_checkpoint(beside, checkpoint)
        judged_on = min(IMAGES, code_images(data.test.image_shape))
        samples = next(input_batches(made.prepared, data.test, judged_on))
        known = origin(checkpoint, _sha256(beside))
        report = export_onnx(made.prepared, target, **form, metadata=known, samples=samples)
    measure = data.measure if data.measurable else "agreement with full precision"
    return CalibratedExport(
        report,
        beside,
        data.dataset.known_as,
        len(data.test),
        measure,
        made.accuracy,
        next(iter(before.values()), None),
        config.bits,
        made.diagnosis,
        choice,
        made.calibrated_accuracy,
        made.figures if data.measurable else {},
        before,
    )


class _Quantized(NamedTuple):
    """A calibrated and perhaps reconstructed network, with the fields of ``CalibratedExport`` that belong to it."""

    prepared: PreparedModel
    diagnosis: Diagnosis
    figures: dict[str, float]
    calibrated_accuracy: float | None

    @property
    def accuracy(self) -> float:
        """The figure that stands for the rest."""
        return next(iter(self.figures.values()))


def _quantize(network: nn.Module, data: RunData, config: PostTraining, progress: Callable[[str], None]) -> _Quantized:
    """Prepare, calibrate and measure a network; reconstruct and measure it once more where that is asked for."""
    norms = ", with new batch norms" if config.batch_norm else ""
    progress(
        f"{config.bits} by {config.step_initialization} on {config.images} images of {data.dataset.known_as}{norms}"
    )
    prepared = prepared_for(network, data.dataset, config)
    for remark in prepared.account.remarks:
        progress(remark)
    diagnosis = _calibrate(prepared, data.dataset, config)
    figures, calibrated = data.figures(prepared, 0, None, network), None
    if config.reconstruct:
        calibrated = next(iter(figures.values()))
        diagnosis = reconstruct(prepared, network, data.dataset, images=config.images, progress=progress)
        figures = data.figures(prepared, 0, None, network)
    for line in diagnosis.lines():
        progress(f"warning: {line}")
    return _Quantized(prepared, diagnosis, figures, calibrated)


def _calibrate(prepared: PreparedModel, dataset: ImageDataset, config: PostTraining) -> Diagnosis:
    return calibrate_and_diagnose(
        prepared,
        dataset,
        method=config.step_initialization,
        images=config.images,
        batch_norm=config.batch_norm,
        correction=config.correction,
    )


def _choose(
    network: nn.Module,
    dataset: ImageDataset,
    config: PostTraining,
    form: Mapping[str, Any],
    progress: Callable[[str], None],
) -> Choice:
    """Bits of the layers under the budget, for a file of that ``form``."""
    budget = Budget.parse(config.auto_bits)
    if budget.kind == "size" and form["weights"] != "packed":
        raise UserError(
            f"{budget.text} saves nothing as int8, where every weight takes a byte whatever its bits are; give "
            "--weights packed"
        )

    def prepare(bits: str, bits_for: Mapping[str, str]) -> PreparedModel:
        overrides = {**config.bits_for, **bits_for}
        return prepared_for(network, dataset, replace(config, bits=bits, bits_for=overrides))

    def measure(prepared: PreparedModel) -> float:
        _calibrate(prepared, dataset, config)
        return len(build_model(prepared, **form, metadata=longest_origin(dataset))[0].SerializeToString())

    return choose_bits(
        prepare,
        dataset,
        budget,
        config.auto_bits_from,
        base=config.bits,
        images=config.images,
        measure=measure,
        progress=progress,
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _config(path: Path | str, settings: Mapping[str, Any]) -> PostTraining:
    known = checkpoint_of(path)
    if known is not None and known.quantization is not None:
        bits = known.quantization.bits
        raise UserError(f"{path} is quantized already ({bits}); leave --calibrate out, or give full-precision weights")
    if settings.get("auto_bits") and "bits" not in settings:
        settings = {**settings, "bits": settings.get("auto_bits_from", PostTraining.auto_bits_from)[0]}
    return settings_for(path, PostTraining, settings, known)
