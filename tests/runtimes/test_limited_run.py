"""What nobody vouches for runs in a process of its own: an endless loop and a model of gigabytes end there."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_network import small_network

from qkd_deploy.bench.benchmark import bench
from qkd_deploy.errors import UserError
from qkd_deploy.gate.cost import Cost
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.runtimes.limited_run import limited_run
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.runnable import require_runnable, samples_at_a_time

value = helper.make_tensor_value_info


def model(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs, outputs = ([value(name, TensorProto.FLOAT, ["batch", 8])] for name in ("x", "y"))
    graph = helper.make_graph(list(nodes), "foreign", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def endless() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("going", "value")],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("going", TensorProto.BOOL, []),
            value("value", TensorProto.FLOAT, None),
        ],
        [value("going_out", TensorProto.BOOL, []), value("value_out", TensorProto.FLOAT, None)],
    )
    return model(helper.make_node("Loop", ["", "true", "x"], ["y"], "loop", body=body), true=np.array(True))


def gigabytes() -> onnx.ModelProto:
    return model(
        helper.make_node("Expand", ["x", "sizes"], ["wide"], "expand"),
        helper.make_node("ReduceMax", ["wide", "axes"], ["y"], "max", keepdims=0),
        sizes=np.array([10**9, 1, 8]),
        axes=np.array([0]),
    )


def expanding_functions() -> onnx.ModelProto:
    """Each function calls the one before it twice."""
    opset = helper.make_opsetid("", 21), helper.make_opsetid("own", 1)
    found = model(helper.make_node("f30", ["x"], ["y"], "call", domain="own"))
    found.opset_import.append(opset[1])
    for number in range(31):
        inner = ("Identity", "") if number == 0 else (f"f{number - 1}", "own")
        calls = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("a", "b"), ("b", "c"))]
        found.functions.append(helper.make_function("own", f"f{number}", ["a"], ["c"], calls, opset))
    return found


def test_the_needs_of_a_model_are_measured() -> None:
    content = small_network().SerializeToString()
    assert (limited_run(content) or 0) > 0


RUNAWAYS = [
    (endless, 15, "longer than"),
    (gigabytes, 60, "more than 4 GB"),
    (expanding_functions, 15, "longer than|more than 4 GB"),
]


@pytest.mark.parametrize(("make", "seconds", "reason"), RUNAWAYS)
def test_what_runs_away_is_stopped(make: object, seconds: float, reason: str, tmp_path: Path) -> None:
    assert callable(make)
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    started = time.monotonic()
    with pytest.raises(RuntimeFault, match=reason):
        limited_run(path, seconds=seconds)
    assert time.monotonic() - started < 2 * seconds


def test_a_foreign_file_runs_within_limits_before_it_is_timed(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "model.onnx")
    onnx.save(gigabytes(), tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match=r"cannot run .*foreign.onnx: .*more than 4 GB; try another --batch or file"):
        bench(tmp_path / "model.onnx", against=str(tmp_path / "foreign.onnx"), rounds=1)


def test_files_that_are_not_surely_small_run_within_limits_first() -> None:
    network = small_network()
    file = OnnxFile(Path("model.onnx"), network.SerializeToString(), network)
    require_runnable(file)
    for cost, reason in (
        (Cost(2**40, 2**39, 10, True), None),
        (Cost(10, 10, 10, False), None),
        (Cost(10, 10, 10**15, True), "1e.15 multiplications"),
    ):
        asked = OnnxFile(file.path, file.data, file.model)
        asked.__dict__["cost"] = cost
        if reason is None:
            require_runnable(asked)  # it is small after all
        else:
            with pytest.raises(UserError, match=reason):
                require_runnable(asked)


def test_fewer_samples_are_run_at_a_time_where_they_are_large() -> None:
    network = small_network()
    file = OnnxFile(Path("model.onnx"), network.SerializeToString(), network)
    assert file.cost.easy and file.cost.known
    assert samples_at_a_time(file, 64) == 64
    file.__dict__["cost"] = Cost(2**33, 2**30, 10, True)
    assert samples_at_a_time(file, 64) == 2
