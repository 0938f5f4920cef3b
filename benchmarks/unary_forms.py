"""Forms of an activation function between two quantizers: nanoseconds per element in ONNX Runtime.

    python benchmarks/unary_forms.py --rounds 30 --json results.json

A function of 8-bit codes is a table of 256 entries. ONNX Runtime has look-up kernels for a few functions,
GatherElements looks up any table, and other functions are computed in float between a DequantizeLinear and a
QuantizeLinear. All forms are timed in turns and in random order, on one thread and in CPU time, so that a busy machine
disturbs them little and all alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from provenance import provenance
from rich.console import Console
from rich.table import Table

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.runtimes.ort import session_options
from qkd_deploy.verification.runtime import optimized_graph

SHAPES = {"96x56x56": (1, 96, 56, 56), "197x768": (1, 197, 768)}
FLOAT_FORMS = ("Gelu", "Erf", "HardSwish", "HardSigmoid", "Softplus", "Tanh", "Elu", "Mish", "Softmax")
_OPSET = 21


class Graph:
    """A graph from uint8 codes ``x`` (scale 0.05, zero point 128) to uint8 codes, node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, kind: Any) -> str:
        """A new constant's name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def node(self, operator: str, *operands: str, **attributes: Any) -> str:
        """A new node; returns the name of its value."""
        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, operands, [name], **attributes))
        return name

    def dequantize(self, codes: str, scale: float = 0.05, zero_point: int = 128) -> str:
        """Codes as floats."""
        return self.node(
            "DequantizeLinear", codes, self.constant(scale, np.float32), self.constant(zero_point, np.uint8)
        )

    def quantize(self, value: str, scale: float, zero_point: int) -> str:
        """Floats as codes."""
        return self.node("QuantizeLinear", value, self.constant(scale, np.float32), self.constant(zero_point, np.uint8))

    def model(self, codes: str, shape: tuple[int, ...]) -> onnx.ModelProto:
        """The finished model, whose output is the value ``codes``."""
        values = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("x", codes)]
        graph = helper.make_graph(self.nodes, "unary", values[:1], values[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def gather_form(graph: Graph) -> str:
    """Any function: the code is the index of a constant table."""
    return graph.node("Gather", _table(graph), graph.node("Cast", "x", to=TensorProto.INT32), axis=0)


def table_form(graph: Graph, shape: tuple[int, ...], rows: int = 1, index: int = TensorProto.INT32) -> str:
    """The same by GatherElements, whose operands have equal ranks; every row may be another thread's."""
    whole = [rows, -1] if rows > 1 else [-1]
    table = _table(graph, rows)
    codes = graph.node("Cast", graph.node("Reshape", "x", graph.constant(whole, np.int64)), to=index)
    found = graph.node("GatherElements", table, codes, axis=len(whole) - 1)
    return graph.node("Reshape", found, graph.constant(shape, np.int64))


def _table(graph: Graph, rows: int = 1) -> str:
    table = np.random.default_rng(0).permutation(256)
    return graph.constant(np.tile(table, (rows, 1)) if rows > 1 else table, np.uint8)


def unary_form(graph: Graph, operator: str, barrier: bool = False, scale: float = 0.0261, zero_point: int = 10) -> str:
    """DequantizeLinear -> operator -> QuantizeLinear: a kernel on codes for some operators, float for the rest."""
    x = graph.dequantize("x")
    if barrier:  # a clip that changes nothing keeps the runtime from fusing it
        x = graph.node("Clip", x, graph.constant(np.finfo(np.float32).min, np.float32))
    return graph.quantize(graph.node(operator, x), scale, zero_point)


def silu_form(graph: Graph) -> str:
    """SiLU as the product of x and its quantized sigmoid."""
    gate = graph.quantize(graph.node("Sigmoid", graph.dequantize("x")), 1 / 256, 0)
    return graph.quantize(graph.node("Mul", graph.dequantize("x"), graph.dequantize(gate, 1 / 256, 0)), 0.0261, 10)


