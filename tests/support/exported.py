"""A small network, its exported file, and the verification of one, for tests of ways out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import CENTERED

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)


class Network(nn.Module):
    """Classes of images, or what is made of a map [N, 4, 6, 6] of them."""

    def __init__(self, result: Callable[[Tensor], Any] = lambda y: y.mean((2, 3))) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.result = nn.Conv2d(1, 4, 3), result

    def forward(self, x: Tensor) -> Any:
        return self.result(self.layer(x))


def exported(network: nn.Module, file: Path, *inputs: Tensor) -> PreparedModel:
    """Quantize a network and write it; without ``inputs`` it takes centered images such as ``PIXELS``."""
    examples = inputs or ((torch.from_numpy(PIXELS).float() - 128) / 128,)
    model = qkd.prepare(network.eval(), "w8a8", examples, normalization=None if inputs else CENTERED)
    qkd.initialize(model, *examples)
    qkd.export_onnx(model.eval(), file)
    return model


def verified(file: Path, **options: Any) -> None:
    """Verify a file with the options of ``verify_onnx``.

    Raises:
        UserError: it cannot be verified, or it fails; with the verdict.
    """
    report = qkd.verify_onnx(file, threads=(1,), **options)
    if not report.passed:
        raise qkd.UserError(report.verdict)
