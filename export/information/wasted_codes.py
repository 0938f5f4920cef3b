"""Find parts of tensors whose codes say hardly anything of their values, where that changes what the file answers.

One grid serves all parts of a tensor. Where scores of 0 to 1 share it with boxes in pixels, every score gets the same
code, in a file that is proved to compute just what the quantized model computes. Two measurements tell:

- *Information*: the entropy of the codes of a part, as a share of that of its values (see ``entropy``).
- *Effect*: the file runs once more with the exact values of that part in place of its codes. A part that nothing
  depends on, such as a channel that training has left near zero, changes no output, and is not reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.information.entropy import FEWEST_VALUES, axes_of, kept_information, slices_of
from qkd_deploy.export.information.readers import needed_by_quantizers
from qkd_deploy.export.metadata import Metadata, TensorRecord
from qkd_deploy.runtimes.inner_values import with_outputs
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import Runtime, RuntimeFault

SHARE = 0.05
"""Of the information of its values; a part whose codes keep less is wasted."""
EFFECT = 0.25
"""Standard deviation of what exact values of wasted parts change in an output, by that of the output."""
_TRIED = 8
"""Tensors that are run with exact values, the worst first; each takes one session."""
_NAMED = 6
_DEFAULT: Runtime = OnnxRuntime()


@dataclass(frozen=True)
class WastedCodes:
    """Parts of one tensor whose codes are wasted.

    Attributes:
        tensor: its name.
        module: the user's module that computes it.
        parts: their places along ``axis``, rising.
        axis: 1 for channels, or the last.
        of: how many places there are.
        share: of the information of their values that the best of them keeps.
        effect: standard deviation of what exact values there change in an output, by that of the output.
        last: it is made by a layer, and nothing in integers reads it.
    """

    tensor: str
    module: str
    parts: tuple[int, ...]
    axis: int
    of: int
    share: float
    effect: float
    last: bool

    def __str__(self) -> str:
        named = ", ".join(map(str, self.parts[:_NAMED]))
        more = f" and {len(self.parts) - _NAMED} more" if len(self.parts) > _NAMED else ""
        where = "channels" if self.axis == 1 else f"places of axis {self.axis}"
        advice = "bring its parts to like sizes in the network, by a factor on each"
        if self.last:
            advice = f"keep it in float (--float '{self.module}') or give each part a layer of its own"
        return (
            f"{self.tensor}: on its one grid, {len(self.parts)} of {self.of} {where} ({named}{more}) keep "
            f"{self.share:.1%} of the information of their values, below {SHARE:.0%}, which changes an output by "
            f"{self.effect:.0%} of its spread; {advice}"
        )


def find_wasted_codes(
    model: onnx.ModelProto, metadata: Metadata, feeds: Mapping[str, np.ndarray], runtime: Runtime = _DEFAULT
) -> tuple[WastedCodes, ...]:
    """Look at the codes of every tensor of an exported file, on some inputs; the largest effect first.

    Args:
        model: the file.
        metadata: what it says of itself.
        feeds: one batch of inputs by name.
        runtime: what runs it, as it is written.

    Raises:
        UserError: the runtime cannot run the graph as it is written.
    """
    return _Search(model, metadata, feeds, runtime).found()


@dataclass(frozen=True)
class _Suspect:
    """Parts of a tensor that lost their information: ``values`` is what was rounded, ``mask`` true for the parts."""

    record: TensorRecord
    values: str
    axis: int
    mask: np.ndarray
    share: float


@dataclass(frozen=True)
class _Search:
    model: onnx.ModelProto
    metadata: Metadata
    feeds: Mapping[str, np.ndarray]
    runtime: Runtime

    def found(self) -> tuple[WastedCodes, ...]:
        rounded = self._rounded()
        codes = {record.value: onnx.TensorProto.UINT8 for record, _ in rounded}
        floats = dict.fromkeys((values for _, values in rounded), onnx.TensorProto.FLOAT)
        arrays = {**self.feeds, **self._run(with_outputs(self.model, {**codes, **floats}))}
        suspects = [suspect for pair in rounded for suspect in _suspects(*pair, arrays)]
        suspects.sort(key=lambda suspect: suspect.share)
        tried = ((suspect, self._effect(suspect, arrays)) for suspect in suspects[:_TRIED])
        wasted = [self._described(suspect, effect) for suspect, effect in tried if effect >= EFFECT]
        return tuple(sorted(wasted, key=lambda found: -found.effect))

    def _rounded(self) -> list[tuple[TensorRecord, str]]:
        """The tensors that the graph rounds, each with the name of the values in front; low bits are clipped behind."""
        producers = {name: node for node in self.model.graph.node for name in node.output}
        found = []
        for record in self.metadata.tensors:
            node = producers.get(record.value)
            if node is not None and node.op_type == "Clip":
                node = producers.get(node.input[0])
            if node is not None and node.op_type == "QuantizeLinear":
                found.append((record, node.input[0]))
        return found

    def _effect(self, suspect: _Suspect, arrays: Mapping[str, np.ndarray]) -> float:
        exact = self._run(_with_exact_values(self.model, suspect))
        return max((_change(arrays[name], array) for name, array in exact.items()), default=0.0)

    def _run(self, model: onnx.ModelProto) -> dict[str, np.ndarray]:
        try:
            return self.runtime.session(model, optimized=False).run(self.feeds)
        except RuntimeFault as error:
            name, reason = self.runtime.name, error.last_line
            raise UserError(f"{name} cannot run the graph as it is written: {reason}") from error

    def _described(self, suspect: _Suspect, effect: float) -> WastedCodes:
        record, mask = suspect.record, suspect.mask.ravel()
        parts = tuple(map(int, mask.nonzero()[0]))
        layer = any(layer.module == record.module for layer in self.metadata.layers)
        last = layer and record.value not in needed_by_quantizers(self.model.graph.node)
        return WastedCodes(record.name, record.module, parts, suspect.axis, len(mask), suspect.share, effect, last)


def _suspects(record: TensorRecord, name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[_Suspect]:
    """Parts of a tensor that keep too little, along the first axis where some do."""
    values, codes = arrays[name], arrays[record.value].astype(np.int64) - record.lo
    if record.zero_point == record.lo:  # of a ReLU, whose negative values are no loss
        values = np.maximum(values, 0)
    for axis in axes_of(values):
        kept = kept_information(slices_of(values, axis), slices_of(codes, axis), record.hi - record.lo + 1)
        wasted = kept < SHARE
        if wasted.any():
            mask = wasted.reshape([-1 if dim == axis else 1 for dim in range(values.ndim)])
            yield _Suspect(record, name, axis, mask, float(kept[wasted].max()))
            return


def _with_exact_values(model: onnx.ModelProto, suspect: _Suspect) -> onnx.ModelProto:
    """A copy of a model in which the readers of a tensor get the exact values of its wasted parts."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    name = suspect.record.value
    mask, zero = f"{name}/wasted", f"{name}/zero"
    for constant, array in ((mask, suspect.mask), (zero, np.zeros((), np.float32))):
        changed.graph.initializer.append(onnx.numpy_helper.from_array(array, constant))
    nodes: list[onnx.NodeProto] = []
    for node in changed.graph.node:
        nodes.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] == name:
            result, exact = node.output[0], suspect.values
            if suspect.record.zero_point == suspect.record.lo:
                exact = f"{result}/exact"
                nodes.append(helper.make_node("Max", [suspect.values, zero], [exact]))
            node.output[0] = f"{result}/rounded"
            nodes.append(helper.make_node("Where", [mask, exact, node.output[0]], [result]))
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _change(rounded: np.ndarray, exact: np.ndarray) -> float:
    """The largest spread of the differences in a part of an output, by the spread of that part.

    0 for whole numbers. Where parts are short, as the classes of few samples, all of them are looked at together.
    """
    if exact.dtype.kind != "f" or rounded.shape != exact.shape:
        return 0.0
    pair = (rounded.astype(np.float64) - exact, exact.astype(np.float64))
    parts = [[slices_of(array, axis) for array in pair] for axis in axes_of(exact)]
    parts = [part for part in parts if part[0].shape[1] >= FEWEST_VALUES]
    parts = parts or [[array.reshape(1, -1) for array in pair]]
    return max(_relative(*part) for part in parts)


def _relative(difference: np.ndarray, exact: np.ndarray) -> float:
    """The largest quotient of standard deviations of rows ``[parts, values]``."""
    size, spread = difference.std(1), exact.std(1)
    known = np.isfinite(size) & (spread > 0)
    return float((size[known] / spread[known]).max(initial=0.0))
