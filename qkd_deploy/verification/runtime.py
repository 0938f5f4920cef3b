"""Sessions of the file under test: results, codes of every quantized tensor, and the graph that was really built."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.inner_values import with_outputs
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import Runtime, RuntimeFault, Session
from qkd_deploy.verification.onnx_graph import names_of, optional_input

DEFAULT: Runtime = OnnxRuntime()
"""The runtime that exported files are written for."""


class RuntimeModel:
    """One session with all optimizations; ``precise`` keeps 8-bit sums from saturating, whatever the CPU.

    Raises:
        UserError: the runtime cannot load the model.
    """

    def __init__(
        self, model: onnx.ModelProto, threads: int = 1, *, precise: bool = False, runtime: Runtime = DEFAULT
    ) -> None:
        self._runtime = runtime
        try:
            self._session: Session = runtime.session(model, threads, precise=precise)
        except RuntimeFault as error:
            raise _cannot_load(runtime, error) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch.

        Raises:
            UserError: the inputs do not fit the model.
        """
        try:
            return self._session.run(feeds)
        except RuntimeFault as error:
            reason = f"{self._runtime.name} cannot run the model on these inputs: {error.last_line}"
            raise UserError(reason) from error


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
        runtime: Runtime = DEFAULT,
    ) -> None:
        """``values`` are names and element types, by default :func:`quantized_values` of the model."""
        self._values = quantized_values(model) if values is None else values
        self._model_outputs = names_of(model.graph.output)
        self._session = RuntimeModel(with_outputs(model, self._values), threads, precise=precise, runtime=runtime)

    def run(self, feeds: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(outputs by name, codes by ONNX value name) of one batch."""
        results = self._session.run(feeds)
        everything = {**feeds, **results}
        codes = {name: everything[name] for name in self._values}
        return {name: results[name] for name in self._model_outputs}, codes


def quantized_values(model: onnx.ModelProto, also: Collection[str] = ()) -> dict[str, int]:
    """ONNX values that hold activation codes and their element types, in graph order.

    These are the inputs of every DequantizeLinear that are no constants, and those values of ``also`` (the tensors that
    the metadata name) that the graph computes.
    """
    constants = _constant_values(model)
    computed = [node for node in model.graph.node if not constants.issuperset(node.input)]
    found = (_dequantized(computed) - constants) | set(also)
    types = _code_types(model, computed)
    return {name: types.get(name, onnx.TensorProto.UINT8) for name in _produced(model) if name in found}


def _produced(model: onnx.ModelProto) -> Iterator[str]:
    """Inputs of a graph, and what its nodes make, in order."""
    yield from names_of(model.graph.input)
    for node in model.graph.node:
        yield from node.output


def _dequantized(nodes: list[onnx.NodeProto]) -> set[str]:
    return {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}


def _constant_values(model: onnx.ModelProto) -> set[str]:
    """Names of the values that no input of the graph has a part in, and that of an input which is left out."""
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    for node in model.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
    return constants


def _code_types(model: onnx.ModelProto, computed: list[onnx.NodeProto]) -> dict[str, int]:
    """Element types of what quantizers write and dequantizers read: those of their zero points."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in computed:
        kind = types.get(optional_input(node, 2), onnx.TensorProto.UINT8)
        if node.op_type == "DequantizeLinear":
            types.setdefault(node.input[0], kind)
        elif node.op_type == "QuantizeLinear":
            types[node.output[0]] = kind
    return types


def optimized_graph(model: onnx.ModelProto, runtime: Runtime = DEFAULT) -> onnx.ModelProto:
    """The graph that the runtime builds from ``model`` on this machine, with its fused kernels.

    Raises:
        UserError: the runtime cannot load the model.
    """
    try:
        return runtime.optimized_graph(model)
    except RuntimeFault as error:
        raise _cannot_load(runtime, error) from error


def _cannot_load(runtime: Runtime, error: RuntimeFault) -> UserError:
    return UserError(f"{runtime.name} {runtime.version} cannot load the model: {error.last_line}; export it again")
