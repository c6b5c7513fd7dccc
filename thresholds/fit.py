"""Fit thresholds to measured sets, and judge each checkpoint by a fit to the others.

A set passes when each deciding statistic lies above its threshold, so any one of them turns away a set without the
label, or a trap. Each of those is given to the statistic that turns it away by the widest factor. The threshold of a
statistic lies `GAP_POSITION` of the way from the largest estimate that it was given to the smallest of a passing set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import Texts
from .profile import Threshold
from .statistics import DECIDING, Statistic
from .tables import ReferenceSet

GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
SMALLEST = 0.01  # the least value for which a factor is computed
NO_SET = "none"
DIGITS = 3  # decimal places of a threshold


Array = npt.NDArray[np.float64]


Mask = npt.NDArray[np.bool_]


Indices = npt.NDArray[np.intp]


class Scale(NamedTuple):
    """The placement rule of one statistic's threshold."""

    nothing: float = 0.0
    """what Gaussian features give"""
    logarithmic: bool = False
    least_gap: float = 0.0
    """the statistic turns nobody away by less"""
    most: float = math.inf
    """the highest threshold; the strongest that 50 images can show must clear it"""


SCALES: dict[str, Scale] = {
    "strength": Scale(0.1, logarithmic=True),
    "outlier_frequency": Scale(most=0.85),  # 50 images of 50 give a lower bound of 0.87
    "two_sidedness": Scale(least_gap=0.05),  # two-sided sets differ by as much among themselves
}


class Fit(NamedTuple):
    """The thresholds and their judgement of the fitted sets."""

    thresholds: dict[Any, Threshold]
    """by the name of the statistic"""
    missed: Texts
    """sets with the label that do not pass"""
    nearest: tuple[tuple[str, Any, float], ...]
    """(set without the label or trap, the statistic that turns it away, by what factor it lies below the least of the
    passing sets), the nearest first"""

    @property
    def minimums(self) -> dict[str, float]:
        """Return the thresholds alone."""
        return {name: one.minimum for name, one in self.thresholds.items()}


class Rule(NamedTuple):
    """The settings of a fit, the same for every refit of a calibration."""

    position: float = GAP_POSITION
    """of the gap, from without to with"""
    all_must_pass: bool = True
    """True: sets with the label that overlap with others are an error; False: they are missed"""


STRICT_RULE = Rule()


def taking_part(table: Sequence[ReferenceSet]) -> list[ReferenceSet]:
    """Return the sets that are evidence."""
    return [row for row in table if not row.excluded]


def with_label(expected: str, sets: Sequence[ReferenceSet]) -> list[ReferenceSet]:
    """Return the sets that are `expected`: present or absent."""
    return [row for row in sets if row.expected == expected]


def models(table: Sequence[ReferenceSet]) -> list[str]:
    """Return the different checkpoints, in the table's order."""
    return list(dict.fromkeys(row.model for row in table))


class Sets(NamedTuple):
    """The rows of a table with their estimates."""

    rows: tuple[ReferenceSet, ...]
    names: Texts
    values: Array
    """(set, statistic)"""

    @classmethod
    def of(
        cls,
        rows: Sequence[ReferenceSet],
        names: Sequence[str] = DECIDING,
        value: Callable[[ReferenceSet, str], float] = getattr,
    ) -> Sets:
        """Read the estimates of some statistics from rows."""
        estimates = [[value(row, name) for name in names] for row in rows]
        shape = (len(rows), len(names))
        return cls(tuple(rows), tuple(names), np.array(estimates, dtype=np.float64).reshape(shape))

    def keep(self, wanted: Mask) -> Sets:
        """Keep these rows only; wanted: (set,) bool."""
        rows = tuple(compress(self.rows, wanted))
        return self._replace(rows=rows, values=self.values[wanted])

    def which(self, is_so: Callable[[ReferenceSet], bool]) -> Mask:
        """Return which rows satisfy a condition, (set,) bool."""
        return np.array([is_so(row) for row in self.rows], dtype=bool)

    @property
    def present(self) -> Mask:
        """Return which sets have evidence and label, (set,) bool."""
        return self.which(lambda row: not row.excluded and row.expected == "present")

    @property
    def without(self) -> Mask:
        """Return which sets have evidence and no label, or are traps: they must not pass, (set,) bool."""
        return self.which(lambda row: row.trap or (not row.excluded and row.expected == "absent"))

    def passing(self, minimums: Mapping[Any, float]) -> Mask:
        """Return which sets have estimates above every threshold, (set,) bool."""
        least = np.array([minimums.get(name, -math.inf) for name in self.names])
        return np.asarray((self.values > least).all(axis=1))


def passes(row: ReferenceSet, thresholds: Mapping[Statistic, Threshold]) -> bool:
    """Return whether a set's estimates lie above every threshold."""
    return all(getattr(row, name) > threshold.minimum for name, threshold in thresholds.items())


