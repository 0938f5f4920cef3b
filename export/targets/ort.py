"""ONNX Runtime's CPU provider: the trial run of a finished file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault

_RUNTIME = OnnxRuntime()
_GROSS = 0.05
"""Share of the largest output by which a trial run may be off."""
CHECK_SESSION = """
def load(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return "ONNX Runtime " + onnxruntime.__version__, lambda inputs: session.run(None, dict(zip(names, inputs)))
""".strip()
"""As ``Replayed.check_session`` describes it; for ``.onnx`` and ``.ort`` files alike."""


def trial_run(model: onnx.ModelProto, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Run a finished file on its golden inputs before anybody is told that it is done.

    ``verify`` proves equality. This coarse check is for operations in float that were translated to other ones, so that
    it tolerates the code that a rounding in a float operation may flip.

    Args:
        model: the file.
        inputs: of its graph, in order.
        outputs: what the network gives for them.

    Raises:
        UserError: the runtime cannot load or run the file, or computes grossly other values or NaN.
    """
    for expected, got in zip(outputs, _outputs(model, inputs), strict=True):
        finite = expected[np.isfinite(expected)]
        tolerance = _GROSS * float(np.abs(finite).max(initial=0.0)) + 1e-6
        if expected.shape != np.shape(got) or not np.allclose(expected, got, rtol=0, atol=tolerance):
            raise UserError(
                "nothing was written, as the exported graph gives other outputs than the network on noise, or NaN; "
                "clamp the operand of a float operation that is not defined everywhere, such as a "
                "logarithm, or replace the operation"
            )


def _outputs(model: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    try:
        # 8-bit weights beyond +-64 saturate on x86 CPUs without VNNI; the file may be meant for CPUs with it
        session = _RUNTIME.session(model, precise=True)
        feeds = {value.name: array for value, array in zip(session.inputs, inputs, strict=True)}
        return [*session.run(feeds).values()]
    except RuntimeFault as error:
        runtime = f"{_RUNTIME.name} {_RUNTIME.version}"
        reason = f"{runtime} cannot run the exported graph ({error.first_line}); nothing was written"
        raise UserError(reason) from error
