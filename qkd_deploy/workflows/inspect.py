"""The parts of a model file: bits, scales, codes, kernels, sizes, and what stays in float."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import DecodeRecord, LayerRecord, TensorRecord, read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.verification.checks.kernels import list_all
from qkd_deploy.verification.decoding import decode_beside
from qkd_deploy.verification.findings import Kernel
from qkd_deploy.verification.overflow.bounds import Headroom, file_headroom
from qkd_deploy.verification.runnable import require_runnable
from qkd_deploy.verification.runtime import optimized_graph
from qkd_deploy.workflows.export import load_trained
from qkd_deploy.workflows.targets import require_for_onnx_runtime

_CUT = "it decodes what the integer file gives"
_BEHIND = "it stands behind the last integer kernels, and outputs are floats"
_CONSTANTS = (
    *("weight", "weight_packed", "weight_upscale", "weight_scale", "weight_zero_point"),
    *("bias", "bias_scale", "bias_zero_point"),
)


@dataclass(frozen=True)
class Layer:
    """One layer with weights.

    Attributes:
        name, module, op: its name in the file, the user's module, and the ONNX operator.
        weight_bits, activation_bits: of its weights and of its input; 32 means float.
        weight_scale: smallest and largest of the channels' scales.
        output_scale: of the quantizer behind it; None where it has none of its own.
        codes_used: how many distinct weight codes occur.
        bytes: what its constants take in the file.
        kernel: the one of ONNX Runtime that is expected.
        built: the ones that it really built; None where that was not asked for.
    """

    name: str
    module: str
    op: str
    weight_bits: int
    activation_bits: int
    weight_scale: tuple[float, float]
    output_scale: float | None
    codes_used: int
    bytes: int
    kernel: str
    built: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FloatPart:
    """Something that computes in float, and why."""

    module: str
    op: str
    reason: str


@dataclass(frozen=True)
class Decoding:
    """The tail that was cut off behind a file.

    Attributes:
        file: what holds it; "" where it was left out.
        bytes: size of that file; None where it does not lie beside.
        parts: what it computes, in float.
    """

    file: str
    bytes: int | None
    parts: tuple[FloatPart, ...]


@dataclass(frozen=True)
class Inspection:
    """A model file, described.

    Attributes:
        path, kind: the file; "checkpoint" or "onnx".
        bits, placement, weights, input: as for ``export_onnx``; the last two are empty for checkpoints.
        quantizer: the published method of its quantizers; empty where the file does not tell.
        layers, tensors: layers with weights, and quantized activations, in graph order.
        sums: worst cases of all integer sums of products, those of poolings included, in graph order.
        floats: what computes in float in front of the last integer kernels.
        tail: what computes in float behind them.
        replaced: activation functions that became others, by ``OLD=NEW`` the number of places.
        kernels: how often ONNX Runtime built each kernel; None where that was not asked for.
        bytes: size of the file.
        origin: network, method, data set and accuracy, as far as the file tells.
        size_multiple: what heights and widths have to be multiples of where the file leaves them open; else None.
        decode: the tail that was cut off; None where the file gives the network's own outputs.
    """

    path: str
    kind: str
    bits: str
    placement: str
    quantizer: str
    weights: str
    input: str
    layers: tuple[Layer, ...]
    tensors: tuple[TensorRecord, ...]
    sums: tuple[Headroom, ...]
    floats: tuple[FloatPart, ...]
    tail: tuple[FloatPart, ...]
    replaced: dict[str, int]
    kernels: dict[str, int] | None
    bytes: int
    origin: dict[str, Any]
    size_multiple: int | None = None
    decode: Decoding | None = None

    @property
    def open_sizes(self) -> str:
        """Which images the file takes, as a sentence, where it leaves their height and width open; else ""."""
        if self.size_multiple is None:
            return ""
        which = "multiples of " + str(self.size_multiple) if self.size_multiple > 1 else "any numbers"
        return f"height and width of images are open: {which}"

    @property
    def overflows(self) -> tuple[Headroom, ...]:
        """Sums that some input could make overflow int32."""
        return tuple(found for found in self.sums if not found.fits)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines."""
        return asdict(self)


def inspect_model(path: Path | str, *, model: str | nn.Module | None = None) -> Inspection:
    """Describe a checkpoint or an exported file, whichever ``path`` is.

    Args:
        path: the file.
        model: the network of a checkpoint, where it is the user's own.

    Raises:
        UserError: the file cannot be used, or is neither.
    """
    file = Path(path)
    if zipfile.is_zipfile(file) or file.suffix in (".pt", ".pth"):
        return inspect_checkpoint(file, model=model)
    if model is not None:
        raise UserError(f"{file} is no checkpoint, so --model has no meaning for it; leave it out")
    require_for_onnx_runtime(file)
    return inspect_onnx(file)


