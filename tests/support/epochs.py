"""Records of epochs."""

from __future__ import annotations

from dataclasses import replace

from qkd_deploy.training.monitoring.metrics import EpochRecord

RECORD = EpochRecord(
    stage="qkd",
    phase="co-study",
    epoch=1,
    epochs=4,
    losses={"student": {"ce": 0.5, "kl": 0.25}, "teacher": {"ce": 0.125, "kl": 1.0}},
    learning_rates={"student": 0.01, "teacher": 0.001},
    step_movement={"weight_steps": 0.001, "activation_steps": 0.01},
    accuracy=97.5,
    seconds=2.0,
    images_per_second=800.0,
)
PRETRAINING = replace(
    RECORD,
    stage="pretrain-teacher",
    phase="pretrain-teacher",
    losses={"teacher": {"ce": 1.5}},
    learning_rates={"teacher": 0.1},
    step_movement={},
    accuracy=60.0,
)
