"""Is every code right? Reference against runtime, and frozen model against runtime, on the first batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.verification.checks.outputs import FLOAT_TOLERANCE
from qkd_deploy.verification.checks.torch_side import tensors_for
from qkd_deploy.verification.compare import CodesComparison, output_difference
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Job
from qkd_deploy.verification.reference.model import ReferenceResult
from qkd_deploy.verification.source import Batch

Codes = Mapping[str, np.ndarray]


def check_codes(job: Job) -> Level:
    """Compare all codes and outputs; every code must be equal, but for those behind float operators."""
    found = _Comparison(job, job.subject.comparison())
    sessions = {count: job.subject.session(count) for count in job.threads}
    for batch in _batches(job):
        for count, session in sessions.items():
            outputs, codes = session.run(batch.feeds)
            found.add_reference(batch, codes, outputs, f"{count} threads")
            if job.subject.frozen is not None and count == job.threads[0]:
                found.add_frozen(job.subject.frozen, batch, codes)
    codes_found = found.codes
    job.report.compared_codes, job.report.differing_codes = codes_found.compared, codes_found.differing
    job.report.first_difference = codes_found.first
    return found.judged()


def _batches(job: Job) -> Iterator[Batch]:
    """The first batches, and one of each further size."""
    limit = job.code_images
    yield from job.source.batches(min(job.batch_size, limit), limit)
    for source in job.other_sizes:
        yield from source.batches(source.images)


@dataclass
class _Comparison:
    """Adds up what differs over batches and sessions.

    Attributes:
        job: what is compared.
        codes: differences of codes.
        outputs: by name, by how much of its range an output differs that should not.
        after_float: values that a float operator had a part in.
    """

    job: Job
    codes: CodesComparison
    outputs: dict[str, float] = field(default_factory=dict)
    after_float: set[str] = field(default_factory=set)

    def add_reference(self, batch: Batch, codes: Codes, outputs: Codes, label: str) -> None:
        """Compare what the runtime gives with the reference's results."""
        subject = self.job.subject
        result = subject.reference.run(batch.feeds, continue_with=codes)
        self.after_float = result.after_float
        own, exact = self._before_float(result.codes), self._before_float(codes)
        between = f"reference and {subject.runtime.name} ({label})"
        self.codes.exact(between, subject.by_tensor(own), subject.by_tensor(exact))
        for value in codes.keys() & result.codes.keys() & result.after_float:
            near_ties = result.near_ties.get(value)
            self.codes.within_a_step(subject.tensor_names[value], result.codes[value], codes[value], near_ties)
        self._add_outputs(result, outputs)

    def add_frozen(self, model: FrozenModel, batch: Batch, codes: Codes) -> None:
        """Compare the codes that the runtime gives with the frozen model's."""
        subject = self.job.subject
        known = {record.value for record in subject.metadata.tensors}
        exact = subject.by_tensor({name: codes[name] for name in self._before_float(codes) if name in known})
        frozen = model.codes(*tensors_for(model, batch.floats))
        shared = {name: array for name, array in frozen.items() if name in exact}
        self.codes.exact(f"frozen model and {subject.runtime.name}", shared, exact)

    def _before_float(self, codes: Codes) -> dict[str, np.ndarray]:
        return {name: array for name, array in codes.items() if name not in self.after_float}

    def _add_outputs(self, result: ReferenceResult, outputs: Codes) -> None:
        """Outputs must be equal in every bit, or close where float operators had a part."""
        for name, array in outputs.items():
            difference = output_difference(result.outputs[name], array)
            allowed = FLOAT_TOLERANCE if name in self.after_float else 0.0
            if difference > allowed:
                self.outputs[name] = max(difference, self.outputs.get(name, 0.0))

    def judged(self) -> Level:
        """The level, with a sentence about everything that differs."""
        problems = list(self._problems())
        if problems:
            return Level("codes", "failed", (*problems, *self._notes()))
        return Level("codes", "passed", (self._summary(), *self._notes()))

    def _problems(self) -> Iterator[str]:
        first = self.codes.first
        if first is not None:
            yield (
                f"{self.codes.differing:,} of {self.codes.compared:,} codes differ, first in {first.module} "
                f"(tensor {first.tensor}, {first.count:,} codes, {first.between})"
            )
        yield from self.codes.exceeding()
        for name, value in self.outputs.items():
            yield f"output {name} differs by {value:.2g} of its range"

    def _summary(self) -> str:
        if not self.codes.compared:
            return f"the model has no integer codes; outputs agree within {FLOAT_TOLERANCE:g} of their range"
        subject, threads = self.job.subject, " and ".join(map(str, self.job.threads))
        frozen = ", frozen model" if subject.frozen is not None else ""
        sides = f"reference{frozen} and {subject.runtime.name}"
        sizes = f", and {len(self.job.other_sizes)} other sizes" if self.job.other_sizes else ""
        inputs = f"{self.job.code_images} inputs{sizes}"
        return f"0 of {self.codes.compared:,} codes differ ({sides}, {inputs}, {threads} threads)"

    def _notes(self) -> Iterator[str]:
        if self.codes.loose and self.codes.compared:
            total = sum(size for _, size, _ in self.codes.loose.values())
            yield f"{total:,} codes behind float operators are compared within one step, at ties and in 1e-5 of others"
