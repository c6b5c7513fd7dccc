"""What a measured accuracy under a shift is compared with: baselines of one source, and how its own models scatter.

The published accuracies and where they come from: docs/published.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from robustcheck_onnx.thresholds.effective_robustness import (
    LOWEST_ACCURACY,
    Baseline,
    effective_robustness,
    fit_baseline,
)
from robustcheck_onnx.thresholds.published import (
    IMAGENET,
    MIDDLE,
    SHIFTS,
    Published,
    Spread,
    baselines,
    is_standard,
    published,
)

SOURCES = ("timm", "testbed")
FITTED_ON = {
    "timm": "timm's models trained on ImageNet-1k only",
    "testbed": "imagenet-testbed's standard models of 55 % ImageNet top-1 or more",
}


def origin(source: str, shift: str) -> str:
    """Which library's models the line of a shift is fitted on: timm publishes no ObjectNet accuracies."""
    return "testbed" if shift == "objectnet" else source


@cache
def lines(source: str) -> Mapping[str, Baseline]:
    """The baseline of each shift, fitted on `source`'s models that have no effective robustness by their training.

    "timm" is published.baselines(); "testbed" fits every shift on imagenet-testbed's standard models, without those
    that have an accuracy of 0: it has no logit (ImageNet-A was made of images that ResNet-50 gets wrong).
    """
    if source == "timm":
        return baselines()
    return MappingProxyType(
        {
            shift: fit_baseline(
                *zip(*((r.accuracy[IMAGENET], r.accuracy[shift]) for r in _models(source, shift)), strict=True)
            )
            for shift in SHIFTS
        }
    )


@cache
def usual(source: str, shifts: tuple[str, ...]) -> Spread:
    """How the mean effective robustness over `shifts` scatters among the models that the lines were fitted on.

    Models of LOWEST_ACCURACY on ImageNet or more that have all of `shifts`; median and 5–95 %, percentage points.
    Raises ValueError when there is no such model.
    """
    models = [
        row
        for row in _models(origin(source, shifts[0]), shifts[0])
        if all(shift in row.accuracy for shift in shifts) and row.accuracy[IMAGENET] >= LOWEST_ACCURACY
    ]
    if not models:
        raise ValueError(f"shifts are {', '.join(shifts)}; no model of {source} has all of them")
    points = _points(models, shifts, source)
    low, high = np.percentile(points, MIDDLE)
    return Spread(len(models), float(np.median(points)), float(low), float(high))


def _points(models: Sequence[Published], shifts: Sequence[str], source: str) -> NDArray[np.float64]:
    x = [row.accuracy[IMAGENET] for row in models]
    found = [
        effective_robustness(x, [row.accuracy[shift] for row in models], lines(source)[shift]).points
        for shift in shifts
    ]
    return np.asarray(np.mean(found, axis=0))


def _models(library: str, shift: str) -> list[Published]:
    rows = [row for row in published() if row.library == library and {IMAGENET, shift} <= row.accuracy.keys()]
    if library == "timm":
        return [row for row in rows if row.group == "in1k_only"]
    return [row for row in rows if is_standard(row) and row.accuracy[shift] > 0]
