"""Train, export and verify integer models: the accuracy reported is that of the model that runs, bit for bit.

The names below are the public API. They are imported on first use, so that ``import qkd_deploy`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qkd_deploy.errors import UserError

if TYPE_CHECKING:
    from qkd_deploy.calibration.calibrate import CalibrationWarning, calibrate
    from qkd_deploy.calibration.one_batch import initialize
    from qkd_deploy.calibration.reconstruct import reconstruct
    from qkd_deploy.data.registry import load_dataset
    from qkd_deploy.export.onnx_export import export_onnx
    from qkd_deploy.graph.integer.freeze import freeze
    from qkd_deploy.graph.prepare import prepare
    from qkd_deploy.models.registry import create_model
    from qkd_deploy.training.config import TrainConfig
    from qkd_deploy.training.loop.parameter_groups import parameter_groups
    from qkd_deploy.training.loop.steps_optimizer import RelativeAdam
    from qkd_deploy.training.run import train
    from qkd_deploy.verification.verify import verify_onnx
    from qkd_deploy.workflows.export import load

__version__ = "0.1.0"

__all__ = [
    "CalibrationWarning",
    "RelativeAdam",
    "TrainConfig",
    "UserError",
    "__version__",
    "calibrate",
    "create_model",
    "export_onnx",
    "freeze",
    "initialize",
    "load",
    "load_dataset",
    "parameter_groups",
    "prepare",
    "reconstruct",
    "train",
    "verify_onnx",
]

_HOME = {
    "CalibrationWarning": "qkd_deploy.calibration.calibrate",
    "RelativeAdam": "qkd_deploy.training.loop.steps_optimizer",
    "TrainConfig": "qkd_deploy.training.config",
    "calibrate": "qkd_deploy.calibration.calibrate",
    "create_model": "qkd_deploy.models.registry",
    "export_onnx": "qkd_deploy.export.onnx_export",
    "freeze": "qkd_deploy.graph.integer.freeze",
    "initialize": "qkd_deploy.calibration.one_batch",
    "load": "qkd_deploy.workflows.export",
    "load_dataset": "qkd_deploy.data.registry",
    "parameter_groups": "qkd_deploy.training.loop.parameter_groups",
    "prepare": "qkd_deploy.graph.prepare",
    "reconstruct": "qkd_deploy.calibration.reconstruct",
    "train": "qkd_deploy.training.run",
    "verify_onnx": "qkd_deploy.verification.verify",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
