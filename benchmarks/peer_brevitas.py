"""Train a CIFAR ResNet in Brevitas from converged weights, and export it to QCDQ for ``benchmarks/peers.py``.

    python benchmarks/peer_brevitas.py cifar10-resnet20.pt DATA --bits 4 --epochs 10 --folder brevitas-w4a4

Our placement: first and last layer 8 bits, sums and the pooled features 8 bits, scales of weights per channel and
learned steps of activations. Labels, crops and flips, SGD with a cosine, as our own ``qat`` has them; the learning rate
is an option. Each epoch is a checkpoint in the folder; the same command goes on from it, and ends with ``model.onnx``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretrained_networks import NETWORKS
from torch import Tensor, nn
from training_peers import brevitas_layer

from qkd_deploy.atomic import atomic_write
from qkd_deploy.data import normalize
from qkd_deploy.data.sets.cifar import cifar10
from qkd_deploy.pixels.normalization import Normalization

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas import nn as qnn  # an optional dependency
    from brevitas.export import export_onnx_qcdq
    from brevitas.quant import Int8WeightPerChannelFloat

_BATCH, _MOMENTUM, _WEIGHT_DECAY, _WIDE = 128, 0.9, 1e-4, 8
_NORMALIZATION = Normalization.parse("imagenet")


class Block(nn.Module):
    """A block of ``cifar_resnet_a`` with quantizers; both operands of the sum share one."""

    def __init__(self, own: Any, bits: int, out_bits: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _layer(own.conv1, bits), own.bn1, qnn.QuantReLU(bit_width=bits)
        self.conv2, self.bn2 = _layer(own.conv2, bits), own.bn2
        self.input = qnn.QuantIdentity(bit_width=bits)
        self.operand = qnn.QuantIdentity(bit_width=_WIDE)
        self.relu2, self._new = qnn.QuantReLU(bit_width=out_bits), own._new

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to float [N, in_width, H, W]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(self.input(x))))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._new, self._new)) if self._new else x
        return self.relu2(self.operand(y) + self.operand(shortcut))  # type: ignore[no-any-return]


class Quantized(nn.Module):
    """A ResNet of ``cifar_resnet_a`` in Brevitas's layers."""

    def __init__(self, own: Any, bits: int) -> None:
        super().__init__()
        self.image = qnn.QuantIdentity(bit_width=_WIDE)
        self.conv1, self.bn1, self.relu = _layer(own.conv1, _WIDE), own.bn1, qnn.QuantReLU(bit_width=_WIDE)
        blocks = [*own.layer1, *own.layer2, *own.layer3]
        self.blocks = nn.Sequential(*(Block(block, bits, _WIDE) for block in blocks))
        self.pooled = qnn.QuantIdentity(bit_width=_WIDE)
        self.linear = _layer(own.linear, _WIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        x = self.blocks(self.relu(self.bn1(self.conv1(self.image(x)))))
        return self.linear(torch.flatten(self.pooled(F.adaptive_avg_pool2d(x, 1)), 1))  # type: ignore[no-any-return]


def _layer(own: nn.Module, bits: int) -> nn.Module:
    return brevitas_layer(own, bits, weight_quant=Int8WeightPerChannelFloat)


def train(network: nn.Module, options: argparse.Namespace) -> None:
    """Train for the epochs that the folder has no checkpoint of; each writes one."""
    data = cifar10(options.data)
    images, labels = data.train.images[: options.limit], data.train.labels[: options.limit]
    batches = len(images) // _BATCH
    optimizer = torch.optim.SGD(network.parameters(), options.lr, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * batches)
    stateful, saved = {"network": network, "optimizer": optimizer, "schedule": schedule}, options.folder / "last.pt"
    started = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        started = state["epoch"]
        for name, part in stateful.items():
            part.load_state_dict(state[name])
    for epoch in range(started, options.epochs):
        torch.manual_seed(options.seed + epoch)
        for chosen in torch.randperm(len(images))[: batches * _BATCH].split(_BATCH):
            loss = F.cross_entropy(network.train()(changed(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss of the last batch {float(loss):.4f}", flush=True)
        with atomic_write(saved) as temporary:
            torch.save({name: part.state_dict() for name, part in stateful.items()} | {"epoch": epoch + 1}, temporary)


def changed(images: Tensor) -> Tensor:
    """Crop and flip at random uint8 [N, 3, 32, 32], filled with the mean, and normalise."""
    padded = F.pad(normalize(images, _NORMALIZATION), (4, 4, 4, 4))
    top, left = torch.randint(9, (2, len(images), 1, 1))
    steps = torch.arange(32)
    steps_x = torch.where(torch.rand(len(images), 1, 1) < 0.5, steps.flip(0), steps)
    rows, columns = top + steps[:, None], left + steps_x
    return padded[torch.arange(len(images))[:, None, None], :, rows, columns].permute(0, 3, 1, 2).contiguous()


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on so many images only, to try the command")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    network = Quantized(NETWORKS["resnet20"].network(options.weights), options.bits)
    train(network, options)
    example = torch.zeros(1, 3, 32, 32)
    shapes = {"dynamic_axes": {"x": {0: "batch"}}, "input_names": ["x"]}
    export_onnx_qcdq(network.eval(), example, str(options.folder / "model.onnx"), dynamo=False, **shapes)
    record = {name: str(value) for name, value in vars(options).items()}
    (options.folder / "settings.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
