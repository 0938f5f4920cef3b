"""Do the codes say anything? Parts of tensors whose codes lose what the values in front of them tell.

This is no difference between file and model: both answer alike, and alike wrong.
"""

from __future__ import annotations

from qkd_deploy.export.information.wasted_codes import SHARE, find_wasted_codes
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.job import Job

IMAGES = 32
"""On which codes are judged, at most."""


def check_information(job: Job) -> Level:
    """Look at the codes of the first images; what is wasted fails only where that was asked for."""
    subject, size = job.subject, min(IMAGES, job.batch_size, job.code_images)
    batch = next(job.source.batches(size, size))
    found = find_wasted_codes(subject.model, subject.metadata, batch.feeds, subject.runtime)
    job.report.wasted_codes = list(found)
    if not found:
        what = f"no part of a tensor that an output depends on keeps less than {SHARE:.0%} of its information"
        return Level("information", "passed", (f"{what} ({size} inputs)",))
    if job.strict_codes:
        return Level("information", "failed", tuple(map(str, found)))
    named = ", ".join(wasted.tensor for wasted in found)
    return Level("information", "passed", (f"parts of {named} are lost",))
