"""Training on a GPU ends in the integer model that was measured; batch norms over two processes see one batch."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_distribution import metrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BIN = Path(sys.executable).parent
FEW = shlex.split("--epochs 1,1,1 --pretrain-epochs 4 --teacher-pretrain-epochs 4 --json")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def qkd_deploy(folder: Path, *arguments: str) -> dict[str, Any]:
    """One process; its result as JSON."""
    command = [str(BIN / "qkd-deploy"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("options", ["", "--compile --channels-last", "--compile --precision bf16 --quantizer ewgs"])
def test_what_a_gpu_trained_is_verified_on_the_cpu(options: str, tmp_path: Path) -> None:
    trained = qkd_deploy(tmp_path, "train", "--out", "run", "--device", "cuda", *FEW, *options.split())
    assert trained["accuracy"] > 80
    qkd_deploy(tmp_path, "export", "--bits", "w4a4", "run/model.pt", "--output", "model.onnx", "--json")
    checks = ["--dataset", "digits", "--checkpoint", "run/model.pt", "--require-integer", "--json", "-"]
    verified = qkd_deploy(tmp_path, "verify", "model.onnx", *checks)
    # the GPU's integer model and ONNX Runtime agree on every image
    assert verified["accuracy"]["runtime"] == pytest.approx(trained["accuracy"], abs=1e-9)


def together(folder: Path, name: str, *arguments: str) -> None:
    """Train in two processes, on two GPUs or sharing one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(2):
        # NCCL refuses one GPU for two processes of a machine; with names of their own they count as two machines
        more = {"NCCL_HOSTID": f"machine{rank}", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
        more |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        more |= {"GROUP_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": name}
        command = [str(BIN / "qkd-deploy"), "train", "--out", name, *FEW, *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=folder, env=environment(**more), text=True, stderr=pipe))
    outputs = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs


def test_batch_norms_of_two_processes_see_the_whole_batch(tmp_path: Path) -> None:
    networks = ["--model", "plaincnn", "--teacher", "plaincnn", "--batch-size", "96", "--device", "cuda"]
    qkd_deploy(tmp_path, "train", "--out", "one", *FEW, *networks)
    together(tmp_path, "shared", *networks, "--sync-batch-norm")
    together(tmp_path, "apart", *networks)
    one, shared, apart = (metrics(tmp_path / name) for name in ("one", "shared", "apart"))
    assert [line["phase"] for line in one] == [line["phase"] for line in shared]
    assert len(one) == 11

    def distance(lines: list[dict[str, Any]]) -> float:
        """Largest relative difference of a loss from that of one process."""
        pairs = [(mine["losses"], other["losses"]) for mine, other in zip(one, lines, strict=True)]
        return max(abs(float(other[r][t] / mine[r][t]) - 1) for mine, other in pairs for r in mine for t in mine[r])

    assert distance(shared) < 0.05
    assert distance(apart) > 3 * distance(shared)
