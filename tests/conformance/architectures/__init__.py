"""The architectures of the conformance suite: small definitions in the way in which public code writes them.

Each is narrow and takes small inputs, so that it is prepared, trained for some steps, exported and compared in about a
second; what matters is which operations follow each other, and how they are spelt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from architectures import branches, mobile, plain, residual, spatial, tokens


@dataclass(frozen=True)
class Architecture:
    """One network of the suite.

    Attributes:
        build: makes it with fresh random weights.
        shape: of one input, without the batch.
        floats: operations that stay in float, by the name of the function.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)
    floats: frozenset[str] = frozenset()


_TRANSPOSED = frozenset({"conv_transpose2d"})
_TOKENS = frozenset({"layer_norm"})
_ATTENTION = _TOKENS | {"exponential", "weighted_mean"}

ARCHITECTURES: dict[str, Architecture] = {
    "ResNet, basic blocks": Architecture(residual.resnet),
    "ResNet, bottlenecks": Architecture(residual.resnet_bottleneck),
    "ResNeXt": Architecture(residual.resnext),
    "WideResNet": Architecture(residual.wide_resnet),
    "pre-activation ResNet": Architecture(residual.preactivation_resnet),
    "RegNet-X": Architecture(residual.regnet_x),
    "RegNet-Y": Architecture(residual.regnet_y),
    "RepVGG, training branches": Architecture(residual.repvgg),
    "VGG": Architecture(lambda: plain.Vgg(batch_norm=False)),
    "VGG with batch norms": Architecture(lambda: plain.Vgg(batch_norm=True)),
    "AlexNet": Architecture(plain.alexnet, (3, 64, 64)),
    "NiN": Architecture(plain.NetworkInNetwork),
    "SqueezeNet": Architecture(plain.squeezenet),
    "Darknet, LeakyReLU": Architecture(plain.darknet),
    "PReLU network": Architecture(plain.prelu_network),
    "keyword spotting, 1-D": Architecture(plain.KeywordSpotter, (16, 64)),
    "DenseNet": Architecture(branches.densenet),
    "Inception": Architecture(branches.inception),
    "GhostNet": Architecture(branches.ghostnet),
    "ShuffleNetV2": Architecture(branches.shufflenet_v2),
    "YOLO backbone, SiLU and SPPF": Architecture(branches.yolo_backbone),
    "MobileNetV1": Architecture(mobile.mobilenet_v1),
    "MobileNetV2": Architecture(mobile.mobilenet_v2),
    "MobileNetV3": Architecture(mobile.MobileNetV3),
    "MnasNet": Architecture(mobile.mnasnet),
    "EfficientNet": Architecture(mobile.efficientnet),
    "EfficientNet-Lite": Architecture(mobile.efficientnet_lite),
    "MobileNet, asymmetric padding": Architecture(mobile.same_padded_mobilenet),
    "Xception": Architecture(mobile.xception),
    "U-Net, nearest resize": Architecture(lambda: spatial.UNet(transposed=False)),
    "U-Net, transposed convolutions": Architecture(lambda: spatial.UNet(transposed=True), floats=_TRANSPOSED),
    "HRNet": Architecture(spatial.HRNet),
    "feature pyramid": Architecture(spatial.FeaturePyramid),
    "SSD, dictionary of outputs": Architecture(spatial.SingleShotDetector),
    "center-based detector": Architecture(spatial.CenterHead),
    "autoencoder": Architecture(spatial.Autoencoder, floats=_TRANSPOSED),
    "super-resolution": Architecture(spatial.SuperResolution, (3, 16, 16)),
    "ViT": Architecture(tokens.VisionTransformer, floats=_ATTENTION),
    "DeiT, two tokens": Architecture(tokens.DistilledTransformer, floats=_ATTENTION),
    "MLP-Mixer": Architecture(tokens.Mixer, floats=_TOKENS),
    "ConvNeXt": Architecture(tokens.ConvNext, floats=_TOKENS),
    "Swin": Architecture(tokens.Swin, floats=_ATTENTION),
}
