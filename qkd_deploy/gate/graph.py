"""What the graph of an exported file is made of: names, constants, operators and sizes."""

from __future__ import annotations

import onnx

from qkd_deploy.gate.constants import require_constants
from qkd_deploy.gate.operators import require_operators
from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.gate.sizes import require_sizes


def require_graph(model: onnx.ModelProto, data: bytes) -> None:
    """Refuse a graph whose names, constants, operators or sizes are none that ``export`` writes.

    Args:
        model: a model of the form that exported files have (see ``require_form``).
        data: its serialised form, for ONNX's own checker.

    Raises:
        NotAsExportedError: with what is wrong.
    """
    _require_names(model.graph)
    require_constants(model.graph)
    require_operators(model)
    _require_valid(data)
    require_sizes(model)


def _require_names(graph: onnx.GraphProto) -> None:
    """Each value is made once, before it is read; each node has a name of its own."""
    known: set[str] = set()
    for name in (*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)):
        _add(known, name)
    nodes: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in nodes:
            raise NotAsExportedError(f"two nodes are called {node.name!r}" if node.name else "a node has no name")
        nodes.add(node.name)
        for name in node.input:
            if name and name not in known:
                raise NotAsExportedError(f"{node.name!r} reads {name!r}, which nothing produces")
        for name in filter(None, node.output):
            _add(known, name)
    outputs = [value.name for value in graph.output]
    if len(set(outputs)) != len(outputs) or not outputs or not known.issuperset(outputs):
        raise NotAsExportedError("its outputs are not values of the graph, each once")


def _add(known: set[str], name: str) -> None:
    if not name or name in known:
        raise NotAsExportedError(f"two values are called {name!r}" if name else "a value has no name")
    known.add(name)


def _require_valid(data: bytes) -> None:
    """Ask ONNX's own checker."""
    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise NotAsExportedError(f"ONNX's checker says: {lines[0] if lines else type(error).__name__}") from error
