"""Fits thresholds to measured sets with labels; pure.

A set passes when each deciding statistic lies above its threshold, so any one of them turns a set away that is without
the label, or a trap. Each of those is given to the statistic that turns it away by the widest factor; a statistic's
threshold lies `GAP_POSITION` of the way from the largest value among those it was given (over random subsets of 50
images) to the smallest estimate of a passing set: on a logarithmic scale for kurtosis and its ratio, a linear one for
shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .profile import ENERGIES, STATISTICS, Statistic, Threshold
from .reference import Reference

GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
LOGARITHMIC = ("kurtosis", "persistence_ratio")  # ratios; the others are shares
MIN_ENERGY_GAP = 0.05  # below it an energy turns nobody away: signed sets differ by as much among themselves
SMALLEST = 0.01  # what a factor takes for a share of nothing
NOTHING: dict[Statistic, float] = {**dict.fromkeys(STATISTICS, 0.0), "kurtosis": 3.0, "persistence_ratio": 1.0}
"""What Gaussian features without any outlier feature read, however many images, and rectified ones (energies)."""
NO_SET = "none"
DIGITS = 3  # decimal places of a threshold

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class Fit(NamedTuple):
    """Thresholds and what they do to the sets they were fitted to."""

    thresholds: dict[Statistic, Threshold]
    missed: tuple[str, ...]
    """sets with the label that do not pass"""
    nearest: tuple[tuple[str, Statistic, float], ...]
    """(set without the label or trap, the statistic that turns it away, by what factor it lies below the least of the
    passing sets), the nearest first"""


class Rule(NamedTuple):
    """How to fit: the same for every refit of a calibration."""

    statistics: tuple[Statistic, ...] = STATISTICS
    """those that decide"""
    position: float = GAP_POSITION
    """of the gap, from without to with"""
    all_must_pass: bool = True
    """True: sets with the label that overlap with others are an error; False: they are missed, and said"""


STRICT_RULE = Rule()


def taking_part(table: Sequence[Reference]) -> list[Reference]:
    """The sets that are evidence."""
    return [row for row in table if not row.excluded]


def with_label(expected: str, sets: Sequence[Reference]) -> list[Reference]:
    """The sets that are `expected` (present or absent) to show the indication."""
    return [row for row in sets if row.expected == expected]


def models(table: Sequence[Reference]) -> list[str]:
    """The different checkpoints, in the table's order."""
    return list(dict.fromkeys(row.model for row in table))


class Sets:
    """Rows of a table as arrays, so that a table can be fitted without one checkpoint after another.

    estimate, least, most: (set, statistic) float64, the statistics in the order of `STATISTICS`.
    """

    def __init__(self, rows: Sequence[Reference]) -> None:
        self.rows = tuple(rows)
        columns = [[row.estimate, row.least, row.most] for row in rows]
        values = np.array([[[of(name) for name in STATISTICS] for of in row] for row in columns])
        self.estimate, self.least, self.most = np.moveaxis(values.reshape(len(rows), 3, len(STATISTICS)), 1, 0)
        self.present = np.array([not row.excluded and row.expected == "present" for row in rows], dtype=bool)
        self.absent = np.array([not row.excluded and row.expected == "absent" for row in rows], dtype=bool)
        self.trap = np.array([row.trap for row in rows], dtype=bool)

    def keep(self, wanted: Mask) -> Sets:
        """These rows only; wanted: (set,) bool."""
        out = object.__new__(Sets)
        out.rows = tuple(row for row, want in zip(self.rows, wanted, strict=True) if want)
        for name in ("estimate", "least", "most", "present", "absent", "trap"):
            setattr(out, name, getattr(self, name)[wanted])
        return out

    def of_model(self, model: str) -> Mask:
        """(set,) bool: which rows are of this checkpoint."""
        return np.array([row.model == model for row in self.rows], dtype=bool)

    def of_group(self, group: str) -> Mask:
        """(set,) bool: which rows are of this family."""
        return np.array([row.group == group for row in self.rows], dtype=bool)

    def passing(self, thresholds: Mapping[Statistic, Threshold]) -> Mask:
        """(set,) bool: whether the point estimates of a set lie above every threshold."""
        minimum = np.array([thresholds[name].minimum if name in thresholds else -math.inf for name in STATISTICS])
        return np.asarray((self.estimate > minimum).all(axis=1))


def passes(row: Reference, thresholds: Mapping[Statistic, Threshold]) -> bool:
    """Whether the point estimates of a set lie above every threshold."""
    return all(row.estimate(name) > threshold.minimum for name, threshold in thresholds.items())


