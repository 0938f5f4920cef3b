"""Operators outside the integer contract, run by ONNX Runtime one node at a time and without optimizations.

Two kinds come here: operators that only move data (exact on codes and on floats), and the float islands of a model,
whose last bits are the runtime's own, so that comparisons behind them need a tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault, Session

_RUNTIME = OnnxRuntime()


def cannot_evaluate(node: onnx.NodeProto, reason: object) -> UserError:
    """Make the error of a node that no exported file has, or not with such operands."""
    return UserError(f"the reference cannot evaluate {node.op_type} {node.name!r}: {reason}; export the model again")


class SingleNodes:
    """Runs single nodes of one model; sessions are kept by node and operand types."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = list(model.opset_import)
        self._sessions: dict[tuple[bytes, tuple[Any, ...]], Session] = {}

    def run(self, node: onnx.NodeProto, operands: list[np.ndarray | None]) -> list[np.ndarray]:
        """Outputs of ``node``; ``operands`` in the order of its inputs, None where one is left out.

        Raises:
            UserError: ONNX Runtime does not know the operator or refuses the operands.
        """
        feeds = {f"operand_{i}": value for i, value in enumerate(operands) if value is not None}
        try:
            results = self._session(node, feeds).run(feeds)
        except RuntimeFault as error:
            raise cannot_evaluate(node, error.last_line) from error
        return [np.asarray(output) for output in results.values()]

    def _session(self, node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> Session:
        kinds = tuple((name, value.dtype.str, *_shape(value)) for name, value in feeds.items())
        key = node.SerializeToString(deterministic=True), kinds
        if key not in self._sessions:
            self._sessions[key] = _RUNTIME.session(self._alone(node, feeds), optimized=False)
        return self._sessions[key]

    def _alone(self, node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
        """A model of one node, whose inputs are its operands."""
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.input[:] = [f"operand_{i}" if name else "" for i, name in enumerate(node.input)]
        inputs = [_described(name, value) for name, value in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in filter(None, node.output)]
        graph = helper.make_graph([alone], "single", inputs, outputs)
        return helper.make_model(graph, opset_imports=self._opsets, ir_version=10)


def _described(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), _shape(value))


def _shape(value: np.ndarray) -> list[int | None]:
    """Describe an input to a session: the rank, and of lists of sizes their length, which shape inference asks for."""
    return list(value.shape) if value.dtype == np.int64 and value.ndim == 1 else [None] * value.ndim
