"""Fits thresholds to measured sets with labels; pure.

A set passes when every statistic lies above its threshold, so a set without the label is turned away by any one of
them. Thresholds are placed so that none of those sets passes, and then so that as many sets with the label pass as
can: each lies `GAP_POSITION` of the way from the largest value below the passing sets to their smallest. Kurtosis and
its ratio are placed on a logarithmic scale, shares on a linear one. Rectified sets are turned away first, by negative
energy, and take no part in the other thresholds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .profile import STATISTICS, Statistic, Threshold
from .reference import Reference

GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
LOGARITHMIC = ("kurtosis", "persistence_ratio")  # ratios; the others are shares
ENERGIES: tuple[Statistic, ...] = ("negative_energy", "negative_z_energy")
STRENGTHS: tuple[Statistic, ...] = ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
MIN_ENERGY_GAP = 0.1  # between rectified and signed; the reference table has .29, signed sets among themselves .06
GAUSSIAN: dict[Statistic, float] = {"kurtosis": 3, "persistence_ratio": 1, "top3_share": 0, "outlier_frequency": 0}
"""What Gaussian features without any outlier feature read, however many images."""
NO_SET = "none: Gaussian features"
DIGITS = 3  # decimal places of a threshold


class Fit(NamedTuple):
    """Thresholds and what they do to the sets they were fitted to."""

    thresholds: dict[Statistic, Threshold]
    missed: tuple[str, ...]
    """sets with the label that do not pass"""
    borrowed: tuple[Statistic, ...]
    """thresholds taken from the fallback, since no set says where they belong"""


class Rule(NamedTuple):
    """How to fit: the same for every refit of a calibration."""

    position: float = GAP_POSITION
    """of the gap, from without to with"""
    all_must_pass: bool = True
    """True: sets with the label that overlap with others are an error; False: they are missed, and said"""
    fallback: Mapping[Statistic, Threshold] | None = None
    """thresholds of negative energy for tables without rectified sets"""


STRICT_RULE = Rule()


def value(row: Reference, name: Statistic) -> float:
    """The estimate of one statistic."""
    return float(getattr(row, name))


def taking_part(table: Sequence[Reference]) -> list[Reference]:
    """The sets without a reason to leave them out."""
    return [row for row in table if not row.excluded]


def with_label(expected: str, sets: Sequence[Reference]) -> list[Reference]:
    """The sets that are `expected` (present or absent) to show outlier features."""
    return [row for row in sets if row.expected == expected]


def checkpoint_of(row: Reference) -> str:
    """The checkpoint without the note on how it was loaded: the unit that is left out."""
    return row.checkpoint.split(" (")[0]


def checkpoints(table: Sequence[Reference]) -> list[str]:
    """The different checkpoints, in the table's order."""
    return list(dict.fromkeys(map(checkpoint_of, table)))


def passes(row: Reference, thresholds: Mapping[Statistic, Threshold]) -> bool:
    """Whether the point estimates of a set lie above every threshold."""
    return all(value(row, name) > thresholds[name].minimum for name in STATISTICS)


def fit(table: Sequence[Reference], rule: Rule = STRICT_RULE) -> Fit:
    """Thresholds from the sets that take part.

    Args:
        table: measured sets; those with a reason in `excluded` are left out.
        rule: how to place thresholds, and what an overlap means.

    Raises:
        ValueError: no set with, or no signed set without the label; or the two overlap, and with
            `rule.all_must_pass` one is enough for that.
    """
    used = taking_part(table)
    if {r.expected for r in used} != {"present", "absent"}:
        raise ValueError("the table needs sets with and without the indication")
    out, borrowed = _energies(used, rule)
    signed = [r for r in used if value(r, "negative_energy") > out["negative_energy"].minimum]
    present, absent = with_label("present", signed), with_label("absent", signed)
    if not present or not absent:
        raise ValueError("the table needs signed sets with and without the indication")
    passing = present if rule.all_must_pass else _that_pass_together(present, absent)
    for name in STRENGTHS:
        high = min(passing, key=lambda r: value(r, name))
        floor = min(r.low[name] for r in passing)
        below = absent if rule.all_must_pass else [r for r in absent if r.high[name] < floor]
        # where no set without the label lies below, the other statistics turn all of them away
        low = max(((r.set, r.high[name]) for r in below), key=lambda pair: pair[1], default=(NO_SET, GAUSSIAN[name]))
        out[name] = _place(low, (high.set, value(high, name)), name in LOGARITHMIC, rule.position)
    thresholds = {name: out[name] for name in STATISTICS}
    missed = tuple(sorted(r.set for r in used if r.expected == "present" and not passes(r, thresholds)))
    return Fit(thresholds, missed, borrowed)


