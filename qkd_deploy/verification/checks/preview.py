"""Is the preview right? Each layer of the fake-quantized model, fed the frozen codes, against the frozen layer."""

from __future__ import annotations

from qkd_deploy.graph.integer.preview import preview_codes
from qkd_deploy.verification.checks.torch_side import tensors_for
from qkd_deploy.verification.compare import CodesComparison
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Job


def check_preview(job: Job) -> Level:
    """Compare single layers; a rounding tie may be decided otherwise, by one step, and in 1e-5 of the codes."""
    subject = job.subject
    if subject.prepared is None or subject.frozen is None:
        return Level("preview", "skipped", ("no checkpoint was given",))
    comparison, limit = subject.comparison(), job.code_images
    for batch in job.source.batches(min(job.batch_size, limit), limit):
        inputs = tensors_for(subject.frozen, batch.floats)
        for name, preview, frozen in preview_codes(subject.prepared, subject.frozen, *inputs):
            comparison.within_a_step(name, preview, frozen)
    return _judged(comparison)


def _judged(comparison: CodesComparison) -> Level:
    problems = comparison.exceeding()
    if problems:
        return Level("preview", "failed", tuple(problems))
    differing = sum(count for count, _, _ in comparison.loose.values())
    total = sum(size for _, size, _ in comparison.loose.values())
    if not total:
        return Level("preview", "skipped", ("the model has no integer codes",))
    return Level("preview", "passed", (f"{differing} of {total:,} codes of single layers differ, by one step at most",))
