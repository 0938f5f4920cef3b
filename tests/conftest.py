"""Settings of all tests: one thread per process, reproducible and patient property tests."""

from __future__ import annotations

import os

import pytest

# Before anything imports torch or numpy: several test processes share the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# No test reaches for the network: nothing listens at the discard port.
os.environ["QKD_DEPLOY_MIRROR"] = "http://127.0.0.1:9"

# Every graph is checked after each stage of its preparation.
os.environ["QKD_DEPLOY_CHECK_GRAPHS"] = "1"

from hypothesis import settings  # noqa: E402

# Examples are the same in every run, and a busy machine is no reason to fail.
settings.register_profile("tests", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test sees the same random weights on every run.

    Some random networks of a few channels are dead behind their first ReLU, where no step has a gradient.
    """
    import torch

    torch.manual_seed(0)
