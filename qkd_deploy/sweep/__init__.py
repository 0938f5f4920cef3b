"""Sweeps: every combination of some settings, trained, exported and verified by processes of the command line."""

from __future__ import annotations

from qkd_deploy.sweep.runner import SweepReport, run_sweep

__all__ = ["SweepReport", "run_sweep"]
