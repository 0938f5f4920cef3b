"""Quantized ONNX graphs in the exported form, node by node, for tests that need no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from qkd_deploy.export.metadata import Golden, LayerRecord, Metadata, TensorRecord, write_metadata
from qkd_deploy.gate.names import GRAPH, PRODUCER

TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


class GraphBuilder:
    """Appends nodes; every method returns the name of the value it produced."""

    def __init__(self, opset: int = 21) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.tensors: list[TensorRecord] = []
        self.layers: list[LayerRecord] = []

    def input(self, name: str, shape: Sequence[int | str | None], dtype: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, dtype: str = "float32", rank: int | None = None) -> None:
        shape = None if rank is None else ["batch", *[None] * (rank - 1)]
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, inputs: Sequence[str], module: str, *, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{module}.{op.lower()}" + (f"_{i}" if i else "") for i in range(outputs)]
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(op, list(inputs), names, f"{module}/{op}", domain=domain, **attributes))
        return names[0]

    def quantize(
        self, x: str, name: str, scale: float, zero_point: int = 0, hi: int = 255, lo: int = 0, clip: bool | None = None
    ) -> str:
        """Q -> [Clip] -> DQ; ``clip=None`` clips only where the range is narrower than uint8."""
        s, z = self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero_point", zero_point, np.uint8)
        codes = f"{name}.quantized"
        self.nodes.append(helper.make_node("QuantizeLinear", [x, s, z], [codes], f"{name}/QuantizeLinear"))
        if clip or (clip is None and (lo, hi) != (0, 255)):
            bounds = [self.constant(f"{name}.lo", lo, np.uint8), self.constant(f"{name}.hi", hi, np.uint8)]
            self.nodes.append(helper.make_node("Clip", [codes, *bounds], [f"{name}.codes"], f"{name}/Clip"))
            codes = f"{name}.codes"
        bits = int(hi - lo).bit_length()
        record = TensorRecord(name, codes, name, bits, float(np.float32(scale)), int(zero_point), lo, hi)
        self.tensors.append(record)
        return self.dequantize(codes, name)

    def dequantize(self, codes: str, name: str) -> str:
        node = helper.make_node(
            "DequantizeLinear",
            [codes, f"{name}.scale", f"{name}.zero_point"],
            [f"{name}.dequantized"],
            f"{name}/DequantizeLinear",
        )
        self.nodes.append(node)
        return f"{name}.dequantized"

    def weight(self, layer: str, codes: np.ndarray, scale: np.ndarray, packed: int | None = None) -> str:
        """Per-channel int8 weights; ``packed`` (2 or 4 bits) stores INT2/INT4 and an upscale factor of 8."""
        if packed is None:
            stored = self.constant(f"{layer}.weight", codes, np.int8)
        else:
            kind, np_type = (TensorProto.INT4, ml_dtypes.int4) if packed == 4 else (TensorProto.INT2, ml_dtypes.int2)
            name = f"{layer}.weight_packed"
            made = ir.to_proto(ir.tensor(codes.astype(np_type), dtype=ir.DataType(kind), name=name))
            self.constants.append(made)
            cast = self.node("Cast", [name], f"{layer}.packed", to=TensorProto.INT8)
            stored = self.node("Mul", [cast, self.constant(f"{layer}.weight_upscale", 8, np.int8)], f"{layer}.packed")
        parameters = [
            self.constant(f"{layer}.weight_scale", scale),
            self.constant(f"{layer}.weight_zero_point", np.zeros(len(scale)), np.int8),
        ]
        out = f"{layer}.weight_dequantized"
        name = f"{layer}.weight/DequantizeLinear"
        self.nodes.append(helper.make_node("DequantizeLinear", [stored, *parameters], [out], name, axis=0))
        return out

    def bias(self, layer: str, codes: np.ndarray, scale: np.ndarray) -> str:
        parameters = [
            self.constant(f"{layer}.bias", codes, np.int32),
            self.constant(f"{layer}.bias_scale", scale),
            self.constant(f"{layer}.bias_zero_point", np.zeros(len(scale)), np.int32),
        ]
        out = f"{layer}.bias_dequantized"
        name = f"{layer}.bias/DequantizeLinear"
        self.nodes.append(helper.make_node("DequantizeLinear", parameters, [out], name, axis=0))
        return out

    def layer(
        self,
        op: str,
        x: str,
        name: str,
        weights: np.ndarray,
        scale: np.ndarray,
        *,
        input_scale: float | None = None,
        bias: np.ndarray | None = None,
        packed: int | None = None,
        **attributes: Any,
    ) -> str:
        """Conv or Gemm (transB) with per-channel weights and an int32 bias on the grid input_scale * scale."""
        scale = np.asarray(scale, np.float32)
        inputs = [x, self.weight(name, weights, scale, packed)]
        if bias is not None:
            inputs.append(self.bias(name, bias, np.float32(input_scale) * scale))
        if op == "Gemm":
            attributes["transB"] = 1
        self.layers.append(LayerRecord(name, name, op, 8, 8, 1, f"QLinear{op}"))
        return self.node(op, inputs, name, **attributes)

    def build(self, golden: Golden | None = None, metadata: bool = True) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, GRAPH, self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid("com.microsoft", 1)] if any(n.domain for n in self.nodes) else []
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name=PRODUCER)
        if metadata:
            tables = {"tensors": tuple(self.tensors), "layers": tuple(self.layers)}
            write_metadata(model, Metadata("0.0", "w8a8", "integer", golden=golden, **tables))
        return model
