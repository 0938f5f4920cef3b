"""``export_onnx``: freeze, emit, describe, run, and only then write the file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import qkd_deploy
from qkd_deploy.atomic import all_or_nothing, atomic_write, path_to_write
from qkd_deploy.errors import QuantizationWarning, UserError
from qkd_deploy.export.context import stored_range
from qkd_deploy.export.decode import decode_path, finish_decode, parts_of, remove_former
from qkd_deploy.export.emit import Emitted, emit
from qkd_deploy.export.information.wasted_codes import WastedCodes, find_wasted_codes
from qkd_deploy.export.metadata import (
    DecodeRecord,
    Golden,
    GoldenInput,
    GoldenOutput,
    LayerRecord,
    Metadata,
    TensorRecord,
    array_digest,
    read_decode_metadata,
    read_metadata,
    write_metadata,
)
from qkd_deploy.export.open_sizes import with_open_sizes
from qkd_deploy.export.opset import tried_runtime, write_for
from qkd_deploy.export.raw_pixels import require_raw_pixels
from qkd_deploy.export.settings import INPUTS, OPSETS, TAILS, WEIGHTS
from qkd_deploy.export.targets.ort import trial_run
from qkd_deploy.export.weight_codes import weight_codes
from qkd_deploy.gate.onnx_file import require_exported
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.integer.given import as_prepared, unwrapped
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.arrays import pixels_of

_GOLDEN_IMAGES = 2
_LEAST_WHOLE = -(2**31)
"""Of golden inputs; larger ones than its opposite do not occur either."""


@dataclass(frozen=True)
class ExportReport:
    """Account of a written file.

    Attributes:
        path: the file.
        size: its bytes.
        layers: weight layers, in graph order.
        tensors: quantized activations, in graph order.
        codes_used: for every layer, how many distinct weight codes occur.
        requires: the oldest ONNX Runtime that was tried for what it uses.
        weight_codes: the range that 8-bit weights use, and why; "" where there are none.
        wasted: tensors with parts whose codes lose what their values tell, on the samples or the golden inputs.
        decode: what the file says of the tail that was cut off; None where it gives the network's own outputs.
        decode_path: the file that holds that tail; None where there is none.
    """

    path: Path
    size: int
    layers: tuple[LayerRecord, ...]
    tensors: tuple[TensorRecord, ...]
    codes_used: dict[str, int]
    requires: str
    weight_codes: str
    wasted: tuple[WastedCodes, ...] = ()
    decode: DecodeRecord | None = None
    decode_path: Path | None = None


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    dynamic_size: bool = False,
    tail: str = "separate",
    samples: tuple[torch.Tensor, ...] = (),
) -> ExportReport:
    """Write a QDQ ONNX file with a dynamic batch dimension, after running it in ONNX Runtime.

    A detector's float tail goes into a second file beside it, which takes what the first one gives; both are written,
    or none. Where there is no such file, one of an earlier export of that name is removed.

    Warns of every tensor whose codes are wasted (see ``find_wasted_codes``).

    Args:
        model: a prepared model (frozen first) or a frozen one; wrapped, as an average (EMA) or a compiled one, or not.
        path: the file to write; replaced only when everything succeeded.
        weights: "int8", or "packed" (INT4/INT2, smaller; needs ONNX Runtime 1.24 or newer).
        input: "float32", or "uint8" for models whose 8-bit input codes are the raw pixels.
        opset: ONNX's operator set, for older runtimes: 13 to 21; None is 21, or what packed weights need.
        metadata: fields of ``Metadata`` to store: normalization, classes, checkpoint_sha256, accuracy, bits, placement.
        dynamic_size: leave height and width of the images open, too.
        tail: where a float tail that decodes (``find_cut``) goes: "separate", the file ``NAME.decode.onnx``; "inside",
            this file; "none", nowhere, so that decoding is left to you. Without one, all three write the same.
        samples: a batch for each input, as the network takes it, which tells what codes are wasted; else noise does.

    Raises:
        UserError: neither of these, an unknown option, an operation that ONNX cannot express, or a path that cannot be
            written.
    """
    form: dict[str, Any] = {"weights": weights, "input": input, "opset": opset, "dynamic_size": dynamic_size}
    target = path_to_write(path)
    beside = decode_path(target)
    proto, built = build_model(model, **form, tail=tail, file=target.name, metadata=metadata)
    _write(target, proto, beside, built.decode)
    frozen = built.frozen
    used = {
        node.name: int(torch.unique(frozen.layer(node).codes).numel()) for node in frozen.graph.nodes if node.is_layer
    }
    return ExportReport(
        target,
        target.stat().st_size,
        built.layers,
        built.tensors,
        used,
        tried_runtime(proto),
        weight_codes(frozen),
        _wasted(proto, samples),
        read_metadata(proto).decode,
        None if built.decode is None else beside,
    )


def _write(path: Path, model: onnx.ModelProto, beside: Path, decode: onnx.ModelProto | None) -> None:
    """Write a file and what decodes it: both or none."""
    with all_or_nothing(beside) if decode is not None else nullcontext():
        for file, content in ((beside, decode), (path, model)):
            if content is not None:
                with atomic_write(file) as temporary:
                    temporary.write_bytes(content.SerializeToString(deterministic=True))
    if decode is None:
        remove_former(beside)


def _wasted(model: onnx.ModelProto, samples: tuple[torch.Tensor, ...]) -> tuple[WastedCodes, ...]:
    """What samples tell of the codes, or else the golden inputs, each said as a warning."""
    metadata = read_metadata(model)
    assert metadata.golden is not None  # build_model wrote it
    arrays = [sample.numpy(force=True) for sample in samples] or metadata.golden.inputs
    if samples and metadata.input == "uint8":
        arrays = [pixels_of(array, metadata.pixels) for array in arrays]
    names = (value.name for value in model.graph.input)
    found = find_wasted_codes(model, metadata, dict(zip(names, arrays, strict=True)))
    for wasted in found:
        warnings.warn(str(wasted), QuantizationWarning, stacklevel=3)
    return found


@dataclass(frozen=True)
class Built(Emitted):
    """An emitted model together with the frozen one that it came from, and the decode file where there is one."""

    frozen: FrozenModel
    decode: onnx.ModelProto | None = None


def build_model(
    model: nn.Module,
    *,
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    dynamic_size: bool = False,
    tail: str = "separate",
    file: str = "model.onnx",
) -> tuple[onnx.ModelProto, Built]:
    """The complete ONNX model in memory; same arguments and errors as ``export_onnx``.

    The same model, arguments and metadata give the same bytes, so ``verify`` compares a file with a fresh build.
    ``file`` is its name, which a decode file refers to, and whose decode file it refers to.
    """
    for name, value, allowed in (("weights", weights, WEIGHTS), ("input", input, INPUTS), ("tail", tail, TAILS)):
        if value not in allowed:
            raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")
    if opset is not None and (opset not in OPSETS or weights == "packed"):
        raise UserError(
            f"operator set {opset} with {weights} weights is not written; choose {OPSETS[0]} to {OPSETS[-1]} with int8 "
            "weights, or leave out --opset (opset in Python)"
        )
    given = unwrapped(model)
    if not isinstance(given, FrozenModel):
        given = as_prepared(model, "export_onnx")
    whole = (freeze(given) if isinstance(given, PreparedModel) else copy.deepcopy(given)).cpu()
    described = {**_known_of(given), **(metadata or {})}
    if input == "uint8":
        require_raw_pixels(whole, described.get("normalization"))
    parts = parts_of(whole, tail, file, opset)
    if parts.decode is not None and dynamic_size:
        raise UserError(
            "height and width cannot stay open in a file that decodes, as anchors belong to one size; export with "
            "--tail none (tail='none' in Python), or without --dynamic-size (dynamic_size=False)"
        )
    frozen = parts.front
    emitted = emit(frozen, weights=weights, input_type=input, open_sizes=dynamic_size)
    if dynamic_size:
        written, described["size_multiple"] = with_open_sizes(
            frozen, lambda sized: emit(sized, weights=weights, input_type=input, open_sizes=True).model
        )
        emitted = replace(emitted, model=written)
    write_for(emitted.model, opset or emitted.model.opset_import[0].version)
    golden, examples, outputs = _golden(frozen, input, described.get("normalization"))
    full = Metadata(
        version=qkd_deploy.__version__,
        weights=weights,
        input=input,
        tensors=emitted.tensors,
        layers=emitted.layers,
        golden=golden,
        requires_onnxruntime=tried_runtime(emitted.model),
        tail=tuple(node.name for node in frozen.graph.nodes if node.tail),
        decode=parts.record,
        **described,
    )
    write_metadata(emitted.model, full)
    _require_readable(emitted.model)
    trial_run(emitted.model, golden.inputs, outputs)
    finish_decode(parts, emitted.model, file, outputs, _arrays(whole(*examples)))
    if parts.decode is not None:
        _require_readable(parts.decode)
    return emitted.model, Built(emitted.model, emitted.tensors, emitted.layers, whole, parts.decode)


def _require_readable(model: onnx.ModelProto) -> None:
    """Refuse to write what ``verify`` would refuse to read."""
    try:
        require_exported(model, model.SerializeToString(deterministic=True))
        if read_decode_metadata(model) is None:
            read_metadata(model)
    except NotAsExportedError as error:
        raise UserError(f"the network cannot be exported: {error.what}; compute that part otherwise") from error


def _known_of(model: PreparedModel | FrozenModel) -> dict[str, Any]:
    """What a prepared model says about itself: fields of ``Metadata``."""
    if isinstance(model, FrozenModel):
        return {"bits": "", "placement": ""}
    settings, normalization = model.settings, model.settings.normalization
    known: dict[str, Any] = {"bits": str(settings.bits), "placement": settings.placement}
    known |= {"quantizer": settings.quantizer, "replaced": model.account.replaced}
    return known if normalization is None else {**known, "normalization": normalization.as_entry()}


def _golden(
    frozen: FrozenModel, input_type: str, normalization: Mapping[str, Any] | None
) -> tuple[Golden, list[torch.Tensor], tuple[np.ndarray, ...]]:
    """What is recorded of two images of noise, these images as the network takes them, and its outputs for them."""
    recipes: list[GoldenInput] = []
    tensors: list[torch.Tensor] = []
    for name in frozen.graph.inputs:
        node = frozen.graph.node(name)
        shape = tuple(_GOLDEN_IMAGES if i in (node.batch_dims or (0,)) else n for i, n in enumerate(node.sizes))
        recipe = GoldenInput(shape, 0, 255, 128, 1 / 64)  # a float input: roughly normalised pixels
        if node.span is not None:
            kind: Any = str(node.dtype).removeprefix("torch.")
            lo, hi = (min(max(end, _LEAST_WHOLE), -_LEAST_WHOLE - 1) for end in node.span)
            recipe = GoldenInput(shape, lo, hi, 0, None, dtype=kind)
        if node.quantizer is not None:
            grid = frozen.grid(node.quantizer)
            pixels = dict(normalization) if node.kwargs and normalization is not None else None
            recipe = GoldenInput(shape, *stored_range(grid), grid.zero_point, float(grid.scale), pixels)
        tensors.append(torch.from_numpy(recipe.array()))
        raw = input_type == "uint8" and node.quantizer is not None
        recipes.append(replace(recipe, scale=None) if raw else recipe)
    codes_of = {name: array_digest(array) for name, array in frozen.codes(*tensors).items()}
    outputs = _arrays(frozen(*tensors))
    return Golden(tuple(recipes), codes_of, tuple(map(GoldenOutput.of, outputs))), tensors, outputs


def _arrays(output: Any) -> tuple[np.ndarray, ...]:
    return tuple(tensor.cpu().numpy() for tensor in flat_tensors(output))


def flat_tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of a nested output, in the order of the ONNX outputs."""
    if isinstance(output, torch.Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for item in items for tensor in flat_tensors(item)]
