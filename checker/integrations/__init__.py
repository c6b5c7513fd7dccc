"""The check inside other tools: pytest and MLflow, which are imported only where they are used.

Comes in: a model or a report. May import: everything but cli.
"""

from __future__ import annotations

from .mlflow_log import gate_model_version, log_report

__all__ = ["gate_model_version", "log_report"]
