"""One network at one width: train, freeze, export, and compare every code; what came out, as plain data."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from speed import speed_over_fp32
from structured_data import samples, train, vary
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.graph.integer.cut import front_of
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.passes.batch_norms_as_depthwise import is_channel_identity
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.runtime import CodesModel, optimized_graph, quantized_values

_TEST_IMAGES, _SEED = 3, 1000
WIDTHS = ("w8a8", "w4a4", "w2a4")

Codes = dict[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Trial:
    """A network in all its forms; where a tail is cut off, ``frozen`` is the integer part of it."""

    float_model: nn.Module
    prepared: PreparedModel
    frozen: FrozenModel
    model: onnx.ModelProto
    values: dict[str, str]
    """For every quantized tensor, the ONNX value that holds its codes."""


@dataclass
class Comparison:
    """Codes and outputs of the frozen model, ONNX Runtime and the NumPy reference on the same inputs.

    What an operation in float had a part in is counted on its own: there, a rounding may flip a code.

    Attributes:
        compared: codes (and values of outputs) that integers alone made.
        differing: those of them that are not equal everywhere.
        behind_float: codes that a float operation had a part in.
        differing_behind_float: those of them that are not equal in frozen model and runtime.
        first: the first tensor with a difference, "" if none.
    """

    compared: int = 0
    differing: int = 0
    behind_float: int = 0
    differing_behind_float: int = 0
    first: str = ""


def deploy(build: Callable[[], nn.Module], shape: tuple[int, ...], bits: str, seed: int = 0) -> Trial:
    """Train a fresh network of the weights that ``seed`` draws, in float and with quantizers, and export it."""
    torch.manual_seed(seed)
    network = build()
    vary(network)
    train(network, shape, seed=0)
    inputs, _ = samples(shape, 16, seed=100)
    prepared = prepare(network.eval(), bits, (inputs[:2],))
    initialize(prepared, inputs)
    train(prepared, shape, seed=200)
    frozen = freeze(prepared.eval())
    model, built = build_model(frozen)
    return Trial(network, prepared, front_of(frozen), model, {tensor.name: tensor.value for tensor in built.tensors})


@torch.no_grad()
def compare(trial: Trial, shape: tuple[int, ...]) -> Comparison:
    """All codes and outputs on some inputs, with one thread and with two."""
    inputs, _ = samples(shape, _TEST_IMAGES, _SEED)
    feeds = {trial.model.graph.input[0].name: inputs.numpy()}
    reference = ReferenceModel(trial.model).run(feeds)
    codes, expected = trial.frozen.codes(inputs), flat_tensors(trial.frozen(inputs))
    found = Comparison()
    for threads in (1, 2):
        outputs, runtime = CodesModel(trial.model, threads, quantized_values(trial.model, trial.values.values())).run(
            feeds
        )
        for tensor, frozen in codes.items():
            value = trial.values[tensor]
            if value not in runtime:  # the rewrite of a first layer moves its input's codes before they are read
                assert tensor in trial.frozen.graph.inputs, tensor
            else:
                after = value in reference.after_float
                _count(found, tensor, after, frozen, runtime[value], None if after else reference.codes[value])
        for (name, got), output in zip(outputs.items(), expected, strict=True):
            if name not in reference.after_float:
                _count(found, name, False, output.numpy(), got, reference.outputs[name])
    return found


def _count(found: Comparison, name: str, after_float: bool, frozen: Any, runtime: Any, reference: Any) -> None:
    differs = frozen != runtime
    if after_float:
        found.behind_float += frozen.size
        found.differing_behind_float += int(differs.sum())
        return
    differs = differs | (frozen != reference)
    found.compared += frozen.size
    found.differing += int(differs.sum())
    found.first = found.first or (name if differs.any() else "")


def liveness(trial: Trial, shape: tuple[int, ...]) -> tuple[float, list[str]]:
    """Share of the codes that differ between two inputs, and tensors of which none does ("dead")."""
    (first, second), _ = samples(shape, 2, _SEED + 1)
    one, two = trial.frozen.codes(first[None]), trial.frozen.codes(second[None])
    depending = set(trial.frozen.graph.inputs)
    for node in trial.frozen.graph.nodes:
        if node.kind != "scalar" and depending & set(node.inputs):  # a size is the same for both
            depending.add(node.name)
    moved = {name: one[name] != two[name] for name in one if name in depending}
    share = sum(int(m.sum()) for m in moved.values()) / max(1, sum(m.size for m in moved.values()))
    return share, [name for name, m in moved.items() if not m.any()]


def floats(prepared: PreparedModel) -> dict[str, str]:
    """What stays in float, with the reason, by the name of the function: ``layer_norm``, also for ``nn.LayerNorm``."""
    found: dict[str, str] = {}
    for entry in prepared.account.floats:
        target = prepared.graph.node(entry.name).target
        if isinstance(target, str) and not prepared.graph.node(entry.name).method:
            name = type(prepared.network.get_submodule(target)).__name__
        else:
            name = target if isinstance(target, str) else getattr(target, "__name__", entry.operation)
        found[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()] = entry.reason
    return found


def float_kernels(trial: Trial) -> Counter[str]:
    """Kernels of the graph that ONNX Runtime really built that compute in float."""
    kernels = list_kernels(trial.model, optimized_graph(trial.model), read_metadata(trial.model))
    return Counter(kernel.op for kernel in kernels if not kernel.integer)


@torch.no_grad()
def integer_macs(trial: Trial, shape: tuple[int, ...]) -> float:
    """Share of the multiplications and additions that layers and products in integers do, of all that are done.

    Convolutions that stand for batch norms or averages are no part of the network's own. The sums of a weighted mean
    are integers, though it divides them in float.
    """
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernel of CPUs is not counted
        trial.prepared.eval()(torch.zeros(2, *shape))
    total = counter.get_total_flops() // 2
    left_in_float = {e.name for e in trial.prepared.account.floats if e.operation != "weighted_mean"}
    integer = 0
    for node in trial.prepared.graph.nodes:
        sums_products = node.is_layer or operator_of(node).sums_products
        if not sums_products or node.name in left_in_float or node.shape is None:
            continue
        depth = (trial.prepared.graph.node(node.inputs[0]).shape or (0,))[-1]
        if node.is_layer:
            layer = trial.prepared.network.get_submodule(str(node.target))
            assert isinstance(layer.weight, Tensor)
            depth = layer.weight[0].numel()
            if is_channel_identity(layer):
                total -= int(np.prod(node.shape))
                continue
        integer += int(np.prod(node.shape)) * depth
    return integer / total


def row(
    name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], bits: str, rounds: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Everything about one network at one width; its speed where ``rounds`` samples of it are wanted."""
    started = time.perf_counter()
    trial = deploy(build, shape, bits, seed)
    comparison = compare(trial, shape)
    moving, dead = liveness(trial, shape)
    speed = speed_over_fp32(trial.float_model, trial.model, shape, rounds) if rounds else None
    return {
        "network": name,
        "bits": bits,
        "seed": seed,
        "floats": floats(trial.prepared),
        "float_kernels": dict(float_kernels(trial)),
        **vars(comparison),
        "integer_macs": round(integer_macs(trial, shape), 4),
        "moving": round(moving, 3),
        "dead": dead,
        "speed_over_fp32": speed and round(speed, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }
