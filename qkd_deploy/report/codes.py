"""The codes of a trained network: how often each occurs, and what rounding and clipping took."""

from __future__ import annotations

import torch

from qkd_deploy.data import ImageDataset, normalize
from qkd_deploy.report.findings import Codes
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.verification.model_under_test import code_images
from qkd_deploy.workflows.export import Trained


def codes_of(trained: Trained, data: ImageDataset | None) -> Codes:
    """Look at the quantized tensors of a network on the first held-out images.

    Args:
        trained: the network.
        data: images, normalised as it takes them; without them only weights are looked at.
    """
    monitor = QuantizerMonitor(trained.prepared)
    parameters = sum(value.numel() for value in trained.prepared.network.parameters())
    if data is None:
        return Codes(monitor.observe_weights().tensors, 0, parameters)
    count = min(len(data.test), code_images(data.test.image_shape))
    images = normalize(data.test.images_at(torch.arange(count)), data.test.normalization)
    return Codes(monitor.observe(images).tensors, count, parameters)
