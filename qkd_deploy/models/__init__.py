"""Reference networks, one file per family; ``registry`` names them."""

from __future__ import annotations

from qkd_deploy.models.registry import create_model, model_names

__all__ = ["create_model", "model_names"]
