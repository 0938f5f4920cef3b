"""Speed in OpenVINO, over the network in fp32 in ONNX Runtime: our files there and here, and NNCF's own int8.

    python benchmarks/openvino_speed.py --models resnet18,mobilenetv2 --bits w8a8 --json docs/results/openvino.json

All contestants of a network run in one process, one thread, batch 1, in turns and in random order; ratios are medians
over the turns, by the clock of the process, which stops while others run. Weights are random (batch norms are settled):
speed depends on shapes. NNCF is optional (pip install nncf); without it its column stays out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino
import torch
from provenance import provenance

from qkd_deploy import create_model, freeze, initialize, prepare
from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.timing import interleaved
from qkd_deploy.export.onnx_export import build_model, flat_tensors
from qkd_deploy.export.targets.openvino import TARGET
from qkd_deploy.export.targets.target import Form
from qkd_deploy.runtimes.ort import session_options

_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
_CALIBRATION = 8


def compiled(model: Any) -> Callable[[np.ndarray], Any]:
    """A model in OpenVINO, as a function of an image."""
    core = openvino.Core()
    request = core.compile_model(model, "CPU", _OPTIONS).create_infer_request()
    return lambda image: request.infer([image])


def session(model: bytes | str) -> Callable[[np.ndarray], Any]:
    """A model in ONNX Runtime, as a function of an image."""
    made = ort.InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda image: made.run(None, {name: image})


def nncf_model(path: str, shape: tuple[int, ...], name: str) -> Any:
    """NNCF's own int8 model of an ONNX file; None where it is not installed."""
    try:
        import nncf
    except ImportError:
        return None
    generator = np.random.default_rng(0)
    images = [generator.standard_normal(shape).astype(np.float32) for _ in range(_CALIBRATION)]
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if "vit" in name else {}
    return nncf.quantize(openvino.Core().read_model(path), nncf.Dataset(images), subset_size=_CALIBRATION, **kind)


def measure(name: str, bits: str, rounds: int, size: int) -> dict[str, Any]:
    """Ratios over fp32 in ONNX Runtime, and by how many steps of 255 our outputs in OpenVINO are off."""
    torch.manual_seed(0)
    network = create_model(name, 1000)
    with torch.no_grad():
        network.train()(torch.randn(_CALIBRATION, 3, size, size))
    images = torch.randn(_CALIBRATION, 3, size, size)
    image = images[:1].numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/fp32.onnx"
        torch.onnx.export(network.eval(), (images[:1],), path, dynamo=False, opset_version=17)
        prepared = prepare(network, bits, (images[:1],))
        initialize(prepared, images)
        frozen = freeze(prepared)
        contestants = {"fp32 in ONNX Runtime": session(path)}
        contestants["ours in ONNX Runtime"] = session(build_model(frozen)[0].SerializeToString())
        ours = compiled(openvino.Core().read_model(TARGET.build(frozen, Form(), "")))
        contestants["ours in OpenVINO"] = ours
        contestants["fp32 in OpenVINO"] = compiled(openvino.Core().read_model(path))
        rival = nncf_model(path, image.shape, name)
        if rival is not None:
            contestants["NNCF in OpenVINO"] = compiled(rival)
    (expected,) = (tensor.numpy() for tensor in flat_tensors(frozen(images[:1])))
    off = float(np.abs(next(iter(ours(image).values())) - expected).max() / np.abs(expected).max() * 255)
    runs = {key: partial(run, image) for key, run in contestants.items()}
    samples = interleaved(runs, rounds, clock=time.process_time)
    base = samples["fp32 in ONNX Runtime"]
    ratios = {key: round(float(np.median(base / values)), 3) for key, values in samples.items()}
    latencies = {key: round(float(np.median(values)) * 1e3, 3) for key, values in samples.items()}
    return {"ratio": ratios, "latency_ms": latencies, "off_255ths": round(off, 4)}


def main() -> None:
    """Measure the networks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,mobilenetv2,efficientnet_b0,vit_tiny")
    parser.add_argument("--bits", default="w8a8,w4a4")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.models.split(","):
        for bits in options.bits.split(","):
            found = results[f"{name} {bits}"] = measure(name, bits, options.rounds, options.size)
            sys.stdout.write(f"{name} {bits}: {json.dumps(found)}\n")
            sys.stdout.flush()
    if options.json is not None:
        content = {"openvino": openvino.__version__, "provenance": provenance(), "results": results}
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