def inspect_checkpoint(path: Path | str, *, model: str | nn.Module | None = None) -> Inspection:
    """Describe a quantized checkpoint by the file that ``export`` would write.

    Raises:
        UserError: as ``load_trained``.
    """
    trained = load_trained(path, model=model)
    built, checkpoint = trained.build(), trained.checkpoint
    origin = {
        "model": checkpoint.model.name,
        "model_args": checkpoint.model.args,
        "method": checkpoint.training.method,
        "epochs": checkpoint.training.epochs,
        "seed": checkpoint.training.seed,
        "accuracy": trained.metadata["accuracy"],
        "normalization": trained.metadata["normalization"],
    }
    return Inspection(
        path=str(path),
        kind="checkpoint",
        bits=str(trained.prepared.settings.bits),
        placement=trained.prepared.settings.placement,
        quantizer=trained.prepared.settings.quantizer,
        weights="",
        input="",
        layers=_layers(built.model, built.layers, built.tensors, None),
        tensors=built.tensors,
        sums=tuple(file_headroom(built.model).values()),
        floats=tuple(FloatPart(e.name, e.operation, e.reason) for e in trained.prepared.account.floats),
        tail=tuple(FloatPart(e.name, e.operation, _BEHIND) for e in trained.prepared.account.tail),
        replaced=dict(trained.prepared.account.replaced),
        kernels=None,
        bytes=Path(path).stat().st_size,
        origin=origin,
    )


def inspect_onnx(path: Path | str | OnnxFile, *, build: bool = True) -> Inspection:
    """Describe an exported file.

    Args:
        path: the file, or what ``read_exported`` made of it.
        build: let ONNX Runtime build its kernels and list them, and what computes in float.

    Raises:
        UserError: the file cannot be used, or was not exported by this package.
    """
    file = path if isinstance(path, OnnxFile) else read_exported(path)
    model = file.model
    metadata = read_metadata(model)
    if build:
        require_runnable(file)
    everything = list_all(model, optimized_graph(model), metadata) if build else None
    kernels = None if everything is None else [kernel for kernel in everything if not kernel.tail]
    origin: dict[str, Any] = {"version": metadata.version, "checkpoint_sha256": metadata.checkpoint_sha256}
    origin |= {"accuracy": metadata.accuracy, "normalization": metadata.normalization}
    return Inspection(
        path=str(file.path),
        kind="onnx",
        bits=metadata.bits,
        placement=metadata.placement,
        quantizer=metadata.quantizer,
        weights=metadata.weights,
        input=metadata.input,
        layers=_layers(model, metadata.layers, metadata.tensors, kernels),
        tensors=metadata.tensors,
        sums=tuple(file_headroom(model).values()),
        floats=tuple(FloatPart(k.module, k.op, k.reason) for k in kernels or [] if not k.integer),
        tail=tuple(FloatPart(k.module, k.op, _BEHIND) for k in everything or [] if k.tail),
        replaced=dict(metadata.replaced),
        kernels=None if kernels is None else dict(Counter(kernel.op for kernel in kernels).most_common()),
        bytes=len(file.data),
        origin=origin,
        size_multiple=metadata.size_multiple,
        decode=_decoding(file, metadata.decode),
    )


def _decoding(file: OnnxFile, record: DecodeRecord | None) -> Decoding | None:
    """What was cut off behind a file: by the decode file beside it, or, without one, by what the file itself says."""
    if record is None:
        return None
    found = decode_beside(file, record)
    if found is None:
        return Decoding(record.file, None, tuple(FloatPart(name, "", _CUT) for name in record.tail))
    operators: dict[str, list[str]] = {name: [] for name in record.tail}
    for node in found.file.model.graph.node:
        operators.get(node.name.rpartition("/")[0], []).append(node.op_type)
    parts = (FloatPart(name, ", ".join(dict.fromkeys(ops)), _CUT) for name, ops in operators.items())
    return Decoding(found.file.path.name, len(found.file.data), tuple(parts))


def _layers(
    model: onnx.ModelProto,
    records: tuple[LayerRecord, ...],
    tensors: tuple[TensorRecord, ...],
    kernels: list[Kernel] | None,
) -> tuple[Layer, ...]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = _weights(model, constants)
    scales = {tensor.name: tensor.scale for tensor in tensors}
    return tuple(_layer(record, constants, weights, scales.get(record.name), kernels) for record in records)


def _weights(
    model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]
) -> dict[str, tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Codes and scales of every layer by its name; layers that share weights share them in the file, too."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in model.graph.node:
        layer, separator, _ = node.name.partition(".weight/DequantizeLinear")
        if separator:
            codes = node.input[0]
            while codes in producers:  # packed codes are unpacked and multiplied
                codes = producers[codes].input[0]
            if codes in constants and node.input[1] in constants:
                found[layer] = constants[codes], constants[node.input[1]]
    return found


def _layer(
    record: LayerRecord,
    constants: Mapping[str, onnx.TensorProto],
    weights: Mapping[str, tuple[onnx.TensorProto, onnx.TensorProto]],
    output_scale: float | None,
    kernels: list[Kernel] | None,
) -> Layer:
    own = {kind: constants[name] for kind in _CONSTANTS if (name := f"{record.name}.{kind}") in constants}
    if record.name not in weights:
        raise UserError(f"the file lacks the weights of {record.name}, which its tables name; export it again")
    codes, scale = weights[record.name]
    steps = numpy_helper.to_array(scale)
    built = None
    if kernels is not None:
        products = (k.op for k in kernels if k.module == record.module and record.op[:4] in k.op)
        built = tuple(dict.fromkeys(products))
    return Layer(
        name=record.name,
        module=record.module,
        op=record.op,
        weight_bits=record.weight_bits,
        activation_bits=record.activation_bits,
        weight_scale=(float(steps.min()), float(steps.max())),
        output_scale=output_scale,
        codes_used=np.unique(numpy_helper.to_array(codes).astype(np.int8)).size,
        bytes=sum(constant.ByteSize() for constant in own.values()),
        kernel=record.kernel,
        built=built,
    )
