"""Distillation: losses, and one file per method, each a short list of phases."""

from __future__ import annotations

from qkd_deploy.distill.losses import cross_entropy, distillation_kl
from qkd_deploy.distill.methods import METHODS, Method, MethodOptions, method_named
from qkd_deploy.distill.phases import Outputs, Phase, split_epochs

__all__ = [
    "METHODS",
    "Method",
    "MethodOptions",
    "Outputs",
    "Phase",
    "cross_entropy",
    "distillation_kl",
    "method_named",
    "split_epochs",
]
