"""Where a benchmark comes from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from qkd_deploy import provenance as package


def provenance() -> dict[str, Any]:
    """Software, hardware, commit and command line of this benchmark."""
    found = package.provenance(shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]))
    return found | ({"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})
