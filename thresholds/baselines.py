"""The baselines that accuracies measured under a shift are compared with, and how the models behind them scatter.

The published accuracies and where they come from: docs/published.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np

from .effective_robustness import LOWEST_ACCURACY, Baseline, effective_robustness
from .published import IMAGENET, SHIFTS, Published, Spread, baseline_on, baselines, is_standard, published, spread_of

SOURCES = ("timm", "testbed")
FITTED_ON = {
    "timm": "timm's models trained on ImageNet-1k only",
    "testbed": "imagenet-testbed's standard models of 55 % ImageNet top-1 or more",
}


def library_of(source: str, shift: str) -> str:
    """Which library's models the baseline of a shift is fitted on: timm publishes no ObjectNet accuracies."""
    return "testbed" if shift == "objectnet" else source


@cache
def baselines_of(source: str) -> Mapping[str, Baseline]:
    """The baseline of each shift, fitted on `source`'s models that have no effective robustness by their training.

    "timm" is published.baselines(); "testbed" fits every shift on imagenet-testbed's standard models, without those
    that have an accuracy of 0: it has no logit (ImageNet-A was made of images that ResNet-50 gets wrong).
    """
    if source == "timm":
        return baselines()
    return MappingProxyType({shift: baseline_on(_models(source, shift), shift) for shift in SHIFTS})


@cache
def usual_robustness(source: str, shifts: tuple[str, ...]) -> Spread:
    """How the mean effective robustness over `shifts` scatters among the models that the baselines were fitted on.

    Models of LOWEST_ACCURACY on ImageNet or more that have all of `shifts`; median and 5–95 %, percentage points.
    Raises ValueError when there is no such model.
    """
    models = [
        row
        for row in _models(library_of(source, shifts[0]), shifts[0])
        if all(shift in row.accuracy for shift in shifts) and row.accuracy[IMAGENET] >= LOWEST_ACCURACY
    ]
    if not models:
        raise ValueError(f"shifts are {', '.join(shifts)}; no model of {source} has all of them")
    return spread_of(_mean_robustness(models, shifts, source))


def _mean_robustness(models: Sequence[Published], shifts: Sequence[str], source: str) -> list[float]:
    x = [row.accuracy[IMAGENET] for row in models]
    found = [
        effective_robustness(x, [row.accuracy[shift] for row in models], baselines_of(source)[shift]).points
        for shift in shifts
    ]
    means: list[float] = np.mean(found, axis=0).tolist()
    return means


def _models(library: str, shift: str) -> list[Published]:
    rows = [row for row in published() if row.library == library and {IMAGENET, shift} <= row.accuracy.keys()]
    if library == "timm":
        return [row for row in rows if row.group == "in1k_only"]
    return [row for row in rows if is_standard(row) and row.accuracy[shift] > 0]
