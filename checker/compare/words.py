"""Words and records that several forms of a comparison share; pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from robustcheck_onnx.checker.evidence import Interval
from robustcheck_onnx.checker.text import interval_text, number_text, percent_text
from robustcheck_onnx.checker.verdict import NAMES

from .changes import Keeps, StatisticChange
from .fates import Fate, FeatureFate

Colour = Literal["pass", "warn", "muted"]

KEEPS: dict[Keeps, tuple[str, str, Colour]] = {
    "kept": ("✓", "kept", "pass"),
    "shrank": ("✗", "shrank", "warn"),
    "undecided": ("?", "undecided", "warn"),
    "not required": ("", "–", "muted"),
}
"""Sign, word and colour of what became of a statistic."""

FATES: dict[Fate, tuple[str, str, Colour]] = {
    "kept": ("✓", "kept", "pass"),
    "moved": ("→", "moved", "warn"),
    "rotated": ("✗", "rotated away", "warn"),
    "uncorrelated": ("✗", "another one", "warn"),
    "undecided": ("?", "undecided", "warn"),
    "lost": ("✗", "lost", "warn"),
}
"""The same of an outlier feature."""


class StatisticRow(NamedTuple):
    """One statistic of both models in words; "–" where a number is missing."""

    name: str
    candidate: str
    reference: str
    difference: str
    bounds: str
    """of the ratio"""
    ratio: Interval
    sign: str
    word: str
    colour: Colour


class FeatureRow(NamedTuple):
    """One outlier feature of the reference in words; "–" where a number is missing."""

    feature: str
    mean_z: str
    frequency: str
    """share of the images beyond 4 SD"""
    at: str
    """its index in the candidate"""
    candidate_mean_z: str
    candidate_frequency: str
    sign: str
    word: str
    colour: Colour


def statistic_row(change: StatisticChange) -> StatisticRow:
    """Write one statistic of both models."""
    candidate, reference = (number_text(value, missing="–") for value in (change.candidate, change.reference))
    difference, ratio = (_range(interval) for interval in (change.difference, change.ratio))
    return StatisticRow(NAMES[change.name], candidate, reference, difference, ratio, change.ratio, *KEEPS[change.keeps])


def _range(interval: Interval) -> str:
    estimate = "–" if interval.estimate is None else f"{number_text(interval.estimate)} (no bounds)"
    return interval_text(interval.low, interval.high, missing=estimate)


def feature_row(fate: FeatureFate) -> FeatureRow:
    """Write one outlier feature of the reference, and what became of it."""
    at, z, share = "–", "–", "–"
    if fate.candidate_mean_z is not None:
        at, z = str(fate.index if fate.to is None else fate.to), f"{fate.candidate_mean_z:+z.1f}"
        share = percent_text(fate.candidate_frequency)
    before = f"{fate.mean_z:+z.1f}"
    return FeatureRow(str(fate.index), before, percent_text(fate.frequency), at, z, share, *FATES[fate.fate])
