"""Networks of timm: one of them here, where timm imports; all of them in the full form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm_models
from trial import row

_WITHOUT = "import sys; sys.path.insert(0, {folder!r}); sys.modules['timm'] = None; import timm_models"


def test_a_network_of_timm_is_exact() -> None:
    reason = timm_models.missing()
    if reason:
        pytest.skip(reason)
    result = row("resnet18", lambda: timm_models.build("resnet18"), (3, 32, 32), "w4a4")
    assert result["floats"] == {} and result["float_kernels"] == {}
    assert result["differing"] == 0 and result["dead"] == []


def test_the_reason_is_said_where_timm_does_not_import() -> None:
    program = _WITHOUT.format(folder=str(Path(timm_models.__file__).parent)) + "; print(timm_models.missing())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("timm does not import (ModuleNotFoundError: ")
    assert done.stdout.endswith("make conformance installs it\n")
