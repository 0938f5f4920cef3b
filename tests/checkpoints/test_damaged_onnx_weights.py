"""Float ONNX files whose nodes or constants are not as ONNX says are refused with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qkd_deploy.checkpoints.onnx_weights import read_onnx_weights
from qkd_deploy.errors import UserError

CONV = helper.make_node("Conv", ["x", "w"], ["y"])


def weight() -> TensorProto:
    return numpy_helper.from_array(np.zeros((2, 1, 3, 3), np.float32), "w")


def other_shape() -> TensorProto:
    tensor = weight()
    tensor.dims[0] = 5
    return tensor


def other_type() -> TensorProto:
    tensor = weight()
    tensor.data_type = 99
    return tensor


def written(path: Path, nodes: list[NodeProto], tensor: TensorProto) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [x], [y], [tensor])), path)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    assert len(read_onnx_weights(written(tmp_path / "net.onnx", [CONV], weight())).layers) == 1


@pytest.mark.parametrize(
    ("nodes", "tensor"),
    [
        ([CONV], other_shape()),
        ([CONV], other_type()),
        ([CONV], TensorProto(name="w", data_type=1, dims=[2**40, 2**20])),
        ([helper.make_node("Constant", [], ["c"]), CONV], weight()),
        ([helper.make_node("Identity", [], ["y"])], weight()),
        ([helper.make_node("Identity", ["w"], [])], weight()),
        ([helper.make_node("Transpose", ["w"], ["v"], perm=[0, 9, 1, 2]), CONV], weight()),
    ],
)
def test_damaged_nodes_and_constants_are_refused(tmp_path: Path, nodes: list[NodeProto], tensor: TensorProto) -> None:
    with pytest.raises(UserError, match=r"net\.onnx is damaged: a node or a constant") as caught:
        read_onnx_weights(written(tmp_path / "net.onnx", nodes, tensor))
    assert "\n" not in str(caught.value)