def _that_pass_together(present: list[Reference], absent: list[Reference]) -> list[Reference]:
    """The sets with the label that can pass together, found by leaving out the weakest until they can.

    Each set without the label must lie clearly below them by some statistic: its upper bound below all of their lower
    bounds. Of the weakest by each statistic, the one goes whose going leaves the fewest sets that do not, then the one
    with the smallest persistence ratio.
    """
    passing = list(present)
    while _n_not_below(passing, absent):
        if len(passing) == 1:
            last = passing[0].set
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {last}")
        weakest: dict[str, Reference] = {}
        for name in STRENGTHS:
            lowest = min(r.low[name] for r in passing)
            weakest |= {r.set: r for r in passing if r.low[name] == lowest}
        ranked = []
        for w in weakest.values():
            left = _n_not_below([r for r in passing if r is not w], absent)
            ranked.append((left, w.persistence_ratio, w.set))
        dropped = min(ranked)[2]
        passing = [r for r in passing if r.set != dropped]
    return passing


def _n_not_below(passing: list[Reference], absent: list[Reference]) -> int:
    """How many sets without the label are not clearly below the passing ones by any statistic."""
    floor = {name: min(r.low[name] for r in passing) for name in STRENGTHS}
    return sum(all(r.high[name] >= floor[name] for name in STRENGTHS) for r in absent)


def _energies(used: list[Reference], rule: Rule) -> tuple[dict[Statistic, Threshold], tuple[Statistic, ...]]:
    """The two thresholds that turn rectified sets away, and which of them were borrowed."""
    try:
        energy = _negative_energy(used, rule)
    except ValueError:
        if rule.fallback is None:
            raise
        return {name: rule.fallback[name] for name in ENERGIES}, ENERGIES
    signed = [r for r in used if value(r, "negative_energy") > energy.minimum]
    rectified = [r for r in used if r not in signed]
    name: Statistic = "negative_z_energy"
    low = max(rectified, key=lambda r: r.high[name])
    high = min(with_label("present", signed), key=lambda r: value(r, name))
    try:
        z_energy = _place((low.set, low.high[name]), (high.set, value(high, name)), False, rule.position)
    except ValueError:
        if rule.fallback is None:
            raise
        return {"negative_energy": energy, name: rule.fallback[name]}, (name,)
    return {"negative_energy": energy, name: z_energy}, ()


def _negative_energy(used: list[Reference], rule: Rule) -> Threshold:
    """In the widest gap below every set with the label."""
    name: Statistic = "negative_energy"
    ordered = sorted(used, key=lambda r: value(r, name))
    first = next(i for i, r in enumerate(ordered) if r.expected == "present")
    gaps = [(b.low[name] - a.high[name], i) for i, (a, b) in enumerate(itertools.pairwise(ordered[: first + 1]))]
    width, i = max(gaps, default=(0.0, 0))
    if width < MIN_ENERGY_GAP:
        raise ValueError(
            f"no rectified set lies below {ordered[first].set} by {MIN_ENERGY_GAP:g} of negative energy or more"
        )
    low, high = ordered[i], ordered[i + 1]
    return _place((low.set, low.high[name]), (high.set, high.low[name]), False, rule.position)


def _place(low: tuple[str, float], high: tuple[str, float], log: bool, position: float) -> Threshold:
    """The threshold between two (set, value)."""
    if not low[1] < high[1]:
        raise ValueError(f"{low[0]} ({low[1]}) and {high[0]} ({high[1]}) overlap: no threshold parts them")
    if log:
        minimum = math.exp(math.log(low[1]) + position * (math.log(high[1]) - math.log(low[1])))
    else:
        minimum = low[1] + position * (high[1] - low[1])
    minimum = round(minimum, DIGITS)
    return Threshold(
        minimum=minimum,
        highest_without=low[1],
        highest_without_set=low[0],
        lowest_with=high[1],
        lowest_with_set=high[0],
        bootstrap_low=minimum,
        bootstrap_high=minimum,
    )
