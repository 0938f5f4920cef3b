"""The networks whose training steps are timed: one ResNet in full precision, quantized by us, and by others.

All start from the same weights. The others get our placement: 4-bit weights and inputs of the convolutions; 8 bits for
the first and last layer, the operands of additions and the pooling.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import MovingAverageMinMaxObserver
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

from qkd_deploy import create_model, initialize, prepare
from qkd_deploy.models.blocks import BasicBlock

WEIGHT_BITS = ACTIVATION_BITS = 4
WIDE_BITS = 8
BITS = f"w{WEIGHT_BITS}a{ACTIVATION_BITS}"


@dataclass(frozen=True)
class Kit:
    """How one library writes a layer with quantized weights, a quantized ReLU and a quantizer on its own."""

    layer: Callable[[nn.Module, int], nn.Module]
    relu: Callable[[int], nn.Module]
    signed: Callable[[int], nn.Module]


def networks(name: str, images: Tensor) -> dict[str, nn.Module]:
    """All networks by name, in train mode and ``channels_last``, steps set from ``images``; Brevitas if installed."""
    network = create_model(name, num_classes=10)
    # the images are raw pixels, already on an 8-bit grid: nobody has to quantize them
    ours = prepare(network, BITS, (images[:2],), input_quantization=(1 / 64, 128))
    initialize(ours, images)
    made: dict[str, nn.Module] = {"fp32": network, "qkd_deploy": ours}
    kits = {"torch_learnable": _torch_kit(), "textbook_lsq": _textbook_kit()}
    if brevitas_version() is not None:
        kits["brevitas"] = _brevitas_kit()
    for peer, kit in kits.items():
        made[peer] = quantized(network, kit)
        made[peer].train()(images)  # their steps start from the first batch
        for module in made[peer].modules():
            if isinstance(module, _LearnableFakeQuantize):
                module.enable_param_learning()
    return {key: module.train().to(memory_format=torch.channels_last) for key, module in made.items()}


def brevitas_version() -> str | None:
    """The version of Brevitas, or None where it is not installed."""
    try:
        return version("brevitas")
    except PackageNotFoundError:
        return None


def quantized(network: nn.Module, kit: Kit) -> nn.Module:
    """A copy of a CIFAR ResNet with the modules of ``kit`` in our placement."""
    low, wide = ACTIVATION_BITS, WIDE_BITS
    model = copy.deepcopy(network)
    model.conv1 = kit.layer(model.conv1, wide)
    model.relu = kit.relu(wide)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.downsample is None:  # reads an 8-bit sum: 4 bits for its convolution
            block.conv1 = nn.Sequential(kit.signed(low), kit.layer(block.conv1, WEIGHT_BITS))
        else:
            block.conv1 = kit.layer(block.conv1, WEIGHT_BITS)
            conv, norm = block.downsample
            block.downsample = nn.Sequential(kit.layer(conv, WEIGHT_BITS), norm, kit.signed(wide))
        block.relu1 = kit.relu(low)
        block.conv2 = kit.layer(block.conv2, WEIGHT_BITS)
        block.bn2 = nn.Sequential(block.bn2, kit.signed(wide))
        # a sum that only convolutions read needs no 8 bits
        only_layers = following is not None and following.downsample is not None
        block.relu2 = kit.relu(low if only_layers else wide)
    model.avgpool = nn.Sequential(model.avgpool, kit.signed(wide))
    model.fc = kit.layer(model.fc, wide)
    return model


class _QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weight passes through a quantizer."""

    def __init__(self, layer: nn.Module, quantizer: nn.Module) -> None:
        super().__init__()
        self.layer, self.quantizer = layer, quantizer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.quantizer(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)  # type: ignore[no-any-return, operator]


def _torch_kit() -> Kit:
    """PyTorch's own learnable fake quantizer: one fused kernel forward, one backward."""

    def quantizer(bits: int, signed: bool) -> nn.Module:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return _LearnableFakeQuantize(
            MovingAverageMinMaxObserver,
            low,
            high,
            dtype=torch.qint8 if signed else torch.quint8,
            qscheme=torch.per_tensor_symmetric,
            use_grad_scaling=True,
        )

    return _kit_of(quantizer)


class TextbookLSQ(nn.Module):
    """The pseudo-code of Esser et al. 2020 (arXiv:1902.08153, appendix B), line by line."""

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        self.low, self.high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        self.step = nn.Parameter(torch.tensor(0.0))
        self.started = False

    def forward(self, v: Tensor) -> Tensor:
        """Quantize; the first tensor sets the step."""
        if not self.started:
            self.started = True
            self.step.data.copy_(2 * v.detach().abs().mean() / self.high**0.5)
        scaled = self.step * (v.numel() * self.high) ** -0.5
        step = (self.step - scaled).detach() + scaled
        v = (v / step).clamp(self.low, self.high)
        rounded = (v.round() - v).detach() + v
        return rounded * step


def _textbook_kit() -> Kit:
    return _kit_of(TextbookLSQ)


def _kit_of(quantizer: Callable[[int, bool], nn.Module]) -> Kit:
    return Kit(
        layer=lambda layer, bits: _QuantizedLayer(layer, quantizer(bits, True)),
        relu=lambda bits: nn.Sequential(nn.ReLU(inplace=True), quantizer(bits, False)),
        signed=lambda bits: quantizer(bits, True),
    )


def brevitas_layer(own: nn.Module, bits: int, **options: Any) -> nn.Module:
    """Brevitas' form of a convolution or a linear layer, with its weights; ``options`` as Brevitas takes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brevitas import nn as brevitas  # an optional dependency

    if isinstance(own, nn.Linear):
        made = brevitas.QuantLinear(own.in_features, own.out_features, bias=True, weight_bit_width=bits, **options)
    else:
        assert isinstance(own, nn.Conv2d)
        made = brevitas.QuantConv2d(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            own.stride,
            own.padding,
            bias=False,
            weight_bit_width=bits,
            **options,
        )
    made.load_state_dict(own.state_dict(), strict=False)
    return made  # type: ignore[no-any-return]


def _brevitas_kit() -> Kit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brevitas import nn as brevitas  # an optional dependency

    return Kit(
        layer=brevitas_layer,
        relu=lambda bits: brevitas.QuantReLU(bit_width=bits),
        signed=lambda bits: brevitas.QuantIdentity(bit_width=bits),
    )
