"""Do all sides predict the same? Predictions on all images; outputs only where there are no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.verification.checks.outputs import FLIP_TOLERANCE, FLOAT_TOLERANCE, OutputsComparison
from qkd_deploy.verification.checks.readable import Outputs
from qkd_deploy.verification.checks.tally import Tally
from qkd_deploy.verification.checks.torch_side import outputs_of
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Job
from qkd_deploy.verification.onnx_graph import names_of
from qkd_deploy.verification.runtime import RuntimeModel
from qkd_deploy.verification.source import Batch

if TYPE_CHECKING:
    from qkd_deploy.data.dataset import ImageDataset


def check_accuracy(job: Job) -> Level:
    """Run every side on all images; frozen model and runtime must agree, and the preview be near them.

    Raises:
        UserError: the sides give outputs of other shapes, or not one for each label.
    """
    subject, source, report = job.subject, job.source, job.report
    if not source.labelled and subject.frozen is None:
        return Level("accuracy", "skipped", ("there are no labels and no checkpoint to compare with",))
    decoded = source.labelled and subject.metadata.decode is not None
    if decoded and (subject.decode is None or report.failed("decode")):
        return Level("accuracy", "skipped", ("labels are of decoded outputs, and no decode file fits",))
    runtime = RuntimeModel(subject.model, max(job.threads), runtime=subject.runtime)
    tally = Tally(_outputs_comparison(job, decoded), source.data)
    for batch in source.batches(job.batch_size):
        tally.add(_sides(job, runtime, batch, decoded), batch.samples, batch.labels)
    report.images = tally.images
    if not source.labelled:
        return tally.outputs_result()
    report.accuracy.update(tally.percent)
    report.figures = tally.figures
    return _with_recorded(job, tally, tally.accuracy_result(job.tolerance))


def recorded_for(metadata: Metadata, data: ImageDataset, images: int) -> float | None:
    """The accuracy in percent that a file claims on the test images of ``data``; None where it claims it of others."""
    claim = metadata.accuracy
    if claim is None or (claim["fingerprint"], claim["images"]) != (data.fingerprint, images):
        return None
    same_pictures = dict(metadata.preprocessing or {}) == dict(data.evaluation)
    return float(claim["integer"]) if same_pictures else None


def _with_recorded(job: Job, tally: Tally, level: Level) -> Level:
    """The level, failed where the file claims another accuracy than the runtime reaches.

    Equality is asked for where nothing in float has a part in the outputs; elsewhere rounding may decide an image.
    """
    claimed, reached = job.recorded, tally.percent["runtime"]
    allowed = 1e-6 if tally.is_exact else max(job.tolerance or 0.0, 100.0 / tally.images)
    if claimed is None or abs(claimed - reached) <= allowed:
        return level
    problem = f"the file claims {claimed:.2f} % on these images, but reaches {reached:.2f} %"
    return Level(level.name, "failed", (problem, *level.sentences))


def _sides(job: Job, runtime: RuntimeModel, batch: Batch, decoded: bool) -> dict[str, Outputs]:
    """The outputs of all sides for one batch, in graph order: of the file, or what the decode file makes of them."""
    subject, found = job.subject, runtime.run(batch.feeds)
    if decoded and subject.decode is not None:
        found = subject.decode.run(found)
    sides = {"runtime": list(found.values())}
    cut = subject.metadata.decode is not None
    frozen = subject.whole if decoded or not cut else subject.frozen
    preview = subject.prepared if decoded or not cut else None
    for name, module in (("frozen", frozen), ("preview", preview)):
        if module is not None:
            sides[name] = outputs_of(module, batch.floats)
    return sides


def _outputs_comparison(job: Job, decoded: bool) -> OutputsComparison:
    """Outputs must be equal in every bit, unless an operator in float has a part in them."""
    subject = job.subject
    after_float = subject.reference.run(next(iter(job.source.batches(1))).feeds).after_float
    tolerance = FLIP_TOLERANCE if after_float & subject.values.keys() else FLOAT_TOLERANCE
    if decoded and subject.decode is not None:
        return OutputsComparison(dict.fromkeys(names_of(subject.decode.file.model.graph.output), False), tolerance)
    exact = {output.name: output.name not in after_float for output in subject.model.graph.output}
    return OutputsComparison(exact, tolerance)
