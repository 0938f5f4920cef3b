"""Which kernels ONNX Runtime really built: integer ones, and what computes in float and why.

The graph is the one that the runtime writes after its optimizations, so a convolution that silently stayed in float is
seen here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.verification.checks.float_reasons import ExportedGraph
from qkd_deploy.verification.checks.tail import Tail
from qkd_deploy.verification.findings import Kernel, Level
from qkd_deploy.verification.job import Job
from qkd_deploy.verification.onnx_graph import OnnxGraph, attributes_of
from qkd_deploy.verification.reference.movement import MOVES
from qkd_deploy.verification.runtime import optimized_graph

_INTEGER = re.compile(r"QLinear|QGemm$|ConvInteger|MatMulInteger|NhwcMaxPool")
_ON_CODES = frozenset({"Clip", "Concat", "GatherElements", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "Resize"})
_BETWEEN_KERNELS = MOVES | {"QuantizeLinear", "DequantizeLinear", "Cast", "Shape"}
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_TAIL = "it stands behind the last integer kernels, and outputs are floats"
_EXACT_NORM = "it is computed in float32 from exact sums of integers, the same on every CPU"


def check_kernels(job: Job) -> Level:
    """List the kernels that ONNX Runtime built; float ones fail only where integers are required."""
    subject, report = job.subject, job.report
    built = list_all(subject.model, optimized_graph(subject.model, subject.runtime), subject.metadata)
    report.kernels, report.tail = _outside_tail(built), [kernel for kernel in built if kernel.tail]
    total, floats = len(report.kernels), report.float_ops
    if not floats:
        tail = f"; {len(report.tail)} operators behind the last of them compute in float" if report.tail else ""
        return Level("kernels", "passed", (f"all {total} kernels are integer kernels{tail}",))
    first = f"{floats[0].module} ({floats[0].op}): {floats[0].reason}"
    named = f"{len(floats)} of {total} kernels compute in float, first {first}"
    return Level("kernels", "failed" if job.require_integer else "passed", (named,))


def list_kernels(model: onnx.ModelProto, optimized: onnx.ModelProto, metadata: Metadata) -> list[Kernel]:
    """Kernels of ``optimized`` (see :func:`runtime.optimized_graph`), traced back to the modules of ``model``.

    Quantizers at the borders, operators that only move data, constants, and the tail in float behind the last kernels
    are left out.
    """
    return _outside_tail(list_all(model, optimized, metadata))


def list_all(model: onnx.ModelProto, optimized: onnx.ModelProto, metadata: Metadata) -> list[Kernel]:
    """List kernels as ``list_kernels`` does, with those of the tail."""
    return _Kernels(model, optimized, metadata).listed()


def kernels_by_node(model: onnx.ModelProto, optimized: onnx.ModelProto, metadata: Metadata) -> dict[str, Kernel]:
    """What every node of ``optimized`` computes, by its name; those that only move or round data are left out.

    Unlike in ``list_all``, every step of a LayerNorm is there, and what adds and multiplies whole numbers in it.
    """
    return _Kernels(model, optimized, metadata).by_node()


def _outside_tail(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if not kernel.tail]


class _Kernels:
    def __init__(self, model: onnx.ModelProto, optimized: onnx.ModelProto, metadata: Metadata) -> None:
        self._exported, self._built, self._metadata = ExportedGraph(model), OnnxGraph(optimized), metadata
        self._floats = _float_values(optimized)
        self._tail = Tail(OnnxGraph(model), metadata.tail)
        self._norms: set[str] = set()  # tensors whose LayerNorm is listed already

    def listed(self) -> list[Kernel]:
        kernels = map(self._kernel, self._built.nodes)
        return [kernel for kernel in kernels if kernel is not None]

    def by_node(self) -> dict[str, Kernel]:
        found = {}
        for node in self._built.nodes:
            self._norms.clear()
            kernel = self._kernel(node)
            if kernel is None and node.op_type not in _BETWEEN_KERNELS:
                kernel = Kernel(node.op_type, self._module(node, self._source(node)), True)
            if kernel is not None:
                found[node.name] = kernel
        return found

    def _kernel(self, node: onnx.NodeProto) -> Kernel | None:
        """The kernel that a node of the optimized graph is; None for one that computes nothing."""
        touches_float = not self._floats.isdisjoint((*node.input[:1], *node.output))
        if _INTEGER.match(node.op_type) or (node.op_type in _ON_CODES and not touches_float):
            return Kernel(node.op_type, self._module(node, self._source(node)), True)
        if node.op_type in _BETWEEN_KERNELS or not touches_float:
            return None
        return self._float_kernel(node, self._source(node))

    def _float_kernel(self, node: onnx.NodeProto, source: onnx.NodeProto | None) -> Kernel | None:
        """A float kernel with its reason; the operators of one LayerNorm are listed as one."""
        module = self._module(node, source)
        if source is None:
            return Kernel(node.op_type, module, False, "ONNX Runtime made it from several operators")
        if self._tail.holds(source):
            return Kernel(node.op_type, module, False, _TAIL, tail=True)
        norm = self._exported.layer_norm_of(source)
        if not norm:
            return Kernel(node.op_type, module, False, self._exported.reason(source))
        if norm in self._norms:
            return None
        self._norms.add(norm)
        return Kernel("LayerNorm", module, False, _EXACT_NORM)

    def _source(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        return self._exported.find(node, self._built)

    def _module(self, node: onnx.NodeProto, source: onnx.NodeProto | None) -> str:
        named = node if source is None else source
        return self._metadata.module_of(named.name or named.output[0])


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Values of a graph that hold floating-point activations, by propagation from inputs and dequantizers."""
    values = {value.name for value in model.graph.input if value.type.tensor_type.elem_type in _FLOATS}
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:  # weights that are unpacked
            constants.update(node.output)
        elif _makes_floats(node, values):
            values.update(filter(None, node.output))
    return values


def _makes_floats(node: onnx.NodeProto, floats: set[str]) -> bool:
    """True where a node whose float operands are among ``floats`` has a float result."""
    if node.op_type in _RESULTS:
        return _RESULTS[node.op_type](node)
    return _INTEGER.match(node.op_type) is None and not floats.isdisjoint(node.input)


def _has_no_output_scale(node: onnx.NodeProto) -> bool:
    return len(node.input) < 9 or not node.input[7]


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return attributes_of(node)["to"] in _FLOATS


_RESULTS: dict[str, Callable[[onnx.NodeProto], bool]] = {
    "QGemm": _has_no_output_scale,
    "QuantizeLinear": lambda node: False,
    "Shape": lambda node: False,
    "Cast": _casts_to_float,
    "DequantizeLinear": lambda node: True,
    "MatMulIntegerToFloat": lambda node: True,
    "DynamicQuantizeMatMul": lambda node: True,
}
"""Operators that have a float result, or none, whatever their operands are."""
