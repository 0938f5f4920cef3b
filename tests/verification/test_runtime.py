"""Sessions, codes from inside the runtime, and what is known about the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_network import images, normalised, small_network

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.cpu import cpu_capabilities
from qkd_deploy.verification.runtime import (
    CodesModel,
    RuntimeModel,
    optimized_graph,
    quantized_values,
)


def test_extra_outputs_leave_results_alone() -> None:
    model, feeds = small_network(), {"x": normalised(images(8))}
    plain = RuntimeModel(model).run(feeds)
    for threads in (1, 2):
        outputs, codes = CodesModel(model, threads).run(feeds)
        assert plain.keys() == outputs.keys()
        for name, values in plain.items():
            np.testing.assert_array_equal(values, outputs[name])
        assert list(codes) == list(quantized_values(model))
        assert all(values.dtype == np.uint8 for values in codes.values())


def test_weights_are_no_quantized_values() -> None:
    names = set(quantized_values(small_network()))
    assert "block.conv1.codes" in names
    assert "input.quantized" in names
    assert not any("weight" in name or "bias" in name or "zero" in name for name in names)


def test_named_tensors_that_nothing_dequantizes_are_values_too() -> None:
    """A tensor before its Clip, or one that only an operator on codes reads."""
    values = quantized_values(small_network(), {"block.conv1.quantized", "no such value"})
    assert list(values)[3:5] == ["block.conv1.quantized", "block.conv1.codes"]
    outputs, codes = CodesModel(small_network(), values=values).run({"x": normalised(images(2))})
    np.testing.assert_array_equal(np.minimum(codes["block.conv1.quantized"], 15), codes["block.conv1.codes"])
    assert list(outputs) == ["fc.gemm"]


def test_optimized_graph_shows_fused_kernels() -> None:
    operators = {node.op_type for node in optimized_graph(small_network()).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QGemm", "QLinearGlobalAveragePool"} <= operators


def test_models_that_do_not_load_are_a_sentence() -> None:
    model = small_network()
    model.opset_import[0].version = 99
    with pytest.raises(UserError, match="cannot load the model"):
        RuntimeModel(model)


def test_inputs_that_do_not_fit_are_a_sentence() -> None:
    with pytest.raises(UserError, match="cannot run the model on these inputs"):
        RuntimeModel(small_network()).run({"x": np.zeros((1, 4, 8, 8), np.float32)})


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\n"


def test_instruction_sets_of_x86(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(X86)
    found = cpu_capabilities(file)
    assert found["model"] == "Some CPU"
    assert (found["avx2"], found["avx512"], found["vnni"], found["dot_product"]) == (True, True, True, False)
    assert (found["avx512_vnni"], found["avx_vnni"], found["amx"], found["fma"]) == (True, False, False, False)


def test_instruction_sets_of_arm(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(ARM)
    found = cpu_capabilities(file)
    assert (found["dot_product"], found["i8mm"], found["vnni"]) == (True, True, False)


def test_unknown_operating_systems_report_the_architecture(tmp_path: Path) -> None:
    assert set(cpu_capabilities(tmp_path / "missing")) == {"architecture"}
