"""Will sums of 8-bit products saturate on some CPUs?

x86 CPUs with AVX2 or AVX-512 but without VNNI add pairs of products, an unsigned code times a signed weight, in 16
bits. A pair is two neighbouring input channels at one kernel position (or, where their number is odd, what follows in
the order height, width, channel); depthwise convolutions multiply differently and never saturate. So the weights of a
pair and the range of the codes say exactly whether it can leave 16 bits. Weights within +-64 never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.verification.onnx_graph import OnnxGraph, attributes_of, optional_input
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.reference.movement import MOVES

_INT16 = np.iinfo(np.int16)
_X86 = ("x86_64", "amd64")
_LAYERS = ("Conv", "Gemm", "MatMul")
_KEEPS_CODES = MOVES | {"DequantizeLinear", "MaxPool", "Clip"}
_SHOWN = 3


@dataclass(frozen=True)
class SaturatingLayer:
    """A layer with a pair of products that can leave 16 bits; ``pair`` is the farthest sum that a pair can reach."""

    module: str
    operator: str
    largest_weight: int
    pair: int


@dataclass(frozen=True)
class Saturation:
    """The layers of a file that may saturate, and what is known about this CPU.

    Attributes:
        layers: in graph order; empty for a file that is exact on every CPU.
        cpu: the CPU in words.
        here: whether this CPU adds pairs in 16 bits; None if unknown.
        explains: whether codes that differ here are equal with ``session.x64quantprecision=1``, so that saturation is
            the cause; None where none differ.
    """

    layers: tuple[SaturatingLayer, ...]
    cpu: str
    here: bool | None
    explains: bool | None = None

    @property
    def prediction(self) -> str:
        """One sentence about the file; empty if it is exact everywhere."""
        if not self.layers:
            return ""
        largest = max(layer.largest_weight for layer in self.layers)
        return (
            f"8-bit weights of {self._named()} reach ±{largest}: on x86 CPUs without VNNI sums may saturate (this CPU: "
            f"{self.cpu}); prepare with --weight-range safe (weight_range='safe' in Python), or set the runtime's "
            "session.x64quantprecision=1"
        )

    def _named(self) -> str:
        names, others = ", ".join(layer.module for layer in self.layers[:_SHOWN]), len(self.layers) - _SHOWN
        return f"{names} and {others} more layers" if others > 0 else names

    @property
    def cause(self) -> str:
        """Say whether saturation is why codes differ on this CPU; "" where none differ."""
        if self.explains is None:
            return ""
        if self.explains:
            return (
                f"sums of 8-bit products saturate on this CPU ({self.cpu}): that is why, for with "
                "session.x64quantprecision=1 all codes are equal"
            )
        return "saturation is not the only cause: with session.x64quantprecision=1 codes differ too"

    def explained(self, precise_codes_agree: bool) -> Saturation:
        """With the answer of the codes level when it is asked again with ``session.x64quantprecision=1``."""
        return replace(self, explains=precise_codes_agree)


def find_saturation(
    model: onnx.ModelProto, reference: ReferenceModel, metadata: Metadata, cpu: Mapping[str, str | bool]
) -> Saturation:
    """The layers of ``model`` that may saturate; ``cpu`` as :func:`cpu_capabilities` gives it."""
    graph = OnnxGraph(model)
    found = (_saturating(node, graph, reference, metadata) for node in graph.nodes)
    return Saturation(tuple(filter(None, found)), *_this_cpu(cpu))


def _saturating(
    node: onnx.NodeProto, graph: OnnxGraph, reference: ReferenceModel, metadata: Metadata
) -> SaturatingLayer | None:
    """The layer that a node is, if a pair of its products can leave 16 bits."""
    weight = reference.constant(optional_input(node, 1)) if node.op_type in _LAYERS else None
    if weight is None or weight.codes.dtype != np.int8 or weight.codes.ndim < 2:
        return None
    farthest = _farthest_pair(_by_output(node, weight.codes), *_code_range(node.input[0], graph, metadata))
    largest = int(np.abs(weight.codes.astype(np.int16)).max(initial=0))
    layer = SaturatingLayer(metadata.module_of(node.name or node.output[0]), node.op_type, largest, farthest)
    return None if _INT16.min <= farthest <= _INT16.max else layer


def _this_cpu(cpu: Mapping[str, str | bool]) -> tuple[str, bool | None]:
    """The CPU in words, and whether it adds pairs in 16 bits; None where that is not known."""
    architecture = str(cpu["architecture"])
    if architecture.lower() not in _X86:
        return architecture, False
    if "avx2" not in cpu:
        return architecture, None
    if cpu["vnni"]:
        return "with VNNI", False
    return _without_vnni(cpu)


def _without_vnni(cpu: Mapping[str, str | bool]) -> tuple[str, bool]:
    for feature, title in (("avx512", "AVX-512"), ("avx2", "AVX2")):
        if cpu[feature]:
            return f"{title} without VNNI", True
    return "without AVX2", False


def _by_output(node: onnx.NodeProto, codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """[outputs, products] in the order in which kernels add them up; no products for depthwise convolutions."""
    wide = codes.astype(np.int64)
    if node.op_type == "Conv":
        if codes.shape[1] == 1 and attributes_of(node).get("group", 1) == len(codes):
            return wide.reshape(len(codes), -1)[:, :0]
        return np.moveaxis(wide, 1, -1).reshape(len(codes), -1)
    return wide if attributes_of(node).get("transB", 0) else wide.reshape(-1, wide.shape[-1]).T


def _farthest_pair(weights: npt.NDArray[np.int64], lo: int, hi: int) -> int:
    """The sum of largest magnitude that a pair of products can reach, with codes from ``lo`` to ``hi``."""
    if not weights.size:
        return 0
    padded = np.pad(weights, ((0, 0), (0, weights.shape[1] % 2)))
    products = np.stack([padded * lo, padded * hi])
    most = products.max(axis=0).reshape(len(padded), -1, 2).sum(axis=2).max()
    least = products.min(axis=0).reshape(len(padded), -1, 2).sum(axis=2).min()
    return int(most if most >= -least else least)


def _code_range(name: str, graph: OnnxGraph, metadata: Metadata) -> tuple[int, int]:
    """Least and largest stored code of a layer's input: those of the tensor that it stems from, else all of uint8."""
    known = {record.value: (record.lo, record.hi) for record in metadata.tensors}
    node = graph.producers.get(name)
    while node is not None and name not in known and node.op_type in _KEEPS_CODES:
        name = node.input[0]
        node = graph.producers.get(name)
    return known.get(name, (0, 255))
