"""The built-in classifiers by name: a new family is a file beside this one and rows here."""

from __future__ import annotations

from functools import partial

from qkd_deploy.factory import Factory
from qkd_deploy.models.blocks import BasicBlock, Bottleneck
from qkd_deploy.models.cifar_resnet import CifarResNet
from qkd_deploy.models.efficientnet import EfficientNet
from qkd_deploy.models.imagenet_resnet import ImageNetResNet
from qkd_deploy.models.mobilenetv2 import MobileNetV2
from qkd_deploy.models.plaincnn import PlainCnn
from qkd_deploy.models.vision_transformer import VisionTransformer

CLASSIFIERS: dict[str, Factory] = {
    "plaincnn": PlainCnn,
    "resnet8": partial(CifarResNet, 1),
    "resnet20": partial(CifarResNet, 3),
    "resnet32": partial(CifarResNet, 5),
    "resnet56": partial(CifarResNet, 9),
    "resnet10": partial(ImageNetResNet, BasicBlock, (1, 1, 1, 1)),
    "resnet18": partial(ImageNetResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ImageNetResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ImageNetResNet, Bottleneck, (3, 4, 6, 3)),
    "mobilenetv2": MobileNetV2,
    "efficientnet_b0": partial(EfficientNet, False),
    "efficientnet_lite0": partial(EfficientNet, True),
    "vit_tiny": VisionTransformer,
    "deit_tiny": VisionTransformer,
}