def fit(sets: Sets, rule: Rule = STRICT_RULE, scales: Mapping[str, Scale] = SCALES) -> Fit:
    """Fit thresholds to the traps and to the sets that take part.

    Args:
        sets: those with a reason in `excluded` are left out, unless they are traps.
        rule: how thresholds are placed, and what an overlap means.
        scales: of each statistic.

    Raises:
        ValueError: no set with, or none without the label; or the two overlap, and with `rule.all_must_pass` one is
            enough for that.
    """
    present = np.flatnonzero(sets.present)
    absent = np.flatnonzero(sets.without)
    if not len(present) or all(sets.rows[i].trap for i in absent):
        raise ValueError("the table needs sets with and without the indication")
    passing = present if rule.all_must_pass else _that_pass_together(sets, present, absent, scales)
    factors = _factors(sets, passing, absent, scales)
    best = factors.argmax(axis=1)
    factor = factors.max(axis=1)
    if (factor <= 0).any():
        worst = factor.argmin()
        lowest = passing[sets.values[passing, best[worst]].argmin()]
        without = sets.rows[absent[worst]].set
        raise ValueError(f"{without} and {sets.rows[lowest].set} overlap: no threshold parts them")
    thresholds = {}
    for column, name in enumerate(sets.names):
        rejected = absent[best == column]
        thresholds[name] = _threshold(sets, column, passing, rejected, scales[name], rule.position)
    minimums = {name: threshold.minimum for name, threshold in thresholds.items()}
    failing = sets.keep(sets.present & ~sets.passing(minimums))
    missed = sorted(row.set for row in failing.rows)
    nearest = []
    for i in np.argsort(factor, kind="stable"):
        name = sets.rows[absent[i]].set
        times = round(math.exp(factor[i]), DIGITS)
        nearest.append((name, sets.names[best[i]], times))
    return Fit(thresholds, tuple(missed), tuple(nearest))


def _threshold(
    sets: Sets, column: int, passing: Indices, rejected: Indices, scale: Scale, position: float
) -> Threshold:
    """Place the threshold of a statistic between the sets that were given to it and those that pass."""
    values = sets.values[:, column]
    weakest = passing[values[passing].argmin()]
    low = scale.nothing
    low_set = NO_SET
    if len(rejected) and values[rejected].max() > low:
        strongest = rejected[values[rejected].argmax()]
        low = float(values[strongest])
        low_set = sets.rows[strongest].set
    high = float(values[weakest])
    return Threshold(
        minimum=_between(low, high, scale, position),
        highest_without=low,
        highest_without_set=low_set,
        lowest_with=high,
        lowest_with_set=sets.rows[weakest].set,
    )


def _between(low: float, high: float, scale: Scale, position: float) -> float:
    threshold = low + position * (high - low)
    if scale.logarithmic:
        threshold = low * (high / low) ** position
    return round(max(min(threshold, scale.most), low), DIGITS)


def _factors(sets: Sets, passing: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Array:
    """Return the logarithm of the factor by which sets lie below the least passing one, (set without, statistic).

    A set does not lie below by a statistic where it is 0 or less.
    """
    floor = sets.values[passing].min(axis=0)
    without = sets.values[absent]
    out = np.log(np.maximum(floor, SMALLEST)) - np.log(np.maximum(without, SMALLEST))
    gaps = np.array([scales[name].least_gap for name in sets.names])
    return np.where(floor - without < gaps, -math.inf, out)


def _that_pass_together(sets: Sets, present: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Indices:
    """Find the sets with the label that pass together, without the weakest.

    Each set without the label must lie below them by some statistic. Of the weakest by each statistic, the one goes
    whose going leaves the fewest sets that do not.
    """

    def n_not_below(passing: Indices) -> int:
        factors = _factors(sets, passing, absent, scales)
        return int((factors <= 0).all(axis=1).sum())

    passing = present
    while n_not_below(passing):
        if len(passing) == 1:
            last = sets.rows[passing[0]].set
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {last}")
        values = sets.values[passing]
        weakest = np.flatnonzero((values == values.min(axis=0)).any(axis=1))
        orders = [(n_not_below(np.delete(passing, i)), values[i].tolist(), sets.rows[passing[i]].set) for i in weakest]
        passing = np.delete(passing, weakest[orders.index(min(orders))])
    return passing


class LeftOutErrors(NamedTuple):
    """The decisions of fits about left-out sets."""

    false_pass: Texts
    """sets without the label, and traps made of left-out sets"""
    false_warn: Texts
    no_fit: Texts
    """checkpoints or families without which there is no fit: they are not a trial"""


Refit = Callable[[Sets], Mapping[str, float]]
"""Gives the thresholds for some of the sets; raises ValueError where there are none."""


class Trial(NamedTuple):
    """A checkpoint or family, judged by a fit to the others."""

    name: str
    own: Sets
    """its sets, and the traps made of them"""
    passing: Mask | None
    """which of them pass; None: there is no fit without it"""

    def wrong(self, *, without: bool) -> Texts:
        """Return its sets without the label that pass, or those with it that do not."""
        if self.passing is None:
            return ()
        wrong = self.own.present & ~self.passing
        if without:
            wrong = self.own.without & self.passing
        return tuple(row.set for row in self.own.keep(wrong).rows)


def trials(sets: Sets, refit: Refit, by: str = "model") -> Iterator[Trial]:
    """Judge each checkpoint (by "model") or family (by "group") by a fit to the others."""
    for name, others, own in folds(sets, by):
        try:
            yield Trial(name, own, own.passing(refit(others)))
        except ValueError:
            yield Trial(name, own, None)


def judged(trials: Iterable[Trial]) -> LeftOutErrors:
    """Sum up trials."""
    done = list(trials)
    false_pass = sorted(name for trial in done for name in trial.wrong(without=True))
    false_warn = sorted(name for trial in done for name in trial.wrong(without=False))
    no_fit = sorted(trial.name for trial in done if trial.passing is None)
    return LeftOutErrors(tuple(false_pass), tuple(false_warn), tuple(no_fit))


def folds(sets: Sets, by: str) -> Iterator[tuple[str, Sets, Sets]]:
    """Yield the name, the other sets and the own sets of each checkpoint or family that has evidence."""
    names = np.array([getattr(row, by) for row in sets.rows])
    for name in dict.fromkeys(getattr(row, by) for row in sets.rows if not row.excluded):
        own = names == name
        yield name, sets.keep(~own), sets.keep(own)
