"""ONNX Runtime sessions on the CPU: results, codes of every quantized tensor, and the graph that was really built."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from qkd_deploy.errors import UserError
from qkd_deploy.provenance import UNKNOWN, cpu


class RuntimeModel:
    """One CPU session with all optimizations, ``threads`` threads that do not spin while they wait.

    ``precise`` sets ``session.x64quantprecision``, with which no 8-bit sum saturates.

    Raises:
        UserError: ONNX Runtime cannot load the model.
    """

    def __init__(self, model: onnx.ModelProto, threads: int = 1, *, precise: bool = False) -> None:
        options = session_options(threads)
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = _session(model, options)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch.

        Raises:
            UserError: the inputs do not fit the model.
        """
        try:
            return dict(zip(self._names, self._session.run(None, dict(feeds)), strict=True))
        except Exception as error:  # onnxruntime's errors have no public common base
            raise UserError(f"ONNX Runtime cannot run the model on these inputs: {_last_line(error)}") from error


class CodesModel:
    """A session that also returns the codes of every quantized activation.

    Extra outputs leave fusion and results alone but move layout changes, so never time or inspect this session.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        threads: int = 1,
        values: Mapping[str, int] | None = None,
        *,
        precise: bool = False,
    ) -> None:
        """``values`` are names and element types, by default :func:`quantized_values` of the model."""
        self._values = quantized_values(model) if values is None else values
        self._model_outputs = [output.name for output in model.graph.output]
        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        known = {value.name for value in (*model.graph.input, *model.graph.output)}
        for name, kind in self._values.items():
            if name not in known:
                extended.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        self._runtime = RuntimeModel(extended, threads, precise=precise)

    def run(self, feeds: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(outputs by name, codes by ONNX value name) of one batch."""
        results = self._runtime.run(feeds)
        codes = {name: results[name] if name in results else feeds[name] for name in self._values}
        return {name: results[name] for name in self._model_outputs}, codes


def quantized_values(model: onnx.ModelProto, also: Collection[str] = ()) -> dict[str, int]:
    """ONNX values that hold activation codes and their element types, in graph order.

    These are the inputs of every DequantizeLinear that are no constants, and those values of ``also`` (the tensors that
    the metadata name) that the graph computes.
    """
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    constants = set(types)
    found = {value.name for value in model.graph.input} & set(also)
    for node in model.graph.node:
        if all(name in constants for name in node.input if name):
            constants.update(node.output)
        elif node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            found.add(node.input[0])
            types.setdefault(node.input[0], types.get((*node.input, "", "")[2], onnx.TensorProto.UINT8))
        elif node.op_type == "QuantizeLinear":
            types[node.output[0]] = types.get((*node.input, "", "")[2], onnx.TensorProto.UINT8)
        found.update(set(node.output) & set(also))
    produced = [value.name for value in model.graph.input] + [name for node in model.graph.node for name in node.output]
    return {name: types.get(name, onnx.TensorProto.UINT8) for name in produced if name in found}


def optimized_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime builds from ``model`` on this machine, with its fused kernels.

    Raises:
        UserError: ONNX Runtime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options(threads=1)
        options.optimized_model_filepath = str(path)
        _session(model, options)
        return onnx.load(path)


def cpu_capabilities(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str | bool]:
    """Processor architecture and the instruction sets that matter to integer kernels.

    Where the operating system has no ``cpuinfo``, only the architecture is known.
    """
    found: dict[str, str | bool] = {"architecture": platform.machine()}
    known = cpu(cpuinfo)
    flags = known["flags"]
    if isinstance(flags, str):
        return found
    if known["model"] != UNKNOWN:
        found["model"] = known["model"]
    names = {"avx512": "avx512f", "amx": "amx_int8", "dot_product": "asimddp"}
    titles = {flag: name for name, flag in names.items()}
    vnni = flags["avx_vnni"] or flags["avx512_vnni"]
    return found | {titles.get(flag, flag): present for flag, present in flags.items()} | {"vnni": vnni}


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """All optimizations, a fixed number of threads that sleep when idle, so that sessions do not disturb each other."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _session(model: onnx.ModelProto, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public common base
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {_last_line(error)}; export it again"
        ) from error


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
