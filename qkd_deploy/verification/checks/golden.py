"""Golden inputs of a file, run again: do reference and runtime still give the recorded codes and outputs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Golden, array_digest
from qkd_deploy.verification.compare import output_difference
from qkd_deploy.verification.findings import Difference
from qkd_deploy.verification.model_under_test import ModelUnderTest

_FLOAT_TOLERANCE = 1e-4


def golden_differences(subject: ModelUnderTest, golden: Golden | None) -> list[Difference]:
    """The first tensor of each side whose codes are not the recorded ones, and outputs that differ.

    Raises:
        UserError: reference or runtime cannot run the model.
    """
    if golden is None:
        return []
    feeds = _feeds(subject, golden)
    outputs, codes = subject.session().run(feeds)
    result = subject.reference.run(feeds, continue_with=codes)
    own_codes, own_outputs = result.codes, result.outputs
    exact = [name for name in codes if name not in result.after_float]
    return [
        *_codes(subject, golden, "the reference", {name: own_codes[name] for name in exact if name in own_codes}),
        *_codes(subject, golden, subject.runtime.name, {name: codes[name] for name in exact}),
        *_outputs(subject, golden, "the reference", own_outputs, result.after_float),
        *_outputs(subject, golden, subject.runtime.name, outputs, result.after_float),
    ]


def _feeds(subject: ModelUnderTest, golden: Golden) -> dict[str, np.ndarray]:
    feeds = {value.name: array for value, array in zip(subject.model.graph.input, golden.inputs, strict=False)}
    if len(feeds) != len(subject.model.graph.input):
        raise UserError("the golden inputs do not fit the model's inputs; export it again")
    return feeds


def _outputs(
    subject: ModelUnderTest, golden: Golden, side: str, values: Mapping[str, np.ndarray], after_float: set[str]
) -> Iterator[Difference]:
    for (name, array), recorded in zip(values.items(), golden.outputs, strict=False):
        allowed = _FLOAT_TOLERANCE if name in after_float else 0.0
        if output_difference(array, recorded) > allowed:
            yield _difference(subject, name, f"{side} gives another golden output {name}")


def _codes(subject: ModelUnderTest, golden: Golden, side: str, found: Mapping[str, np.ndarray]) -> list[Difference]:
    by_tensor = subject.by_tensor(found)
    for name, digest in golden.codes.items():
        if name in by_tensor and array_digest(by_tensor[name]) != digest:
            return [_difference(subject, name, f"{side} gives other golden codes from tensor {name} on")]
    return []


def _difference(subject: ModelUnderTest, name: str, message: str) -> Difference:
    return Difference("golden", name, subject.metadata.module_of(name), message)
