"""From a checkpoint to the integer model: for ``export`` to write, for ``verify`` and ``inspect`` to compare with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any

import onnx
import torch
from torch import nn

from qkd_deploy.atomic import is_same_file
from qkd_deploy.bench.quick import quick_latencies
from qkd_deploy.bits import BitWidths
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.checkpoints.checkpoint import Checkpoint, load_checkpoint, prepared_with_own_functions, rebuild
from qkd_deploy.checkpoints.origin import origin
from qkd_deploy.checkpoints.weights_file import split_archive
from qkd_deploy.errors import QuantizationWarning, UserError, require_kind
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.export.onnx_export import Built, ExportReport, build_model, export_onnx
from qkd_deploy.export.settings import DECODE_SUFFIX, INPUTS, OPSETS, WEIGHTS
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.verification.verify import verify_onnx

_NOISE_IMAGES = 8


@dataclass(frozen=True)
class Trained:
    """A quantized checkpoint, rebuilt.

    Attributes:
        checkpoint: its content.
        prepared: the network with its quantizers, in evaluation mode.
        metadata: what an exported file says about its origin; keyword arguments of ``Metadata``.
    """

    checkpoint: Checkpoint
    prepared: PreparedModel
    metadata: dict[str, Any]

    def build(
        self,
        *,
        weights: str = "int8",
        input: str = "float32",
        opset: int | None = None,
        dynamic_size: bool = False,
        tail: str = "separate",
        file: str = "model.onnx",
    ) -> Built:
        """Build in memory what ``export_checkpoint`` writes with these options into a file of that name."""
        form: dict[str, Any] = {"weights": weights, "input": input, "opset": opset, "dynamic_size": dynamic_size}
        _, built = build_model(self.prepared, **form, tail=tail, file=file, metadata=self.metadata)
        return built

    def build_float(self) -> onnx.ModelProto:
        """The same network in float, as ONNX: what the exported file is compared with in speed and size."""
        return build_float_model(self.prepared)

    def build_unreplaced(self, model: str | nn.Module | None = None) -> onnx.ModelProto:
        """The same network at the same bits with its own activation functions: what replacing them gained in speed.

        Its scales are those of noise, which no kernel's speed depends on.

        Args:
            model: the network, where it is the user's own (see ``rebuild``).

        Raises:
            UserError: no function was replaced.
        """
        if not self.prepared.account.replaced:
            raise UserError(f"no activation function of {self.checkpoint.source} was replaced; compare with fp32")
        prepared = prepared_with_own_functions(self.checkpoint, model)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (_NOISE_IMAGES, *self.checkpoint.model.image_shape), generator=generator)
        initialize(prepared, (pixels - 128) / 64)
        return build_model(prepared.eval())[0]


def load_trained(
    path: Path | str, *, model: str | nn.Module | None = None, bits: str | BitWidths | None = None
) -> Trained:
    """Load a quantized checkpoint and rebuild its network.

    Args:
        path: the ``model.pt`` of a training run.
        model: the network, where it is the user's own (see ``rebuild``).
        bits: what the checkpoint is expected to be trained at; None accepts any.

    Raises:
        UserError: the file cannot be used (see ``load_checkpoint`` and ``rebuild``), or was trained at other bits.
    """
    wanted = None if bits is None else BitWidths.parse(bits)
    checkpoint = load_checkpoint(path)
    if wanted is not None and checkpoint.quantization is not None:
        trained = checkpoint.quantization.bits
        if trained != wanted:
            raise UserError(
                f"{path} was trained at {trained}, not {wanted}; use --bits {trained}, or train at {wanted}"
            )
    assert checkpoint.digests is not None  # it was read from a file
    if not checkpoint.digests.sealed:
        warnings.warn(
            f"{path} carries no digest, as an older version wrote it, so that damage to it cannot be told",
            QuantizationWarning,
            stacklevel=2,
        )
    return Trained(checkpoint, rebuild(checkpoint, model), origin(checkpoint, checkpoint.digests.sha256))


def load(path: Path | str, *, model: str | nn.Module | None = None) -> PreparedModel:
    """Load the trained network of a checkpoint, with its quantizers, in evaluation mode.

    Args:
        path: the ``model.pt`` of a training run.
        model: the network, where it is the user's own (see ``rebuild``).

    Raises:
        UserError: as ``load_trained``.
    """
    require_kind(path, (str, PathLike), "the checkpoint", "give the path of a model.pt")
    require_kind(model, (str, nn.Module, NoneType), "model", "give 'package.module:factory' or a torch.nn.Module")
    return load_trained(path, model=model).prepared


def export_checkpoint(
    path: Path | str,
    output: Path | str | None = None,
    *,
    bits: str | BitWidths | None = None,
    model: str | nn.Module | None = None,
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    dynamic_size: bool = False,
    tail: str = "separate",
) -> ExportReport:
    """Write the integer model of a checkpoint as ONNX, with its origin, classes and accuracy in the metadata.

    Args:
        path: the ``model.pt`` of a training run.
        output: the file to write; by default beside the checkpoint, with the suffix ``.onnx``.
        bits: what the checkpoint must be trained at; None accepts any.
        model: the network, where it is the user's own (see ``rebuild``).
        weights: see ``export_onnx``.
        input: see ``export_onnx``.
        opset: see ``export_onnx``.
        dynamic_size: see ``export_onnx``.
        tail: see ``export_onnx``.

    Raises:
        UserError: as ``load_trained`` and ``export_onnx``, or if the output is the checkpoint itself.
    """
    target = output_beside(path, output)
    trained = load_trained(path, model=model, bits=bits)
    form: dict[str, Any] = {"weights": weights, "input": input, "opset": opset, "dynamic_size": dynamic_size}
    return export_onnx(trained.prepared, target, **form, tail=tail, metadata=trained.metadata)


def output_beside(path: Path | str, output: Path | str | None, suffix: str = ".onnx") -> Path:
    """Choose the file to write for the checkpoint at ``path``: ``output``, or its name with the suffix.

    Raises:
        UserError: it is the checkpoint itself.
    """
    if output is None and Path(path).suffix == ".onnx":
        raise UserError(f"{path} is no checkpoint by its name; use the model.pt of a training run")
    target = split_archive(path)[0].with_suffix(suffix) if output is None else Path(output)
    if is_same_file(target, path):
        raise UserError(f"the output {target} is the checkpoint itself; choose another --output")
    return target


def verify_deployed(
    path: Path | str | OnnxFile,
    *,
    checkpoint: Path | str | None = None,
    model: str | nn.Module | None = None,
    **options: Any,
) -> VerificationReport:
    """Verify a file as ``verify_onnx`` does, also against its checkpoint; a file that passes is timed.

    Args:
        path: the ONNX file, or what ``read_exported`` made of it.
        checkpoint: the ``model.pt`` of a training run; None verifies the file by itself.
        model: the network, where it is the user's own (see ``rebuild``).
        options: further arguments of ``verify_onnx``.

    Raises:
        UserError: as ``load_trained`` and ``verify_onnx``.
    """
    file = path if isinstance(path, OnnxFile) else read_exported(path)
    if checkpoint is None:
        return _timed(file, verify_onnx(file, **options), None)
    stored = read_metadata(file.model)
    # Unknown values would be refused; with the defaults, the comparison names them as what they are: changed.
    weights = stored.weights if stored.weights in WEIGHTS else WEIGHTS[0]
    input_type = stored.input if stored.input in INPUTS else INPUTS[0]
    trained = load_trained(checkpoint, model=model)
    opset = file.model.opset_import[0].version if weights == WEIGHTS[0] else None
    form: dict[str, Any] = {"weights": weights, "input": input_type, "opset": opset if opset in OPSETS else None}
    form |= {"dynamic_size": stored.size_multiple is not None, **_tail_of(stored)}
    built = trained.build(**form)
    sides: dict[str, Any] = {"frozen": built.frozen, "prepared": trained.prepared, "expected": built.model}
    sides["expected_decode"] = built.decode
    report = verify_onnx(file, **sides, checkpoint=str(checkpoint), **options)
    return _timed(file, report, trained)


def _tail_of(stored: Metadata) -> dict[str, str]:
    """Where the tail of a file went, and what the file was called when it was written."""
    if stored.decode is None:
        return {"tail": "inside"}
    if not stored.decode.file:
        return {"tail": "none"}
    return {"tail": "separate", "file": stored.decode.file.removesuffix(DECODE_SUFFIX) + ".onnx"}


def _timed(file: OnnxFile, report: VerificationReport, trained: Trained | None) -> VerificationReport:
    """The report of a file that passed, with its latency, and that of the network of its checkpoint in float."""
    if report.passed:
        fp32 = None if trained is None else _float_if_possible(trained)
        sizes = read_metadata(file.model).open_sizes
        report.latency_seconds, report.overhead = quick_latencies(file.data, fp32, sizes=sizes)
    return report


def _float_if_possible(trained: Trained) -> onnx.ModelProto | None:
    """The network in float; None where one of its functions, which the file holds as a table, has no ONNX operator."""
    try:
        return trained.build_float()
    except UserError:  # no fault of the file, which has been verified
        return None
