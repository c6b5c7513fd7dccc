"""The record of what is published about a checkpoint, by itself: who reads a report needs no NumPy."""

from __future__ import annotations

from .frozen import Frozen


class Context(Frozen):
    """What is published about the checkpoint that an export names; beside the evidence, it never decides."""

    library: str
    model: str
    weights: str
    image_size_px: int | None
    effective_robustness_pp: dict[str, float]
    mean_pp: float | None
    extrapolated: bool
    """of any shift shown"""
    source: str
    sentence: str