def fit(table: Sequence[Reference] | Sets, rule: Rule = STRICT_RULE) -> Fit:
    """Thresholds from the sets that take part, and from the traps.

    Args:
        table: measured sets; those with a reason in `excluded` are left out, unless they are traps.
        rule: which statistics decide, how thresholds are placed, and what an overlap means.

    Raises:
        ValueError: no set with, or none without the label; or the two overlap, and with `rule.all_must_pass` one is
            enough for that.
    """
    sets = table if isinstance(table, Sets) else Sets(table)
    if not sets.present.any() or not sets.absent.any():
        raise ValueError("the table needs sets with and without the indication")
    columns = np.array([STATISTICS.index(name) for name in rule.statistics])
    passing = np.flatnonzero(sets.present)
    if not rule.all_must_pass:
        passing = _that_pass_together(sets, passing, columns)
    without = np.flatnonzero(sets.absent | sets.trap)
    factors = _factors(sets, passing, without, columns)
    best, factor = factors.argmax(axis=1), factors.max(axis=1)
    if (factor <= 0).any():
        overlapping = sets.rows[without[factor.argmin()]].set
        lowest = sets.rows[passing[sets.least[np.ix_(passing, columns)].argmin(axis=0)[best[factor.argmin()]]]].set
        raise ValueError(f"{overlapping} and {lowest} overlap: no threshold parts them")
    out: dict[Statistic, Threshold] = {}
    for place, name in enumerate(rule.statistics):
        given = without[best == place]
        low = _named(sets, sets.most, given, columns[place], np.argmax) if len(given) else (NOTHING[name], NO_SET)
        high = _named(sets, sets.estimate, passing, columns[place], np.argmin)
        out[name] = _place(low, high, name in LOGARITHMIC, rule.position)
    missed = tuple(sorted(sets.rows[i].set for i in np.flatnonzero(sets.present & ~sets.passing(out))))
    order = np.argsort(factor, kind="stable")
    nearest = tuple(
        (sets.rows[without[i]].set, rule.statistics[best[i]], round(math.exp(factor[i]), DIGITS)) for i in order
    )
    return Fit(out, missed, nearest)


def _named(
    sets: Sets, values: Array, rows: Indices, column: int, which: Callable[[Array], np.intp]
) -> tuple[float, str]:
    row = rows[which(values[rows, column])]
    return float(values[row, column]), sets.rows[row].set


def _factors(sets: Sets, passing: Indices, without: Indices, columns: Indices) -> Array:
    """(set without, statistic): by what factor, as its logarithm, a set lies below the least of the passing ones.

    0 or less: it does not. An energy turns nobody away by less than `MIN_ENERGY_GAP`.
    """
    floor = sets.least[np.ix_(passing, columns)].min(axis=0)
    most = sets.most[np.ix_(without, columns)]
    out = np.log(np.maximum(floor, SMALLEST)) - np.log(np.maximum(most, SMALLEST))
    energies = np.array([STATISTICS[column] in ENERGIES for column in columns])
    return np.where(energies & (floor - most < MIN_ENERGY_GAP), -math.inf, out)


def _that_pass_together(sets: Sets, present: Indices, columns: Indices) -> Indices:
    """The sets with the label that can pass together, found by leaving out the weakest until they can.

    Each set without the label must lie clearly below them by some statistic: its largest value below the least of
    theirs. Of the weakest by each statistic, the one goes whose going leaves the fewest sets that do not, then the one
    with the smallest persistence ratio.
    """
    without = np.flatnonzero(sets.absent | sets.trap)

    def n_not_below(passing: Indices) -> int:
        return int((_factors(sets, passing, without, columns) <= 0).all(axis=1).sum())

    passing = present
    while n_not_below(passing):
        if len(passing) == 1:
            last = sets.rows[passing[0]].set
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {last}")
        least = sets.least[np.ix_(passing, columns)]
        weakest = np.flatnonzero((least == least.min(axis=0)).any(axis=1))
        dropped = min(
            weakest,
            key=lambda place: (
                n_not_below(np.delete(passing, place)),
                sets.rows[passing[place]].persistence_ratio,
                sets.rows[passing[place]].set,
            ),
        )
        passing = np.delete(passing, dropped)
    return passing


def _place(low: tuple[float, str], high: tuple[float, str], log: bool, position: float) -> Threshold:
    """The threshold between two (value, set)."""
    if log:
        minimum = math.exp(math.log(low[0]) + position * (math.log(high[0]) - math.log(low[0])))
    else:
        minimum = low[0] + position * (high[0] - low[0])
    minimum = round(minimum, DIGITS)
    return Threshold(
        minimum=minimum,
        highest_without=low[0],
        highest_without_set=low[1],
        lowest_with=high[0],
        lowest_with_set=high[1],
        bootstrap_low=minimum,
        bootstrap_high=minimum,
    )
