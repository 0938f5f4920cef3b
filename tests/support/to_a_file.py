"""Take a network from ``prepare`` to the bytes of its file: what a way out of an error has to lead to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.prepared import PreparedModel


def goes_to_a_file(network: nn.Module, *inputs: Tensor, bits: str = "w8a8", **settings: Any) -> PreparedModel:
    """Prepare a network, set its scales, freeze and write it; raises what any of these raises."""
    prepared = qkd.prepare(network.eval(), bits, inputs, **settings)
    qkd.initialize(prepared, *inputs)
    build_model(qkd.freeze(prepared))
    return prepared
