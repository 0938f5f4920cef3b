"""How fast an exported network is, against the same network in fp32, both in ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import numpy as np
import onnx
import torch
from torch import nn

from qkd_deploy.bench.timing import interleaved
from qkd_deploy.verification.runtime import RuntimeModel


def speed_over_fp32(network: nn.Module, integer: onnx.ModelProto, shape: tuple[int, ...], rounds: int) -> float:
    """Median ratio of interleaved samples: one thread, batch 1."""
    example = torch.randn(1, *shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network.eval(), (example,), dynamo=True, verbose=False)
    assert program is not None
    models = {"fp32": program.model_proto, "integer": integer}
    runs = {
        name: partial(RuntimeModel(model).run, {model.graph.input[0].name: example.numpy()})
        for name, model in models.items()
    }
    samples = interleaved(runs, rounds)
    return float(np.median(samples["fp32"] / samples["integer"]))
