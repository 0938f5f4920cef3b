"""The job of a check: the model, the data, what is allowed, and the report that findings go into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.model_under_test import ModelUnderTest, code_images
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.verification.source import Source


@dataclass(frozen=True)
class Job:
    """One verification; the fields after ``report`` are arguments of ``verify_onnx``, but for the last two.

    ``file`` is the one that is verified, ``subject`` what is in it.

    ``recorded`` is the accuracy in percent that the file claims for just these data, None where it claims none;
    ``other_sizes`` are images of more sizes, for a file that leaves them open.
    """

    file: OnnxFile
    subject: ModelUnderTest
    source: Source
    report: VerificationReport
    expected: onnx.ModelProto | None = None
    expected_decode: onnx.ModelProto | None = None
    tolerance: float | None = 0.1
    require_integer: bool = False
    strict_codes: bool = False
    threads: tuple[int, ...] = (1, 2)
    batch_size: int = 64
    recorded: float | None = None
    other_sizes: tuple[Source, ...] = ()

    @property
    def code_images(self) -> int:
        """On how many of the images all codes are compared."""
        return min(self.source.images, code_images(self.source.sample_shape))


Check = Callable[[Job], Level]
"""Looks at one side of the model, notes numbers in the report, and judges."""
