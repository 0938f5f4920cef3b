"""Where a benchmark comes from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from qkd_deploy import provenance as package


def provenance() -> dict[str, Any]:
    """Software, hardware, commit and command line of this benchmark."""
    return package.provenance(shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]))
