"""Runs exported files in one environment and counts the codes that are not the expected ones.

    python exactness_worker.py THREADS FOLDER...

It needs NumPy and ONNX Runtime, nothing else, and prints one line of JSON per folder. A folder holds ``model.onnx`` as
it was exported, ``codes.onnx`` with every quantized tensor as a further output, and ``expected.npz`` with the inputs
(``feed:NAME``), codes (``code:NAME``) and outputs (``output:NAME``).
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def session(path, threads):
    """A session with all optimizations on the given number of threads."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def differing(expected, found):
    """(number of values that differ, largest difference); everything where the shapes do."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return int(expected.size), None
    unequal = (expected != found) & ~((expected != expected) & (found != found))
    if not unequal.any():
        return 0, 0.0
    return int(unequal.sum()), float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max())


def compare(folder, threads):
    """What differs in one folder, by name: codes and outputs of ``codes.onnx``, outputs of ``model.onnx``."""
    wanted = np.load(folder / "expected.npz")
    feeds = {name.partition(":")[2]: wanted[name] for name in wanted.files if name.startswith("feed:")}
    found = {}
    for file, kinds in (("codes.onnx", ("code", "output")), ("model.onnx", ("output",))):
        names = [name for name in wanted.files if name.partition(":")[0] in kinds]
        results = session(folder / file, threads).run([name.partition(":")[2] for name in names], feeds)
        pairs = zip(names, results, strict=True)
        counts = {name: differing(wanted[name], np.asarray(result)) for name, result in pairs}
        found[file] = {name: count for name, count in counts.items() if count[0]}
    return found


def main():
    """Compare every folder; one that fails does not stop the others."""
    threads, folders = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    about = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "machine": platform.machine()}
    for folder in folders:
        try:
            result = {"differing": compare(folder, threads)}
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base; the reader sees the text
            result = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
        print(json.dumps({"folder": folder.name, **about, **result}), flush=True)


if __name__ == "__main__":
    main()
