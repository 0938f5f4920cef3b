"""Small networks of timm, for the conformance suite.

timm is no dependency, and it imports torchvision, which does not import beside a PyTorch of another build unless its
C++ operators are declared first. Both are also looked for in a folder of their own, which the variable below names and
``make conformance`` fills, so that a torchvision that is half there does not disturb other packages.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

FOLDER_VARIABLE = "QKD_DEPLOY_TIMM"

MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnext26ts": {},
    "seresnet18": {},
    "mobilenetv1_100": {},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "mnasnet_small": {},
    "hardcorenas_a": {},
    "efficientnet_b0": {},
    "efficientnet_lite0": {},
    "tf_efficientnet_b0": {},
    "fbnetc_100": {},
    "regnetx_002": {},
    "regnety_002": {},
    "ghostnet_050": {},
    "repvgg_a0": {},
    "densenet121": {},
    "dla34": {},
    "hrnet_w18_small": {},
    "inception_v3": {"pixels": 96},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
    "mixer_s32_224": {"img_size": 64},
    "levit_128s": {"pixels": 224},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
}
"""Names of timm's, with further arguments; ``pixels`` (64 unless given) is the size of the images."""

_OPERATORS = ("nms", "qnms")
"""Operators whose shapes torchvision describes when it is imported."""

_declared: list[torch.library.Library] = []


def missing() -> str:
    """Why timm cannot be used here, or "" where it can."""
    folder = str(Path(os.environ[FOLDER_VARIABLE]).resolve()) if FOLDER_VARIABLE in os.environ else ""
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        _declare_operators()
        importlib.import_module("timm")
    except (ImportError, RuntimeError, AttributeError) as error:  # a mismatched build raises any of these
        return f"timm does not import ({type(error).__name__}: {error}); make conformance installs it"
    return ""


def build(name: str) -> nn.Module:
    """One of ``MODELS`` with ten classes and fresh random weights."""
    options = {key: value for key, value in MODELS[name].items() if key != "pixels"}
    model = importlib.import_module("timm").create_model(name, num_classes=10, **options)
    assert isinstance(model, nn.Module)
    return model


def input_shape(name: str) -> tuple[int, ...]:
    """Shape of one of its inputs, without the batch."""
    pixels = MODELS[name].get("pixels", 64)
    return 3, pixels, pixels


def _declare_operators() -> None:
    """Declare what torchvision's own libraries would, if they have not."""
    if _declared or hasattr(torch.ops.torchvision, _OPERATORS[0]):
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in _OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
