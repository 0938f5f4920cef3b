"""``export_onnx``: freeze, emit, describe, run, and only then write the file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

import qkd_deploy
from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import QuantizationWarning, UserError
from qkd_deploy.export.context import stored_range
from qkd_deploy.export.emit import Emitted, emit
from qkd_deploy.export.information.wasted_codes import WastedCodes, find_wasted_codes
from qkd_deploy.export.metadata import (
    Golden,
    GoldenInput,
    LayerRecord,
    Metadata,
    TensorRecord,
    array_digest,
    read_metadata,
    write_metadata,
)
from qkd_deploy.export.open_sizes import with_open_sizes
from qkd_deploy.export.opset import tried_runtime, write_for
from qkd_deploy.export.settings import INPUTS, OPSETS, WEIGHTS
from qkd_deploy.export.targets.ort import trial_run
from qkd_deploy.export.weight_codes import weight_codes
from qkd_deploy.gate.onnx_file import require_exported
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.integer.given import as_prepared, unwrapped
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import QuantParams
from qkd_deploy.pixels.arrays import pixels_of
from qkd_deploy.pixels.normalization import Normalization

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
    """

    path: Path
    size: int
    layers: tuple[LayerRecord, ...]
    tensors: tuple[TensorRecord, ...]
    codes_used: dict[str, int]
    requires: str
    weight_codes: str
    wasted: tuple[WastedCodes, ...] = ()


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    dynamic_size: bool = False,
    samples: tuple[torch.Tensor, ...] = (),
) -> ExportReport:
    """Write a QDQ ONNX file with a dynamic batch dimension, after running it in ONNX Runtime.

    Warns of every tensor whose codes are wasted (see ``find_wasted_codes``).

    Args:
        model: a prepared model (frozen first) or a frozen one; wrapped, as an average (EMA) or a compiled one, or not.
        path: the file to write; replaced only when everything succeeded.
        weights: "int8", or "packed" (INT4/INT2, smaller; needs ONNX Runtime 1.24 or newer).
        input: "float32", or "uint8" for models whose 8-bit input codes are the raw pixels.
        opset: ONNX's operator set, for older runtimes: 13 to 21; None is 21, or what packed weights need.
        metadata: fields of ``Metadata`` to store: normalization, classes, checkpoint_sha256, accuracy, bits, placement.
        dynamic_size: leave height and width of the images open, too.
        samples: a batch for each input, as the network takes it, which tells what codes are wasted; else noise does.

    Raises:
        UserError: neither of these, an unknown option, an operation that ONNX cannot express, or a path that cannot be
            written.
    """
    form: dict[str, Any] = {"weights": weights, "input": input, "opset": opset, "dynamic_size": dynamic_size}
    proto, emitted = build_model(model, **form, metadata=metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    frozen = emitted.frozen
    used = {
        node.name: int(torch.unique(frozen.layer(node).codes).numel()) for node in frozen.graph.nodes if node.is_layer
    }
    target = Path(path)
    return ExportReport(
        target,
        target.stat().st_size,
        emitted.layers,
        emitted.tensors,
        used,
        tried_runtime(proto),
        weight_codes(frozen),
        _wasted(proto, samples),
    )


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
    """An emitted model together with the frozen one that it came from."""

    frozen: FrozenModel


def build_model(
    model: nn.Module,
    *,
    weights: str = "int8",
    input: str = "float32",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    dynamic_size: bool = False,
) -> tuple[onnx.ModelProto, Built]:
    """The complete ONNX model in memory; same arguments and errors as ``export_onnx``.

    The same model, arguments and metadata give the same bytes, so ``verify`` compares a file with a fresh build.
    """
    for name, value, allowed in (("weights", weights, WEIGHTS), ("input", input, INPUTS)):
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
    frozen = (freeze(given) if isinstance(given, PreparedModel) else copy.deepcopy(given)).cpu()
    described = {**_known_of(given), **(metadata or {})}
    if input == "uint8":
        _require_raw_pixels(frozen, described.get("normalization"))
    emitted = emit(frozen, weights=weights, input_type=input, open_sizes=dynamic_size)
    if dynamic_size:
        written, described["size_multiple"] = with_open_sizes(
            frozen, lambda sized: emit(sized, weights=weights, input_type=input, open_sizes=True).model
        )
        emitted = replace(emitted, model=written)
    write_for(emitted.model, opset or emitted.model.opset_import[0].version)
    golden = _golden(frozen, input, described.get("normalization"))
    full = Metadata(
        version=qkd_deploy.__version__,
        weights=weights,
        input=input,
        tensors=emitted.tensors,
        layers=emitted.layers,
        golden=golden,
        requires_onnxruntime=tried_runtime(emitted.model),
        tail=tuple(node.name for node in frozen.graph.nodes if node.tail),
        **described,
    )
    write_metadata(emitted.model, full)
    _require_readable(emitted.model)
    trial_run(emitted.model, golden)
    return emitted.model, Built(emitted.model, emitted.tensors, emitted.layers, frozen)


def _require_readable(model: onnx.ModelProto) -> None:
    """Refuse to write what ``verify`` would refuse to read."""
    try:
        require_exported(model, model.SerializeToString(deterministic=True))
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


def _require_raw_pixels(frozen: FrozenModel, normalization: Mapping[str, Any] | None) -> None:
    """Refuse uint8 inputs unless a pixel is its own code."""
    node = frozen.graph.node(frozen.graph.inputs[0])
    grid = frozen.grid(node.quantizer) if node.quantizer is not None else None
    if node.span is not None:
        kind = str(node.dtype).removeprefix("torch.")
        raise UserError(
            f"the network takes {kind} itself, and so does its file; export without --input uint8 (input in Python)"
        )
    if grid is None:
        raise UserError(
            "--input uint8 needs a quantized input, but this model reads floats; "
            "export with --input float32 (input='float32' in Python)"
        )
    known = normalization is not None and (bool(node.kwargs) or _is_grid(grid, Normalization.of_entry(normalization)))
    if not known or len(frozen.graph.inputs) != 1:
        because = f" ({node.reason})" if node.reason else ""
        raise UserError(
            f"--input uint8 needs a model whose 8-bit input codes are the raw pixels{because}: prepare it with the "
            "normalization of its pixels, such as imagenet; or export with --input float32 (input='float32' in Python)"
        )


def _is_grid(grid: QuantParams, normalization: Normalization) -> bool:
    """True where the codes of pixels that are normalised so are the pixels."""
    means, scales = (
        {value * normalization.divisor for value in values} for values in (normalization.mean, normalization.std)
    )
    return means == {grid.zero_point} and scales == {1 / float(grid.scale)}


def _golden(frozen: FrozenModel, input_type: str, normalization: Mapping[str, Any] | None) -> Golden:
    """Codes and outputs of two images of noise."""
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
    outputs = tuple(array.cpu().numpy() for array in flat_tensors(frozen(*tensors)))
    return Golden(tuple(recipes), codes_of, outputs)


def flat_tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of a nested output, in the order of the ONNX outputs."""
    if isinstance(output, torch.Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for item in items for tensor in flat_tensors(item)]
