"""The family "dense" of the conformance suite: networks that answer for every place of an image, and their backbones.

Detectors of torchvision are what they compute between the Python that batches images and the one that picks boxes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from typing import Any

import timm_models
from torch import Tensor, nn

DETECTORS = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large")
"""Detectors of torchvision."""

PYRAMIDS = ("resnet18", "mobilenet_v3_large")
"""Backbones of torchvision's, with its feature pyramid."""

FEATURES = ("resnet18", "mobilenetv3_small_050")
"""Backbones of timm's that return the features of all their stages."""

_FAMILY = (
    *("feature pyramid", "SSD, dictionary of outputs", "center-based detector", "U-Net, *", "HRNet"),
    *("timm: swin_*", "timm: * features", "torchvision: * heads", "torchvision: * pyramid"),
    *("torchvision: lraspp_*", "torchvision: deeplabv3_*", "torchvision: fcn_*"),
    *("transformers: Swin*", "transformers: Yolos*", "transformers: SegformerForSemantic*", "transformers: D*Depth*"),
    *("ultralytics: *n", "ultralytics: *-seg", "ultralytics: *-pose"),
)

_SHAPE = (3, 64, 64)

Case = tuple[str, Callable[[], nn.Module], tuple[int, ...]]


def is_dense(name: str) -> bool:
    """Tell whether a network of the suite belongs to the family."""
    return any(fnmatch(name, pattern) for pattern in _FAMILY)


class Heads(nn.Module):
    """Backbone and heads of a detector."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> Any:
        return self.head([*self.backbone(x).values()])


def cases() -> list[Case]:
    """Name, factory and shape of an input (without the batch) of those that no other list has."""
    if timm_models.missing():
        return []
    detection = importlib.import_module("torchvision").models.detection
    create = importlib.import_module("timm").create_model
    found: list[Case] = [(f"torchvision: {name} heads", partial(_heads, detection, name), _SHAPE) for name in DETECTORS]
    found += [(f"torchvision: {name} pyramid", partial(_pyramid, detection, name), _SHAPE) for name in PYRAMIDS]
    found += [(f"timm: {name} features", partial(create, name, features_only=True), _SHAPE) for name in FEATURES]
    return found


def _heads(detection: Any, name: str) -> nn.Module:
    return Heads(getattr(detection, name)(weights=None, weights_backbone=None, num_classes=10))


def _pyramid(detection: Any, name: str) -> nn.Module:
    utils = detection.backbone_utils
    if name.startswith("resnet"):
        made = utils.resnet_fpn_backbone(backbone_name=name, weights=None)
    else:
        made = utils.mobilenet_backbone(name, weights=None, fpn=True)
    assert isinstance(made, nn.Module)
    return made
