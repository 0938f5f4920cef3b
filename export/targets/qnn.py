"""Qualcomm's HTP: QDQ ONNX for ONNX Runtime's QNN execution provider, which runs here in the simulator of its wheel.

The provider is a plugin beside the ordinary ONNX Runtime. Nothing may fall back to the CPU: what the HTP does not take
is an error that names it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.qnn.session import accounts_in, kernels_in, refused_nodes, session_of
from qkd_deploy.export.targets.onnx_file import record_in, serialized, with_record
from qkd_deploy.export.targets.target import Form, TargetKernel
from qkd_deploy.gate.names import BATCH

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel

_TOLERANCE = 8
_LEAST_BITS = 7
"""Of activations: they have eight, but for operands of products, which have one less."""
_CONTEXT = ".qnn.ctx.onnx"
_TAKEN = frozenset(
    [
        "input",
        "constant",
        "scalar",
        "conv",
        "linear",
        "add",
        "mul",
        "matmul",
        "rescale",
        "requantize",
        "clip",
        "concat",
        "max_pool",
        "avg_pool",
        "uneven_avg_pool",
        "global_avg_pool",
        "resize",
        "bilinear",
        "amax",
        "amin",
        "sigmoid",
        "tanh",
        "hard_sigmoid",
        "leaky_relu",
        "softmax",
        "dropout",
        "reshape",
        "transpose",
        "pad",
        "border",
        "slice",
        "index",
        "expand",
    ]
)
"""Kinds of nodes that have a form, each of which the simulator has run."""

_CHECK_SESSION = """
def load(path, threads):
    import platform

    import onnxruntime
    import onnxruntime_qnn

    name = "QNNExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    told = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    if platform.machine() in ("x86_64", "AMD64"):
        told["soc_model"] = "57"  # of the simulator: a device knows its own
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    options.add_provider_for_devices(devices, told)
    session = onnxruntime.InferenceSession(path, options)
    names = [value.name for value in session.get_inputs()]
    version = "ONNX Runtime QNN " + onnxruntime_qnn.__version__
    return version, lambda inputs: session.run(None, dict(zip(names, inputs)))
""".strip()


class Qnn:
    """The target ``qnn``."""

    name, title, extra = "qnn", "QNN (HTP)", "qnn"
    modules: tuple[str, ...] = ("onnxruntime", "onnxruntime_qnn")
    suffix, batch = ".qnn.onnx", 1
    simulates = "Snapdragon 8 Gen 3"
    check_session = _CHECK_SESSION

    def tolerance(self, frozen: FrozenModel) -> int:
        """The HTP rounds products of sums and scales in fixed point, layer by layer."""
        return _TOLERANCE

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        """Write the model for one sample.

        Raises:
            UserError: activations below 8 bits, or an operation without a form.
        """
        from qkd_deploy.export.emit import emit  # a session needs no torch
        from qkd_deploy.export.qnn.context import PairedContext
        from qkd_deploy.export.qnn.forms import PAIRED

        _require_taken(frozen)
        model = emit(frozen, weights=form.weights, input_type=form.input, context=PairedContext, emitters=PAIRED).model
        return self.from_onnx(with_record(model, record))

    def beside(self, content: bytes) -> dict[str, bytes]:
        """The context binary, which a device loads without compiling."""
        from qkd_deploy.export.qnn.compiler import context_binary

        return {_CONTEXT: context_binary(content, self.title)}

    def record(self, content: bytes) -> str | None:
        """Read the record from the metadata of the ONNX model."""
        return record_in(content)

    def meaning(self, content: bytes) -> bytes:
        """All bytes."""
        return content

    def from_onnx(self, model: onnx.ModelProto) -> bytes:
        """Fix a model to one sample; the HTP computes what is in float in float16."""
        single = onnx.ModelProto()
        single.CopyFrom(model)
        for value in (*single.graph.input, *single.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == BATCH:
                    dim.dim_value = 1
        return serialized(single)

    def load(self, path: Path, threads: int) -> _Session:
        """Compile all of the model for the HTP."""
        return _Session(path, threads)


class _Session:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime_qnn

        self.version: str = onnxruntime_qnn.__version__
        with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as name:
            folder = Path(name)
            try:
                self._session: Any = session_of(str(path), threads, accounts_in(folder), {})
            except Exception as error:
                left = refused_nodes(folder)
                raise RuntimeError(f"it does not take {', '.join(left[:3])}" if left else str(error)) from error
            self._kernels = kernels_in(folder)
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self._session.run(None, dict(zip(self._names, inputs, strict=True))))

    def kernels(self) -> list[TargetKernel]:
        return self._kernels


def _require_taken(frozen: FrozenModel) -> None:
    """Refuse activations below 8 bits and kinds of nodes without a form, by the name of the first.

    Raises:
        UserError: there is one.
    """
    from qkd_deploy.graph.ops import operator_of

    for node in frozen.graph.nodes:
        label = node.label or node.name
        if node.kind not in _TAKEN or (node.is_layer and node.source is None):
            raise UserError(
                f"{label} ({operator_of(node).docs}) has no form for QNN; choose another target, or replace the "
                "operation"
            )
        if node.quantizer is None:
            continue
        bits = frozen.grid(node.quantizer).bits
        if bits < _LEAST_BITS:
            raise UserError(
                f"{label} has activations of {bits} bits, a step of which is {255 // (2**bits - 1)} of a byte's, and "
                "the HTP is off by steps; quantize to w8a8 or w4a8, or choose another target"
            )


TARGET = Qnn()
