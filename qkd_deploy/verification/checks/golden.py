"""Golden inputs of a file, run again: do reference and runtime still give the recorded codes and outputs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qkd_deploy.export.metadata import Golden, GoldenOutput, array_digest
from qkd_deploy.verification.checks.flips import FlipBound, flip_bound
from qkd_deploy.verification.compare import output_difference
from qkd_deploy.verification.findings import Difference
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.verification.onnx_graph import names_of
from qkd_deploy.verification.reference.model import ReferenceResult
from qkd_deploy.verification.source import golden_source

Codes = Mapping[str, np.ndarray]

_FLOAT_TOLERANCE = 1e-4
"""Of an output's largest value, where the last bits of float operators are all that may differ."""


def golden_differences(subject: ModelUnderTest, golden: Golden | None) -> list[Difference]:
    """The first tensor of each side whose codes are not the recorded ones, and outputs that differ.

    Behind float operators, codes that were rounded from floats may be others than the recorded ones, and so what is
    computed from them; integer kernels that read the recorded codes must give the recorded codes there, too.

    Raises:
        UserError: reference or runtime cannot run the model.
    """
    if golden is None:
        return []
    feeds = _feeds(subject, golden)
    outputs, codes = subject.session().run(feeds)
    result = subject.reference.run(feeds, continue_with=codes)
    flipped = _Flipped(subject, golden, codes, result)
    bound = _Bound(subject, feeds, result, flipped.values)
    exact = [name for name in codes if name not in result.after_float or name in flipped.must_agree]
    return [
        *_codes(subject, golden, "the reference", {n: result.codes[n] for n in exact if n in result.codes}),
        *_codes(subject, golden, subject.runtime.name, {name: codes[name] for name in exact}),
        *_outputs(subject, golden, "the reference", result.outputs, bound),
        *_outputs(subject, golden, subject.runtime.name, outputs, bound),
    ]


def _feeds(subject: ModelUnderTest, golden: Golden) -> dict[str, np.ndarray]:
    golden_source(subject.model, subject.metadata, golden)  # refuses others than the model takes
    return dict(zip(names_of(subject.model.graph.input), golden.inputs, strict=True))


class _Flipped:
    """Where codes behind float operators are not the recorded ones.

    Attributes:
        values: names of values in which codes have a part that were rounded otherwise than when the file was written.
        must_agree: codes that integer kernels computed from nothing but recorded codes.
    """

    def __init__(self, subject: ModelUnderTest, golden: Golden, codes: Codes, result: ReferenceResult) -> None:
        self.values: set[str] = set()
        self.must_agree: set[str] = set()
        recorded = {r.value: golden.codes[r.name] for r in subject.metadata.tensors if r.name in golden.codes}
        rounded = set(result.rounded)
        for node in subject.model.graph.node:
            if not rounded.isdisjoint(node.input):  # the range of codes, in front of what is recorded
                rounded.update(node.output)
            dirty = not self.values.isdisjoint(node.input)
            for name in node.output:
                known = name in recorded and name in codes
                if dirty if not known else array_digest(codes[name]) != recorded[name]:
                    self.values.add(name)
                if known and not dirty and name not in rounded:
                    self.must_agree.add(name)
            rounded -= recorded.keys() & set(node.output)


@dataclass(frozen=True)
class _Bound:
    """By how much golden outputs may differ from the recorded ones."""

    subject: ModelUnderTest
    feeds: Mapping[str, np.ndarray]
    result: ReferenceResult
    flipped: set[str]

    def allows(self, name: str, found: np.ndarray, recorded: GoldenOutput) -> bool:
        """In no bit before float operators; behind them in the last bits, and as far as flipped codes explain it."""
        allowed = _FLOAT_TOLERANCE if name in self.result.after_float else 0.0
        near = output_difference(recorded.part_of(found), recorded.values) <= allowed
        if near and (allowed or recorded.holds(found)):
            return True
        return name in self.flipped and self._flips.allows(name, found, recorded, allowed)

    @cached_property
    def _flips(self) -> FlipBound:
        return flip_bound(self.subject.reference, self.feeds, self.result.outputs)


def _outputs(
    subject: ModelUnderTest, golden: Golden, side: str, values: Mapping[str, np.ndarray], bound: _Bound
) -> Iterator[Difference]:
    for (name, array), recorded in zip(values.items(), golden.outputs, strict=False):
        if not bound.allows(name, array, recorded):
            yield _difference(subject, name, f"{side} gives another golden output {name}")


def _codes(subject: ModelUnderTest, golden: Golden, side: str, found: Mapping[str, np.ndarray]) -> list[Difference]:
    by_tensor = subject.by_tensor(found)
    for name, digest in golden.codes.items():
        if name in by_tensor and array_digest(by_tensor[name]) != digest:
            return [_difference(subject, name, f"{side} gives other golden codes from tensor {name} on")]
    return []


def _difference(subject: ModelUnderTest, name: str, message: str) -> Difference:
    return Difference("golden", name, subject.metadata.module_of(name), message)
