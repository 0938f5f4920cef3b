"""The files of the exactness table: every built-in network after a few training steps, with what it should compute."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import exactness_gallery
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy import RelativeAdam, create_model, freeze, initialize, load_dataset, parameter_groups, prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.models.classifiers import CLASSIFIERS
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.runtime import quantized_values

_CLASSES, _BATCH, _STEPS, _LEARNING_RATE = 10, 16, 4, 0.001
_SMALL, _LARGE = 32, 64  # pixels: networks for CIFAR, and all others
_PACKED_BITS = 4
_FOR_CIFAR = ("plaincnn", "resnet8", "resnet20", "resnet32", "resnet56")


@dataclass(frozen=True)
class File:
    """One exported file and where its expected results lie.

    Attributes:
        folder: holds ``model.onnx``, ``codes.onnx`` and ``expected.npz``.
        model, bits, weights, weight_range: what it was made from.
        shape: of the inputs.
        operators: for everything compared, in graph order, its module and the operator that computes it. Names are
            those of ``expected.npz``.
        after_float: the ONNX values that an operator in float has a part in.
        codes: number of codes compared, those behind float operators left out.
        loose: number of codes behind float operators.
    """

    folder: Path
    model: str
    bits: str
    weights: str
    weight_range: str
    shape: tuple[int, ...]
    operators: dict[str, tuple[str, str]]
    after_float: frozenset[str]
    codes: int
    loose: int


def network_names() -> list[str]:
    """All networks of the table."""
    return [*CLASSIFIERS, exactness_gallery.NAME]


def build_files(name: str, variants: list[tuple[str, str]], images: int, folder: Path) -> Iterator[File]:
    """Train one network a little in float, then at each (bits, weight range), and write its files.

    Raises:
        UserError: an unknown network, or one that cannot be prepared or exported.
    """
    network, size = _network(name)
    pictures, labels = _pictures(_BATCH + images, size)
    _train(network, [torch.optim.SGD(network.parameters(), _LEARNING_RATE)], pictures[images:], labels[images:])
    for bits, weight_range in variants:
        prepared = prepare(
            network.eval(), bits, (pictures[images:],), input_quantization=(1 / 64, 128), weight_range=weight_range
        )
        initialize(prepared, pictures[images:])
        groups = parameter_groups(prepared, lr=_LEARNING_RATE, weight_decay=0.0)
        optimizers = [torch.optim.SGD(groups.weights), RelativeAdam(groups.steps)]
        _train(prepared, optimizers, pictures[images:], labels[images:])
        frozen = freeze(prepared.eval())
        low = int(bits[1 : bits.index("a")]) <= _PACKED_BITS
        for weights in ("int8", "packed") if low else ("int8",):
            target = folder / "-".join((name, bits, weight_range, weights))
            yield _write(target, frozen, pictures[:images], (name, bits, weights, weight_range))


def _network(name: str) -> tuple[nn.Module, int]:
    """A network with batch norms whose gammas and betas are not those of a fresh one, and its image size."""
    if name not in network_names():
        raise UserError(f"unknown model {name!r}; choose some of {', '.join(network_names())}")
    torch.manual_seed(0)
    size = _SMALL if name in _FOR_CIFAR else _LARGE
    if name == exactness_gallery.NAME:
        network: nn.Module = exactness_gallery.Gallery(_CLASSES, size)
    else:
        sized = "image_size" in inspect.signature(CLASSIFIERS[name]).parameters
        network = create_model(name, _CLASSES, args={"image_size": size} if sized else None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            module.weight.data[::5] *= -1
    return network, size


def _pictures(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits, enlarged, in three colours of their own: floats (pixel - 128) / 64, and their labels."""
    split = load_dataset("digits").train
    assert isinstance(split.images, torch.Tensor)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))[:count]
    grey = F.interpolate(split.images[chosen].float(), size=(size, size), mode="bicubic")
    colours = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(2))[..., None, None]
    pixels = (grey * (0.5 + 0.5 * colours[:, :, 0]) + 60 * colours[:, :, 1]).clamp(0, 255).round()
    return (pixels - 128) / 64, split.labels[chosen]


def _train(
    network: nn.Module, optimizers: list[torch.optim.Optimizer], images: torch.Tensor, labels: torch.Tensor
) -> None:
    network.train()
    for _ in range(_STEPS):
        loss = F.cross_entropy(network(images), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def _write(folder: Path, frozen: FrozenModel, images: torch.Tensor, names: tuple[str, str, str, str]) -> File:
    exported, built = build_model(frozen, weights=names[2])
    tensors = {tensor.value for tensor in built.tensors}
    kinds = {value: kind for value, kind in quantized_values(exported, tensors).items() if value in tensors}
    by_name = {tensor.name: tensor.value for tensor in built.tensors}
    codes = {by_name[name]: array for name, array in frozen.codes(images).items() if by_name[name] in kinds}
    feeds = {exported.graph.input[0].name: images.numpy()}
    outputs = dict(zip((o.name for o in exported.graph.output), flat_tensors(frozen(images)), strict=True))
    after_float = ReferenceModel(exported).run(feeds, continue_with=codes).after_float
    folder.mkdir()
    (folder / "model.onnx").write_bytes(exported.SerializeToString())
    named = [("feed", feeds), ("code", codes), ("output", {name: t.numpy() for name, t in outputs.items()})]
    np.savez(folder / "expected.npz", **{f"{kind}:{name}": a for kind, table in named for name, a in table.items()})
    metadata = read_metadata(exported)
    operators = {
        f"{kind}:{name}": _computed_by(exported, metadata, name)
        for kind, names in (("code", kinds), ("output", outputs))
        for name in names
    }
    (folder / "codes.onnx").write_bytes(_with_outputs(exported, kinds).SerializeToString())
    loose = sum(array.size for value, array in codes.items() if value in after_float)
    exact = sum(array.size for array in codes.values()) - loose
    assert codes.keys() == kinds.keys(), f"{folder.name}: no codes of {kinds.keys() ^ codes.keys()}"
    return File(folder, *names, tuple(images.shape), operators, frozenset(after_float), exact, loose)


def _with_outputs(exported: onnx.ModelProto, kinds: dict[str, int]) -> onnx.ModelProto:
    extended = onnx.ModelProto()
    extended.CopyFrom(exported)
    known = {output.name for output in exported.graph.output}
    for name, kind in kinds.items():
        if name not in known:
            extended.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return extended


def _computed_by(model: onnx.ModelProto, metadata: Metadata, value: str) -> tuple[str, str]:
    """Module and operator that a tensor is the result of: for codes, what their QuantizeLinear reads."""
    producers = {name: node for node in model.graph.node for name in node.output}
    module, node = metadata.module_of(value), producers.get(value)
    while node is not None and node.op_type in ("Clip", "QuantizeLinear", "Reshape", "Identity"):
        node = producers.get(node.input[0])
    return module, node.op_type if node is not None else "QuantizeLinear"
