"""Takes a small network all the way to ONNX Runtime and demands equality in every code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.runtimes.cpu import cpu_capabilities
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.runtime import CodesModel, optimized_graph, quantized_values

_CPU = cpu_capabilities()
SATURATES = bool(_CPU.get("avx2", False) and not _CPU["vnni"])
"""8-bit weights beyond +-64 are wrong on this CPU, whatever computes the file."""

INTEGER_KERNELS = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "QLinearAdd",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QLinearLeakyRelu",
    "Resize",
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "GatherElements",
    "ReduceMax",
    "ReduceMin",
    "QLinearConcat",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "Slice",
    "ScatterElements",
    "Shape",
    "Split",
    "Squeeze",
    "Tile",
    "MaxPool",
    "NhwcMaxPool",
    "Clip",
    "Pad",
    "Reshape",
    "Transpose",
    "Identity",
    "QuantizeLinear",
    "DequantizeLinear",
}


@dataclass(frozen=True)
class Deployed:
    """One network in all its forms."""

    prepared: PreparedModel
    frozen: FrozenModel
    model: onnx.ModelProto
    values: dict[str, str]
    """For every quantized tensor, the ONNX value that holds its codes."""


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Reproducible normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics, gammas (negative ones too) and betas as after some training; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.3)
            if module.affine:
                module.weight.data.copy_(torch.randn(module.num_features, generator=generator) * 0.5 + 0.8)
                module.weight.data[::3] *= -1
                module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
    return model.eval()


def deploy(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    bits: str = "w4a4",
    *,
    weights: str = "int8",
    method: str = "mse",
    **options: Any,
) -> Deployed:
    """Prepare, initialise on the inputs, freeze and emit."""
    prepared = prepare(model, bits, inputs, **options)
    initialize(prepared, *inputs, method=method)
    return finish(prepared, weights=weights)


def finish(prepared: PreparedModel, *, weights: str = "int8") -> Deployed:
    """Freeze and emit a prepared model whose steps are set."""
    frozen = freeze(prepared)
    return emitted(prepared, frozen, weights=weights)


def emitted(prepared: PreparedModel, frozen: FrozenModel, **options: Any) -> Deployed:
    """The ONNX model of a frozen one; options are those of ``export_onnx``."""
    model, built = build_model(frozen, **options)
    return Deployed(prepared, frozen, model, {tensor.name: tensor.value for tensor in built.tensors})


def feeds_of(model: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """Inputs by name."""
    return {value.name: tensor.numpy() for value, tensor in zip(model.graph.input, inputs, strict=True)}


def assert_same_codes(deployed: Deployed, inputs: tuple[Tensor, ...], *, threads: int = 1) -> set[str]:
    """Frozen model == ONNX Runtime == reference in every code and output that no float operation had a part in.

    Returns the names of the values that one had a part in; those are compared within a few codes.
    """
    frozen, model, values = deployed.frozen, deployed.model, deployed.values
    feeds = feeds_of(model, inputs)
    outputs, runtime = CodesModel(model, threads, quantized_values(model, values.values())).run(feeds)
    reference = ReferenceModel(model).run(feeds)
    codes = frozen.codes(*inputs)
    assert codes or not runtime
    for tensor, expected in codes.items():
        value = values[tensor]
        if value not in runtime:
            continue  # the rewrite of a first layer moves the codes of its input before they are dequantized
        if value in reference.after_float:
            apart = np.abs(runtime[value].astype(int) - expected.astype(int))
            assert (apart > 0).mean() < 0.02, f"{tensor}: {(apart > 0).mean():.1%} of the codes differ"
            continue
        np.testing.assert_array_equal(runtime[value], expected, err_msg=f"{tensor}: runtime and frozen model")
        np.testing.assert_array_equal(reference.codes[value], expected, err_msg=f"{tensor}: reference and frozen model")
    assert {tensor for tensor in codes if values[tensor] not in runtime} <= set(frozen.graph.inputs)
    for (name, got), expected_output in zip(outputs.items(), flat_tensors(frozen(*inputs)), strict=True):
        if name in reference.after_float:
            scale = float(expected_output.abs().max()) + 1e-6
            np.testing.assert_allclose(got, expected_output.numpy(), atol=0.1 * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(got, expected_output.numpy(), err_msg=name)
            np.testing.assert_array_equal(reference.outputs[name], got, err_msg=name)
    return reference.after_float


def float_operations(model: onnx.ModelProto) -> list[str]:
    """Operators of ONNX Runtime's optimized graph that compute in float; empty for a fully integer network."""
    graph = optimized_graph(model).graph
    ends = {value.name for value in (*graph.input, *graph.output)}
    integers = {t.name for t in graph.initializer}
    converted = {name for node in graph.node if node.op_type == "Cast" for name in node.output}
    found = []
    for node in graph.node:
        # codes become signed bytes by way of int32
        signed = node.op_type == "Sub" and node.name.endswith(".right/Sub") and node.input[0] in converted
        if node.op_type not in INTEGER_KERNELS and not signed:
            found.append(f"{node.name} ({node.op_type})")
        # float tensors exist at the ends of the graph only
        elif node.op_type == "QuantizeLinear" and node.input[0] not in ends | integers:
            found.append(f"{node.name} reads a computed float")
        elif node.op_type == "DequantizeLinear" and node.output[0] not in ends:
            found.append(f"{node.name} feeds a float operation")
    return found
