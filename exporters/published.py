"""Which preprocessing belongs to a bare checkpoint file? Only what all published weights share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import USAGE, ExportError


def shared_preprocessing(candidates: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the preprocessing that all published weights of a model name agree on.

    A checkpoint file does not say how its images were prepared. Where the library's published weights of
    that name disagree (or there are none), a guess would be silent, so it is an error.

    Args:
        candidates: tag → preprocessing, of every published set of weights.

    Raises:
        ExportError: there are none, or they differ (exit 2).
    """
    values = list(candidates.values())
    if values and all(value == values[0] for value in values):
        return values[0]
    why = (
        f"the published weights ({', '.join(list(candidates)[:3])}, …) differ in theirs"
        if values
        else "the library publishes none for this name"
    )
    raise ExportError(
        f"{name}: preprocessing of this checkpoint is not known; {why}",
        "say it with --preprocessing FILE (see docs/onnx-contract.md)",
        exit_code=USAGE,
    )
