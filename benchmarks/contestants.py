"""The three files that are timed against each other: fp32, ours, and ONNX Runtime's own static quantization."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from static_forms import preprocessed, quantize_per_channel
from torch import nn

from qkd_deploy import create_model, export_onnx, initialize, prepare
from qkd_deploy.bits import BitWidths

_LARGE = {  # 224x224 and 1,000 classes; others take 32x32 and 10
    *("resnet18", "resnet34", "resnet50"),
    *("mobilenetv2", "efficientnet_b0", "efficientnet_lite0", "vit_tiny", "deit_tiny"),
}
_SETTLING_BATCHES, _BATCH, _PACKED_BITS = 3, 8, 4


@dataclass(frozen=True)
class Contestants:
    """Paths of the files, their sizes in bytes, an input to time them with, and the seconds our export took.

    ``packed`` (4-bit weights or fewer in their packed form) is measured on disk only: it runs the same kernels as ours.
    """

    fp32: Path
    ours: Path
    quantize_static: Path
    packed: Path | None
    image: npt.NDArray[np.float32]
    export_seconds: float

    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        files = {"fp32": self.fp32, "ours": self.ours, "packed": self.packed, "quantize_static": self.quantize_static}
        return {name: path.stat().st_size for name, path in files.items() if path is not None}


def build(name: str, bits: BitWidths, folder: Path) -> Contestants:
    """Make the files of one network, all from the same weights, in ``folder``.

    Raises:
        UserError: an unknown network, or one that cannot be prepared at these bits.
    """
    torch.manual_seed(0)
    large = name in _LARGE
    network = create_model(name, num_classes=1000 if large else 10)
    images = smooth_images(_BATCH, 224 if large else 32)
    settle(network, images)

    fp32, ours, rival = (folder / f"{name}-{kind}.onnx" for kind in ("fp32", "ours", "static"))
    export_float(network, images, fp32)

    prepared = prepare(network, bits, (images,), input_quantization=(1 / 64, 128))
    initialize(prepared, images)
    prepared.eval()
    started = time.perf_counter()
    export_onnx(prepared, ours)
    export_seconds = time.perf_counter() - started
    packed = None
    if bits.weight <= _PACKED_BITS:
        packed = folder / f"{name}-packed.onnx"
        export_onnx(prepared, packed, weights="packed")

    export_static(fp32, images, rival)
    return Contestants(fp32, ours, rival, packed, images[:1].numpy(), export_seconds)


def smooth_images(count: int, size: int) -> torch.Tensor:
    """Smooth random pictures with some noise, normalised as (pixel - 128) / 64: [count, 3, size, size]."""
    smooth = F.interpolate(torch.rand(count, 3, 6, 6), size=(size, size), mode="bicubic") * 255
    return ((smooth + 12 * torch.randn_like(smooth)).clamp(0, 255).round() - 128) / 64


@torch.no_grad()
def settle(network: nn.Module, images: torch.Tensor) -> None:
    """Give batch norms the statistics of real activations; untouched ones (mean 0, variance 1) would be degenerate."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    network.train()
    for _ in range(_SETTLING_BATCHES):
        network(images[torch.randperm(len(images))] + 0.1 * torch.randn_like(images))
    network.eval()


def export_float(network: nn.Module, images: torch.Tensor, path: Path) -> None:
    """PyTorch's own export: batch norms folded, global pooling as the operator that quantizers know, no annotations."""
    batch = {0: torch.export.Dim("batch")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (images,), path, input_names=["x"], dynamic_shapes=(batch,), external_data=False, verbose=False
        )
    model = onnx.load(path)
    for node in model.graph.node:
        # A mean over height and width runs in float after quantize_static; GlobalAveragePool runs in integers.
        if node.op_type == "ReduceMean":  # over height and width: the networks here have no other
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
        del node.metadata_props[:]  # stack traces, which would flatter the sizes of the others
    used = {name for node in model.graph.node for name in node.input}
    constants = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(constants)
    onnx.save(model, path)


def export_static(fp32: Path, images: torch.Tensor, path: Path) -> None:
    """``quantize_static`` at its best: preprocessed model, uint8 activations, int8 weights per channel."""
    quantize_per_channel(preprocessed(fp32, path.parent), path, images.numpy())
