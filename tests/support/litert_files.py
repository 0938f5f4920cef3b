"""Files for LiteRT of networks whose steps are set on noise, and what XNNPACK makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from deployment import noise
from torch import Tensor, nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.export.targets.litert import TARGET
from qkd_deploy.export.targets.target import Form, TargetKernel
from qkd_deploy.graph.integer.model import FrozenModel

WIDTHS = ("w8a8", "w4a8", "w4a4")


def frozen_of(network: nn.Module, bits: str, *shape: int, **options: str) -> FrozenModel:
    """The integer model of a network, its steps set on noise."""
    images = noise(4, *shape)
    prepared = prepare(network.eval(), bits, (images[:2],), **options)
    initialize(prepared, images)
    return freeze(prepared)


def outputs_of(frozen: FrozenModel, images: Tensor, folder: Path) -> tuple[np.ndarray, list[TargetKernel]]:
    """What XNNPACK gives for each image, and what ran."""
    path = folder / "model.tflite"
    path.write_bytes(TARGET.build(frozen, Form(), "record"))
    session = TARGET.load(path, 1)
    return np.concatenate([session.run([image[None].numpy()])[0] for image in images]), session.kernels()
