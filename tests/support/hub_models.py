"""Small networks of torchvision, of Hugging Face's transformers and of ultralytics, for the full conformance suite.

None is a dependency; ``make conformance`` installs them beside timm (see ``timm_models``, which says how torchvision
comes to be imported). Weights are random, so that nothing is downloaded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import timm_models
from torch import nn

_PIXELS = 64

TORCHVISION: dict[str, dict[str, Any]] = {
    "convnext_tiny": {},
    "densenet121": {},
    "mnasnet0_5": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "regnet_x_400mf": {},
    "regnet_y_400mf": {},
    "resnet18": {},
    "resnext50_32x4d": {},
    "shufflenet_v2_x0_5": {},
    "swin_t": {},
    "vit_b_16": {"image_size": _PIXELS},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "fcn_resnet50": {"weights_backbone": None},
}
"""Classifiers and segmentation of torchvision, with further arguments."""

_SMALL_VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": _PIXELS,
    "patch_size": 8,
}
_CLASSES = {"num_labels": 10}
_FOUR_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_SMALL_SWIN = {"image_size": _PIXELS, "window_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
_HEADS = {"num_attention_heads": [1, 2, 3, 4]}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": _SMALL_VIT | _CLASSES,
    "DeiTForImageClassification": _SMALL_VIT | _CLASSES,
    "BeitForImageClassification": _SMALL_VIT | _CLASSES,
    "Dinov2ForImageClassification": _SMALL_VIT | _CLASSES,
    "Dinov2WithRegistersForImageClassification": _SMALL_VIT | _CLASSES,
    "DINOv3ViTModel": _SMALL_VIT,
    "IJepaForImageClassification": _SMALL_VIT | _CLASSES,
    "CLIPVisionModel": _SMALL_VIT,
    "SiglipVisionModel": _SMALL_VIT,
    "YolosForObjectDetection": _SMALL_VIT | {"image_size": [_PIXELS] * 2, "num_detection_tokens": 10},
    "ConvNextForImageClassification": _FOUR_STAGES | _CLASSES,
    "ConvNextV2ForImageClassification": _FOUR_STAGES | _CLASSES,
    "ResNetForImageClassification": _FOUR_STAGES | _CLASSES | {"embedding_size": 16},
    "RegNetForImageClassification": _FOUR_STAGES | _CLASSES | {"embedding_size": 16, "groups_width": 8},
    "BitForImageClassification": _FOUR_STAGES | _CLASSES | {"embedding_size": 16, "num_groups": 2},
    "MobileNetV1ForImageClassification": _CLASSES | {"depth_multiplier": 0.25},
    "MobileNetV2ForImageClassification": _CLASSES | {"depth_multiplier": 0.35},
    "MobileViTForImageClassification": _CLASSES | {"hidden_sizes": [32, 48, 64], "image_size": 256},
    "SegformerForImageClassification": _FOUR_STAGES | _HEADS | _CLASSES,
    "SwinForImageClassification": _CLASSES | _SMALL_SWIN,
    "DPTForDepthEstimation": _SMALL_VIT
    | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 32]}
    | {"fusion_hidden_size": 16, "is_hybrid": False},
    "SegformerForSemanticSegmentation": _FOUR_STAGES | _HEADS | _CLASSES | {"decoder_hidden_size": 32},
    "PoolFormerForImageClassification": _FOUR_STAGES | _CLASSES,
    "PvtForImageClassification": _FOUR_STAGES | _HEADS | _CLASSES | {"image_size": _PIXELS},
    "PvtV2ForImageClassification": _FOUR_STAGES | _HEADS | _CLASSES | {"image_size": _PIXELS},
    "FocalNetForImageClassification": _CLASSES | {"image_size": _PIXELS, "embed_dim": 32, "depths": [1, 1, 1, 1]},
    "HieraForImageClassification": _CLASSES
    | {"image_size": [_PIXELS] * 2, "embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    "TextNetForImageClassification": _CLASSES,
    "ASTForAudioClassification": _SMALL_VIT | _CLASSES | {"max_length": 64, "num_mel_bins": 32, "shape": (64, 32)},
}
"""Classes of transformers', with the fields of their configurations; ``shape`` is that of an input."""

ULTRALYTICS: dict[str, str] = {
    "yolov5n": "DetectionModel",
    "yolov8n": "DetectionModel",
    "yolov10n": "DetectionModel",
    "yolo11n": "DetectionModel",
    "yolo12n": "DetectionModel",
    "yolo26n": "DetectionModel",
    "yolov8n-seg": "SegmentationModel",
    "yolo11n-pose": "PoseModel",
    "yolo11n-cls": "ClassificationModel",
}
"""Configurations of ultralytics', with the class that builds each."""

Case = tuple[str, Callable[[], nn.Module], tuple[int, ...]]


def cases() -> list[Case]:
    """Name, factory and shape of an input (without the batch) of every network that can be had here."""
    found: list[Case] = []
    if not timm_models.missing():
        models = importlib.import_module("torchvision").models
        for name in TORCHVISION:
            found.append((f"torchvision: {name}", _torchvision(models, name), _image(_PIXELS)))
        try:
            transformers = importlib.import_module("transformers")
        except ImportError:
            return found
        for name, options in TRANSFORMERS.items():
            shape = options.get("shape") or _image(256 if options.get("image_size") == 256 else _PIXELS)
            found.append((f"transformers: {name}", _transformers(transformers, name), shape))
        found += [(f"ultralytics: {name}", build, _image(_PIXELS)) for name, build in ultralytics_models().items()]
    return found


def ultralytics_models() -> dict[str, Callable[[], nn.Module]]:
    """Factories by name; none where the library does not import."""
    os.environ.update(YOLO_OFFLINE="True", YOLO_VERBOSE="False")
    if timm_models.missing():  # which says how torchvision comes to be imported
        return {}
    try:
        tasks = importlib.import_module("ultralytics.nn.tasks")
    except ImportError:
        return {}
    return {name: partial(getattr(tasks, kind), f"{name}.yaml", verbose=False) for name, kind in ULTRALYTICS.items()}


def _image(pixels: int) -> tuple[int, ...]:
    return 3, pixels, pixels


def _torchvision(models: Any, name: str) -> Callable[[], nn.Module]:
    place = models if hasattr(models, name) else models.segmentation
    return lambda: getattr(place, name)(weights=None, num_classes=10, **TORCHVISION[name])  # type: ignore[no-any-return]


def _transformers(transformers: Any, name: str) -> Callable[[], nn.Module]:
    options = {key: value for key, value in TRANSFORMERS[name].items() if key != "shape"}
    network = getattr(transformers, name)
    return lambda: network(network.config_class(**options))  # type: ignore[no-any-return]
