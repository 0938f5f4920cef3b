"""Sessions of ONNX Runtime on the HTP: all of the model there, or none of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qkd_deploy.export.targets.target import TargetKernel

SOC = "57"
"""Snapdragon 8 Gen 3 (SM8650, HTP v75): what the simulator computes as, and what binaries are compiled for.

Without a model, it is the oldest HTP, whose convolutions round more coarsely.
"""
_PROVIDER = "QNNExecutionProvider"
_CODES = frozenset({0x308, 0x316, 0x408, 0x416})
"""Types of tensors in QNN's account of a graph: signed and unsigned fixed point of 8 and 16 bits."""
_MOVES = frozenset(
    {"Quantize", "Dequantize", "Convert", "Transpose", "Reshape", "StridedSlice", "Pad", "Concat", "Split", "Gather"}
    | {"Tile", "Cast", "ExpandDims", "Squeeze"}
)
"""Operators that compute nothing."""
_TRACE = "qnn_op_trace.json"
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def session_of(model: str | bytes, threads: int, told: Mapping[str, str], entries: Mapping[str, str]) -> Any:
    """Compile a model for the HTP.

    Args:
        model: its path, or its bytes.
        threads: of ONNX Runtime.
        told: further options of the provider.
        entries: further entries of the session's configuration.
    """
    import onnxruntime
    import onnxruntime_qnn

    if _PROVIDER not in onnxruntime.get_available_providers():
        onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    for key, value in {"session.disable_cpu_ep_fallback": "1", **entries}.items():
        options.add_session_config_entry(key, value)
    htp = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": SOC}
    options.add_provider_for_devices(devices, {**htp, **told})
    return onnxruntime.InferenceSession(model, options)


def accounts_in(folder: Path) -> dict[str, str]:
    """Options by which the provider writes into a folder what it makes of a model."""
    graphs = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder)}
    return {**graphs, "enable_framework_op_trace": "1", "framework_op_trace_dir": str(folder)}


def refused_nodes(folder: Path) -> list[str]:
    """The nodes that the provider left to the CPU, by name and operator."""
    trace = folder / _TRACE
    if not trace.exists():
        return []
    left = json.loads(trace.read_text(encoding="utf-8"))["unsupported_nodes"]
    named = {f"{node['node_name'].rpartition('/')[0] or node['node_name']} ({node['op_type']})": node for node in left}
    computing = [name for name, node in named.items() if node["op_type"] not in _PAIRS]
    return computing or [*named]


def kernels_in(folder: Path) -> list[TargetKernel]:
    """The operators of the compiled graphs, in integers where all that they make are codes."""
    counted = Counter(node for graph in _graphs(folder) for node in _operators(graph))
    return [TargetKernel(name, count, integer) for (name, integer), count in sorted(counted.items())]


def _graphs(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.json")):
        graph = json.loads(file.read_text(encoding="utf-8")).get("graph")
        if graph is not None:
            yield graph


def _operators(graph: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for node in graph["nodes"].values():
        if node["type"] not in _MOVES:
            made = [graph["tensors"][name]["data_type"] for name in node["output_names"]]
            yield node["type"], all(kind in _CODES for kind in made)