def hard_swish_form(graph: Graph) -> str:
    """HardSwish as the product of x and codes whose saturation is the HardSigmoid."""
    zero = graph.dequantize(graph.constant(128, np.uint8))
    gate = graph.quantize(graph.node("Add", graph.dequantize("x"), zero), 6 / 256, 128)
    return graph.quantize(graph.node("Mul", graph.dequantize("x"), graph.dequantize(gate, 1 / 256, 0)), 0.0261, 10)


def float_silu_form(graph: Graph) -> str:
    """SiLU between quantizers, as PyTorch exports it: the gate is not quantized."""
    x = graph.dequantize("x")
    return graph.quantize(graph.node("Mul", x, graph.node("Sigmoid", x)), 0.0261, 10)


def requantize_form(graph: Graph) -> str:
    """An addition of zero, the cheapest way to another grid."""
    zero = graph.dequantize(graph.constant(128, np.uint8))
    return graph.quantize(graph.node("Add", graph.dequantize("x"), zero), 0.0261, 10)


FORMS: dict[str, Callable[[Graph], str]] = {
    "table: Gather": gather_form,
    "Q(Sigmoid)": partial(unary_form, operator="Sigmoid"),
    "Q(LeakyRelu)": partial(unary_form, operator="LeakyRelu"),
    "Q(x + 0)": requantize_form,
    "SiLU: Q(x * Q(Sigmoid))": silu_form,
    "SiLU: Q(x * Sigmoid)": float_silu_form,
    "HardSwish: Q(x * relabelled)": hard_swish_form,
    "Q(Softmax), in integers": partial(unary_form, operator="Softmax", scale=1 / 256, zero_point=0),
    **{
        f"Q({operator})": partial(unary_form, operator=operator, barrier=operator == "Softmax")
        for operator in FLOAT_FORMS
    },
}


def measure(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """One row per form: kernels, nanoseconds per element, and time over that of the table look-up."""
    codes = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    tables = {
        "table: GatherElements": partial(table_form, shape=shape),
        "table: GatherElements, int64": partial(table_form, shape=shape, index=TensorProto.INT64),
        "table: GatherElements, 8 rows": partial(table_form, shape=shape, rows=8),
    }
    runs, kernels = {}, {}
    for name, form in (tables | FORMS).items():
        graph = Graph()
        model = graph.model(form(graph), shape)
        kernels[name] = [node.op_type for node in optimized_graph(model).graph.node]
        session = ort.InferenceSession(
            model.SerializeToString(), session_options(threads=1), providers=["CPUExecutionProvider"]
        )
        runs[name] = partial(session.run, None, {"x": codes})
    samples = interleaved(runs, rounds, clock=time.process_time)
    table = samples[next(iter(tables))]
    return [
        {
            "form": name,
            "kernels": kernels[name],
            "ns_per_element": float(np.median(seconds)) / codes.size * 1e9,
            "ratio_to_table": float(np.median(seconds / table)),
        }
        for name, seconds in samples.items()
    ]


def view(rows: list[dict[str, Any]], title: str) -> Table:
    """The results for people."""
    result = Table(title=title)
    for column in ("form", "kernels", "ns per element", "over the table"):
        result.add_column(column, justify="right" if column[0] in "no" else "left")
    for row in rows:
        cells = f"{row['ns_per_element']:.2f}", f"{row['ratio_to_table']:.2f}"
        result.add_row(row["form"], ", ".join(row["kernels"]), *cells)
    return result


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}, separated by commas")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    options = parser.parse_args()
    results = {name: measure(SHAPES[name], options.rounds) for name in options.shapes.split(",")}
    for name, rows in results.items():
        Console(width=120).print(view(rows, name))
    if options.json is not None:
        record = {"provenance": provenance(), "settings": {"rounds": options.rounds}, "results": results}
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
