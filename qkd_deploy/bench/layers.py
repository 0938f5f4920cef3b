"""The time that each layer of an exported file takes, and the kernel that takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from qkd_deploy.bench.report import LayerTime
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.export.targets.target import TargetKernel
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.runtimes.limited_run import noise_for
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.profile import NodeTime, node_times
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.checks.kernels import kernels_by_node
from qkd_deploy.verification.findings import Kernel
from qkd_deploy.verification.runtime import optimized_graph

Arithmetic = Literal["integer", "float", "moves"]


@dataclass(frozen=True)
class KernelTime:
    """One kernel that ONNX Runtime runs.

    Attributes:
        module: the user's module that it belongs to; "" where no name tells.
        op: the kernel.
        arithmetic: what it computes with; "moves" where it only moves or rounds data.
        seconds: of one image on one thread, over many runs.
    """

    module: str
    op: str
    arithmetic: Arithmetic
    seconds: float


def kernel_times(file: OnnxFile, *, seconds: float = 1.0) -> tuple[KernelTime, ...]:
    """Time every kernel of an exported file that has been tried before, in the order in which they run.

    Args:
        file: what ``read_exported`` made of it.
        seconds: for which it runs.

    Raises:
        UserError: the runtime cannot run the file.
    """
    try:
        feeds = noise_for(OnnxRuntime().session(file.data).inputs, 1, read_metadata(file.model).open_sizes)
        times = node_times(file.data, feeds, seconds=seconds)
    except RuntimeFault as error:
        raise UserError(f"ONNX Runtime cannot run {file.path}: {error.last_line}") from error
    return described(file.model, times)


def layer_times(kernels: Sequence[KernelTime]) -> tuple[LayerTime, ...]:
    """Add up kernels by module, slowest first."""
    modules: dict[str, list[KernelTime]] = {}
    for kernel in kernels:
        modules.setdefault(kernel.module, []).append(kernel)
    total = sum(kernel.seconds for kernel in kernels) or 1.0
    found = [_layer(module, parts, total) for module, parts in modules.items()]
    return tuple(sorted(found, key=lambda layer: layer.seconds, reverse=True))


def _layer(module: str, parts: list[KernelTime], total: float) -> LayerTime:
    seconds = sum(part.seconds for part in parts)
    counted = Counter(part.op for part in sorted(parts, key=lambda part: -part.seconds))
    names = tuple(name if count == 1 else f"{count} {name}" for name, count in counted.items())
    kinds = {part.arithmetic for part in parts} - {"moves"}
    return LayerTime(module, names, "float" not in kinds if kinds else None, seconds, seconds / total)


def described_by_runtime(
    kernels: Sequence[TargetKernel], times: Sequence[NodeTime], metadata: Metadata | None
) -> tuple[KernelTime, ...]:
    """Tell what the nodes of a file for a target are: kernels that its runtime does not list move data."""
    kinds: dict[str, Arithmetic] = {kernel.name: "integer" if kernel.integer else "float" for kernel in kernels}

    def module(name: str) -> str:
        return metadata.module_of(name) if metadata is not None and "/" in name else ""

    return tuple(KernelTime(module(node.name), node.op, kinds.get(node.op, "moves"), node.seconds) for node in times)


def described(model: onnx.ModelProto, times: Sequence[NodeTime]) -> tuple[KernelTime, ...]:
    """Tell what the nodes of an exported file are in ONNX Runtime."""
    metadata = read_metadata(model)
    known = kernels_by_node(model, optimized_graph(model), metadata)

    def one(node: NodeTime) -> KernelTime:
        kernel = known.get(node.name)
        ours = "/" in node.name  # the runtime's own nodes have no owner in front
        module = kernel.module if kernel is not None else metadata.module_of(node.name) if ours else ""
        return KernelTime(module, node.op, _arithmetic(kernel), node.seconds)

    return tuple(map(one, times))


def _arithmetic(kernel: Kernel | None) -> Arithmetic:
    if kernel is None:
        return "moves"
    return "integer" if kernel.integer else "float"
