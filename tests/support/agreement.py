"""Runs a model through the exact reference and ONNX Runtime and demands equality."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.reference.model import ReferenceModel, ReferenceResult
from qkd_deploy.verification.runtime import CodesModel, optimized_graph


def assert_agreement(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], kernels: tuple[str, ...] = ()
) -> ReferenceResult:
    """Codes and outputs of the reference equal those of the runtime; ``kernels`` are in the runtime's graph."""
    onnx.checker.check_model(model, full_check=True)
    result = ReferenceModel(model).run(feeds)
    outputs, codes = CodesModel(model).run(feeds)
    assert codes
    for name, values in codes.items():
        np.testing.assert_array_equal(result.codes[name], values, err_msg=name)
    for name, values in outputs.items():
        np.testing.assert_array_equal(result.outputs[name], values, err_msg=name)
    built = {node.op_type for node in optimized_graph(model).graph.node}
    assert set(kernels) <= built, f"{kernels} expected, {built} built"
    assert not result.after_float
    return result
