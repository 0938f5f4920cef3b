"""Write a file for a runtime other than ONNX Runtime, after running it there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from qkd_deploy.atomic import all_or_nothing, atomic_write
from qkd_deploy.errors import UserError
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.record import TargetRecord, ends_of
from qkd_deploy.export.targets.steps import StepsOff
from qkd_deploy.export.targets.target import Form, Target, TargetKernel
from qkd_deploy.gate.names import PREFIX
from qkd_deploy.graph.integer.cut import front_of
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.quantized import QuantizedTensor
from qkd_deploy.pixels.arrays import normalized
from qkd_deploy.runtimes.runtime import RuntimeFault


@dataclass(frozen=True)
class TargetFile:
    """A file for a target, in memory.

    Attributes:
        target: what it is for.
        content: its bytes.
        record: what it says of itself.
        frozen: the integer model that it holds; the part in front of a tail that decodes.
        model: the same model as an ONNX file of this package.
    """

    target: Target
    content: bytes
    record: TargetRecord
    frozen: FrozenModel
    model: onnx.ModelProto


@dataclass(frozen=True)
class TargetReport:
    """Account of a written file.

    Attributes:
        path: where it is.
        size: its bytes.
        target, title: of the runtime, for machines and for people.
        runtime: its version.
        bits: of the network.
        steps_off: how far its outputs are from the integer model's on the golden inputs.
        tolerance: how far they may be.
        kernels: what ran; empty where the runtime does not say.
        tail: tensors that a tail in float computes, which is in no file.
        beside: further files.
    """

    path: Path
    size: int
    target: str
    title: str
    runtime: str
    bits: str
    steps_off: StepsOff
    tolerance: int
    kernels: tuple[TargetKernel, ...]
    tail: tuple[str, ...]
    beside: tuple[Path, ...]


def build_target_file(
    model: nn.Module,
    target: Target,
    *,
    weights: str = "int8",
    input: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    runtime: str = "",
) -> TargetFile:
    """Build a file for a target in memory; ``runtime`` is the version that its record names.

    Raises:
        UserError: as ``build_model``, or the runtime cannot take something.
    """
    proto, built = build_model(model, weights="int8", input=input, metadata=metadata, tail="none")
    frozen = front_of(built.frozen)
    entries = {p.key.removeprefix(PREFIX): p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}
    normalization = (metadata or {}).get("normalization")
    record = TargetRecord(
        target.name,
        runtime,
        target.tolerance(frozen),
        ends_of(proto.graph.input),
        ends_of(proto.graph.output, scales_of(frozen)),
        entries | {"weights": weights},
    )
    content = target.build(frozen, Form(input, weights, normalization), record.text)
    sealed = replace(record, content=record.digest(content))
    return TargetFile(target, content.replace(record.text.encode(), sealed.text.encode()), sealed, frozen, proto)


def export_for(
    model: nn.Module,
    path: Path,
    target: Target,
    *,
    weights: str = "int8",
    input: str = "float32",
    metadata: Mapping[str, Any] | None = None,
) -> TargetReport:
    """Write a file for a target, after running it there on golden inputs.

    Args:
        model: a prepared or a frozen model.
        path: the file to write; replaced only when everything succeeded.
        target: what it is for.
        weights: "int8", or "packed" where the target has a form for it.
        input: "float32", or "uint8" for raw pixels.
        metadata: as for ``export_onnx``.

    Raises:
        UserError: the model cannot be exported or the runtime cannot take it, is not installed, or computes other codes
            than it may.
    """
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        trial = Path(folder) / f"model{target.suffix}"
        form: dict[str, Any] = {"weights": weights, "input": input, "metadata": metadata}
        made = build_target_file(model, target, **form)
        trial.write_bytes(made.content)
        version, off, kernels = _trial(made, trial)
    final = build_target_file(model, target, **form, runtime=version)
    further = target.beside(final.content)
    others = {path.with_name(path.name.removesuffix(target.suffix) + end): data for end, data in further.items()}
    with ExitStack() as stack:
        for file in others:
            stack.enter_context(all_or_nothing(file))
        for file, data in {**others, path: final.content}.items():
            with atomic_write(file) as temporary:
                temporary.write_bytes(data)
    tail = made.record.described().decode
    return TargetReport(
        path,
        len(final.content),
        target.name,
        target.title,
        version,
        made.record.metadata["bits"],
        off,
        made.record.tolerance,
        kernels,
        () if tail is None else tail.tail,
        tuple(others),
    )


def _trial(made: TargetFile, file: Path) -> tuple[str, StepsOff, tuple[TargetKernel, ...]]:
    """Run the file where it is to run; returns version, differences and kernels."""
    golden = made.record.described().golden
    assert golden is not None  # build_model wrote it
    title = made.target.title
    try:
        with TargetProcess(made.target, file) as running:
            got, kernels, version = running.run(golden.inputs), running.kernels(), running.version
    except RuntimeFault as error:
        raise UserError(f"{title} cannot run the file for {made.target.name} ({error}); nothing was written") from error
    off = StepsOff(made.record)
    off.add(outputs_of(made.frozen, made.record, golden.inputs), got)
    if off.worst > made.record.tolerance or (off.differing and not made.record.tolerance):
        raise UserError(
            f"{title} {version} computes other outputs than the network ({off.in_words()}, where "
            f"{made.record.tolerance} steps are allowed), so that nothing was written"
        )
    return version, off, tuple(kernels)


def scales_of(frozen: FrozenModel) -> list[float | None]:
    """The step of each output's grid, in order; None where an output is in float."""
    examples = [torch.zeros(node.sizes, dtype=node.dtype) for node in map(frozen.graph.node, frozen.graph.inputs)]
    outputs = frozen.run_observed(tuple(examples), lambda *_: None)
    return [float(value.grid.scale) if isinstance(value, QuantizedTensor) else None for value in _leaves(outputs)]


def _leaves(output: Any) -> list[Any]:
    if isinstance(output, (QuantizedTensor, torch.Tensor)):
        return [output]
    items = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [leaf for item in items for leaf in _leaves(item)]


def outputs_of(frozen: FrozenModel, record: TargetRecord, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the integer model gives for inputs of a file, in the order of its outputs."""
    known = record.described()
    floats = [
        normalized(array, known.pixels) if known.input == "uint8" and array.dtype == np.uint8 else array
        for array in inputs
    ]
    return [tensor.numpy() for tensor in flat_tensors(frozen(*map(torch.from_numpy, floats)))]
