"""The levels of a verification after identity: codes, preview, accuracy, kernels. Each returns what it found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qkd_deploy.data.metric import Metric, scores_of
from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.integer.preview import preview_codes
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.checks.outputs import FLIP_TOLERANCE, FLOAT_TOLERANCE, OutputsComparison
from qkd_deploy.verification.checks.torch_side import outputs_of, tensors_for
from qkd_deploy.verification.compare import CodesComparison, output_difference
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.verification.report import Level, VerificationReport
from qkd_deploy.verification.runtime import RuntimeModel, optimized_graph
from qkd_deploy.verification.source import Batch, Source


def codes_level(
    subject: ModelUnderTest, source: Source, threads: tuple[int, ...], batch_size: int, report: VerificationReport
) -> Level:
    """Reference against runtime, and frozen model against runtime, on the first batches: every code must be equal."""
    comparison = subject.comparison()
    sessions = {count: subject.runtime(count) for count in threads}
    outputs = _OutputCheck()
    limit = min(source.images, subject.code_images(source.sample_shape))
    for batch in source.batches(min(batch_size, limit), limit):
        for count, session in sessions.items():
            runtime_outputs, codes = session.run(batch.feeds)
            _compare_reference(subject, batch, codes, runtime_outputs, f"{count} threads", comparison, outputs)
            if subject.frozen is not None and count == threads[0]:
                _compare_frozen(subject, subject.frozen, batch, codes, comparison, outputs)
    report.compared_codes, report.differing_codes = comparison.compared, comparison.differing
    report.first_difference = comparison.first
    return _codes_result(subject, comparison, outputs, limit, threads)


class _OutputCheck:
    """Outputs that must be equal in every bit, or close where float operators had a part."""

    def __init__(self) -> None:
        self.failures: dict[str, float] = {}
        self.after_float: set[str] = set()

    def check(self, name: str, left: np.ndarray, right: np.ndarray, exact: bool) -> None:
        difference = output_difference(left, right)
        if difference > (0.0 if exact else FLOAT_TOLERANCE):
            self.failures[name] = max(difference, self.failures.get(name, 0.0))


def _compare_reference(
    subject: ModelUnderTest,
    batch: Batch,
    codes: Mapping[str, np.ndarray],
    runtime_outputs: Mapping[str, np.ndarray],
    label: str,
    comparison: CodesComparison,
    outputs: _OutputCheck,
) -> None:
    result = subject.reference.run(batch.feeds, continue_with=codes)
    outputs.after_float = result.after_float
    exact = {name: array for name, array in codes.items() if name not in result.after_float}
    own = {name: array for name, array in result.codes.items() if name not in result.after_float}
    comparison.exact(f"reference and ONNX Runtime ({label})", subject.by_tensor(own), subject.by_tensor(exact))
    for value in codes.keys() & result.codes.keys() & result.after_float:
        comparison.within_a_step(subject.tensor_names[value], result.codes[value], codes[value])
    for name, array in runtime_outputs.items():
        outputs.check(name, result.outputs[name], array, exact=name not in result.after_float)


def _compare_frozen(
    subject: ModelUnderTest,
    model: FrozenModel,
    batch: Batch,
    codes: Mapping[str, np.ndarray],
    comparison: CodesComparison,
    outputs: _OutputCheck,
) -> None:
    frozen = model.codes(*tensors_for(model, batch.floats))
    known = {record.value for record in subject.metadata.tensors} - outputs.after_float
    exact = subject.by_tensor({name: array for name, array in codes.items() if name in known})
    comparison.exact("frozen model and ONNX Runtime", {n: a for n, a in frozen.items() if n in exact}, exact)


def _codes_result(
    subject: ModelUnderTest, comparison: CodesComparison, outputs: _OutputCheck, images: int, threads: tuple[int, ...]
) -> Level:
    problems = []
    if comparison.first is not None:
        first = comparison.first
        problems.append(
            f"{comparison.differing:,} of {comparison.compared:,} codes differ, first in {first.module} "
            f"(tensor {first.tensor}, {first.count:,} codes, {first.between})"
        )
    problems += comparison.exceeding()
    problems += [f"output {name} differs by {value:.2g} of its range" for name, value in outputs.failures.items()]
    sides = "reference, frozen model and ONNX Runtime" if subject.frozen is not None else "reference and ONNX Runtime"
    counts = " and ".join(map(str, threads))
    done = f"0 of {comparison.compared:,} codes differ ({sides}, {images} inputs, {counts} threads)"
    if not comparison.compared:
        done = f"the model has no integer codes; outputs agree within {FLOAT_TOLERANCE:g} of their range"
    notes = []
    if comparison.loose and comparison.compared:
        total = sum(size for _, size, _ in comparison.loose.values())
        notes.append(f"{total:,} codes behind float operators are compared within one step in 1e-5 of them")
    if problems:
        return Level("codes", "failed", (*problems, *notes))
    return Level("codes", "passed", (done, *notes))


def preview_level(subject: ModelUnderTest, source: Source, batch_size: int) -> Level:
    """Each layer of the float fake-quantized model, fed the frozen codes, against the frozen layer."""
    if subject.prepared is None or subject.frozen is None:
        return Level("preview", "skipped", ("no checkpoint was given",))
    comparison = subject.comparison()
    limit = min(source.images, subject.code_images(source.sample_shape))
    for batch in source.batches(min(batch_size, limit), limit):
        inputs = tensors_for(subject.frozen, batch.floats)
        for name, preview, frozen in preview_codes(subject.prepared, subject.frozen, *inputs):
            comparison.within_a_step(name, preview, frozen)
    problems = comparison.exceeding()
    if problems:
        return Level("preview", "failed", tuple(problems))
    differing = sum(count for count, _, _ in comparison.loose.values())
    total = sum(size for _, size, _ in comparison.loose.values())
    if not total:
        return Level("preview", "skipped", ("the model has no integer codes",))
    return Level("preview", "passed", (f"{differing} of {total:,} codes of single layers differ, by one step at most",))


def kernels_level(subject: ModelUnderTest, require_integer: bool, report: VerificationReport) -> Level:
    """Lists the kernels that ONNX Runtime built; float ones fail only with ``require_integer``."""
    report.kernels = list_kernels(subject.model, optimized_graph(subject.model), subject.metadata)
    integer, floats = len(report.kernels) - len(report.float_ops), len(report.float_ops)
    if not floats:
        return Level("kernels", "passed", (f"all {integer} kernels are integer kernels",))
    first = report.float_ops[0]
    named = (
        f"{floats} of {integer + floats} kernels compute in float, first {first.module} ({first.op}): {first.reason}"
    )
    return Level("kernels", "failed" if require_integer else "passed", (named,))


def accuracy_level(
    subject: ModelUnderTest,
    source: Source,
    threads: tuple[int, ...],
    batch_size: int,
    tolerance: float | None,
    report: VerificationReport,
) -> Level:
    """Predictions of all sides on all images; outputs only where there are no labels."""
    if not source.labelled and subject.frozen is None:
        return Level("accuracy", "skipped", ("there are no labels and no checkpoint to compare with",))
    runtime = RuntimeModel(subject.model, max(threads))
    tally = Tally(_outputs_comparison(subject, source), source.metric, source.metric_name)
    for batch in source.batches(batch_size):
        sides = {"runtime": list(runtime.run(batch.feeds).values())}
        if subject.frozen is not None:
            sides["frozen"] = outputs_of(subject.frozen, batch.floats)
        if subject.prepared is not None:
            sides["preview"] = outputs_of(subject.prepared, batch.floats)
        tally.add(sides, batch.labels)
    report.images = tally.images
    if not source.labelled:
        return tally.outputs_result()
    for side in tally.correct:
        report.accuracy[side] = 100.0 * tally.correct[side] / tally.images
    return tally.accuracy_result(tolerance)


def _outputs_comparison(subject: ModelUnderTest, source: Source) -> OutputsComparison:
    """Outputs must be equal in every bit, unless an operator in float has a part in them."""
    after_float = subject.reference.run(next(iter(source.batches(1))).feeds).after_float
    exact = {output.name: output.name not in after_float for output in subject.model.graph.output}
    return OutputsComparison(exact, FLIP_TOLERANCE if after_float & subject.values.keys() else FLOAT_TOLERANCE)


_IS_KEY = re.compile(r"(?!output(_\d+)?$)[A-Za-z_]\w*")
"""Names of outputs that are keys of a dict; tensors and tuples give ``output`` and ``output_0``, ``output_1`` ..."""


class Tally:
    """Counts of right predictions by side, and of disagreements between the frozen model and the runtime.

    A ``metric`` gives each sample a score in 0..1 instead of right or wrong.
    """

    def __init__(self, outputs: OutputsComparison, metric: Metric | None, metric_name: str) -> None:
        self._outputs, self._metric, self._metric_name = outputs, metric, metric_name
        self.images = 0
        self.correct: dict[str, float] = {}
        self.disagreements = 0

    def add(self, sides: Mapping[str, list[np.ndarray]], labels: np.ndarray | None) -> None:
        """Count one batch; every side holds its outputs in graph order.

        Raises:
            UserError: the sides give outputs of other shapes, or not one for each label.
        """
        runtime = sides["runtime"]
        _require_equal_shapes(sides, None if labels is None else len(labels))
        self.images += len(runtime[0])
        if "frozen" in sides:
            self._outputs.add(sides["frozen"], runtime)
        if labels is None:
            return
        if self._metric is None:
            predictions = {side: _predictions(outputs[0]) for side, outputs in sides.items()}
            scores = {side: predicted == labels for side, predicted in predictions.items()}
        else:
            predictions = scores = {side: self._scores(outputs, labels) for side, outputs in sides.items()}
        for side, score in scores.items():
            self.correct[side] = self.correct.get(side, 0) + float(score.sum(dtype=np.float64))
        if "frozen" in predictions:
            self.disagreements += int((predictions["frozen"] != predictions["runtime"]).sum())

    def _scores(self, outputs: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
        """What the metric of a data set says of the outputs: a tensor, a tuple, or, by name, what was a dict."""
        tensors = dict(zip(self._outputs.exact, map(torch.from_numpy, outputs), strict=True))
        given: Any = tensors
        if not all(_IS_KEY.fullmatch(name) for name in tensors):
            given = tuple(tensors.values()) if len(tensors) > 1 else next(iter(tensors.values()))
        return np.asarray(scores_of(self._metric, given, torch.from_numpy(labels)).numpy())

    def outputs_result(self) -> Level:
        """Without labels: the outputs of the frozen model and the runtime, within the tolerance of float operators."""
        problems = self._outputs.problems()
        return Level("accuracy", "failed" if problems else "passed", tuple(problems or [self._outputs.summary()]))

    def accuracy_result(self, tolerance: float | None) -> Level:
        """With labels: frozen model and runtime must predict the same, the preview be within ``tolerance`` points."""
        percent = {side: 100.0 * count / self.images for side, count in self.correct.items()}
        shown = ", ".join(
            f"{side} {percent[side]:.2f} %" for side in ("preview", "frozen", "runtime") if side in percent
        )
        problems = []
        if self.disagreements:
            problems.append(
                f"the frozen model and ONNX Runtime predict differently on {self.disagreements} of {self.images} images"
            )
        problems += self._outputs.problems(exact_only=True)
        if tolerance is not None and "preview" in percent and "frozen" in percent:
            # a small set cannot express a tenth of a point: round up to whole images
            allowed = int(np.ceil(tolerance * self.images / 100 - 1e-9))
            if abs(self.correct["preview"] - self.correct["frozen"]) > allowed:
                problems.append(f"the float preview is more than {tolerance:g} points away from the integer model")
        name = "" if self._metric is None else f"{self._metric_name}: "
        summary = f"{name}{shown} on {self.images} images"
        if problems:
            return Level("accuracy", "failed", (*problems, summary))
        return Level("accuracy", "passed", (summary,))


def _require_equal_shapes(sides: Mapping[str, list[np.ndarray]], images: int | None) -> None:
    """A damaged graph may give outputs that cannot be compared at all."""
    shapes = {side: [output.shape for output in outputs] for side, outputs in sides.items()}
    for side, found in shapes.items():
        if found != shapes["runtime"]:
            raise UserError(
                f"ONNX Runtime gives outputs of shapes {shapes['runtime']}, but the {side} model {found}, so nothing "
                "can be compared; export the model again"
            )
    first = shapes["runtime"][0]
    if not first or images not in (None, first[0]):
        raise UserError(
            f"the model's first output has the shape {list(first)}, which does not hold one row per input; such a "
            "model cannot be verified with these data"
        )


def _predictions(outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim != 2:
        raise UserError(
            "the model's first output is not [N, classes], so it is no classifier; verify it with --inputs x.npy, or "
            "with a data set that has a metric"
        )
    return np.asarray(outputs.argmax(axis=1))
