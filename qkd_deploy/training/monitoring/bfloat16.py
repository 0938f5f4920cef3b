"""Tell whoever trains in float32 that the CPU has units for bfloat16."""

from __future__ import annotations

from pathlib import Path

from qkd_deploy.provenance import cpu_flags
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.dataset_defaults import defaults_for

_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Of x86, and of arm64; the first that a CPU has."""


def bfloat16_remark(config: TrainConfig, device: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Recommend what this CPU trains fastest with, in a sentence; "" where that is done, or unknown to pay off.

    Networks for the embedded data set are too small to gain.

    Args:
        config: of the run.
        device: type of device that it trains on.
        cpuinfo: what the CPU says of itself.
    """
    if device != "cpu" or config.precision != "fp32" or defaults_for(config.dataset):
        return ""
    unit = next((unit for unit in _UNITS if unit in cpu_flags(cpuinfo)), None)
    if unit is None:
        return ""
    options = "--precision bf16" + ("" if config.compile else " --compile")
    return f"this CPU multiplies in bfloat16 ({unit}): it trains fastest with {options}"
