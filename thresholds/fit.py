"""Fit thresholds to measured sets with labels. The module defines the indication that those labels mean. Pure.

A set passes when each deciding statistic lies above its threshold. So any one of them turns away a set without the
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

from .profile import DECIDING, Statistic, Threshold
from .tables import Reference

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

    placed: dict[Any, Threshold]
    """by the name of the statistic"""
    missed: tuple[str, ...]
    """sets with the label that do not pass"""
    nearest: tuple[tuple[str, str, float], ...]
    """(set without the label or trap, the statistic that turns it away, by what factor it lies below the least of the
    passing sets), the nearest first"""

    @property
    def minimums(self) -> dict[str, float]:
        """Return the thresholds alone."""
        return {name: one.minimum for name, one in self.placed.items()}


class Rule(NamedTuple):
    """The settings of a fit. They are the same for every refit of a calibration."""

    position: float = GAP_POSITION
    """of the gap, from without to with"""
    all_must_pass: bool = True
    """True: sets with the label that overlap with others are an error; False: they are missed"""


STRICT_RULE = Rule()


def taking_part(table: Sequence[Reference]) -> list[Reference]:
    """Return the sets that are evidence."""
    return [row for row in table if not row.excluded]


def with_label(expected: str, sets: Sequence[Reference]) -> list[Reference]:
    """Return the sets that are `expected`: present or absent."""
    return [row for row in sets if row.expected == expected]


def models(table: Sequence[Reference]) -> list[str]:
    """Return the different checkpoints, in the table's order."""
    return list(dict.fromkeys(row.model for row in table))


class Sets(NamedTuple):
    """The rows of a table with their estimates. These are an array (set, statistic)."""

    rows: tuple[Reference, ...]
    names: tuple[str, ...]
    values: Array

    @classmethod
    def of(
        cls,
        rows: Sequence[Reference],
        names: Sequence[str] = DECIDING,
        value: Callable[[Reference, str], float] = getattr,
    ) -> Sets:
        """Read the estimates of some statistics from rows."""
        values = np.array([[value(row, name) for name in names] for row in rows], dtype=np.float64)
        return cls(tuple(rows), tuple(names), values.reshape(len(rows), len(names)))

    def keep(self, wanted: Mask) -> Sets:
        """Keep these rows only; wanted: (set,) bool."""
        return self._replace(rows=tuple(compress(self.rows, wanted)), values=self.values[wanted])

    def which(self, is_so: Callable[[Reference], bool]) -> Mask:
        """Return which rows satisfy a condition, (set,) bool."""
        return np.array([is_so(row) for row in self.rows], dtype=bool)

    @property
    def present(self) -> Mask:
        """Return which sets have evidence and label, (set,) bool."""
        return self.which(lambda row: not row.excluded and row.expected == "present")

    @property
    def without(self) -> Mask:
        """Return which sets must not pass, (set,) bool. They have evidence and no label, or are a trap."""
        return self.which(lambda row: row.trap or (not row.excluded and row.expected == "absent"))

    def passing(self, minimums: Mapping[Any, float]) -> Mask:
        """Return which sets lie above every threshold, (set,) bool. Their estimates are compared."""
        least = np.array([minimums.get(name, -math.inf) for name in self.names])
        return np.asarray((self.values > least).all(axis=1))


def passes(row: Reference, thresholds: Mapping[Statistic, Threshold]) -> bool:
    """Return whether a set lies above every threshold. Its estimates are compared."""
    return all(getattr(row, name) > threshold.minimum for name, threshold in thresholds.items())


def fit(sets: Sets, rule: Rule = STRICT_RULE, scales: Mapping[str, Scale] = SCALES) -> Fit:
    """Fit thresholds to the sets and the traps. Only sets that take part count.

    Args:
        sets: those with a reason in `excluded` are left out, unless they are traps.
        rule: how thresholds are placed, and what an overlap means.
        scales: of each statistic.

    Raises:
        ValueError: no set with, or none without the label; or the two overlap, and with `rule.all_must_pass` one is
            enough for that.
    """
    present, absent = np.flatnonzero(sets.present), np.flatnonzero(sets.without)
    if not len(present) or all(sets.rows[i].trap for i in absent):
        raise ValueError("the table needs sets with and without the indication")
    passing = present if rule.all_must_pass else _that_pass_together(sets, present, absent, scales)
    factors = _factors(sets, passing, absent, scales)
    best, factor = factors.argmax(axis=1), factors.max(axis=1)
    if (factor <= 0).any():
        worst = factor.argmin()
        lowest = passing[sets.values[passing, best[worst]].argmin()]
        raise ValueError(f"{sets.rows[absent[worst]].set} and {sets.rows[lowest].set} overlap: no threshold parts them")
    fitted = Fit({}, (), ())
    for column, name in enumerate(sets.names):
        values, given = sets.values[:, column], absent[best == column]
        high = passing[values[passing].argmin()]
        low, of = scales[name].nothing, NO_SET
        if len(given) and values[given].max() > low:
            highest = given[values[given].argmax()]
            low, of = float(values[highest]), sets.rows[highest].set
        top = float(values[high])
        fitted.placed[name] = Threshold(
            minimum=_between(low, top, scales[name], rule.position),
            highest_without=low,
            highest_without_set=of,
            lowest_with=top,
            lowest_with_set=sets.rows[high].set,
        )
    missed = sets.keep(sets.present & ~sets.passing(fitted.minimums)).rows
    order = np.argsort(factor, kind="stable")
    nearest = ((sets.rows[absent[i]].set, sets.names[best[i]], round(math.exp(factor[i]), DIGITS)) for i in order)
    return fitted._replace(missed=tuple(sorted(row.set for row in missed)), nearest=tuple(nearest))


def _between(low: float, high: float, scale: Scale, position: float) -> float:
    placed = low * (high / low) ** position if scale.logarithmic else low + position * (high - low)
    return round(max(min(placed, scale.most), low), DIGITS)


def _factors(sets: Sets, passing: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Array:
    """Return how far sets lie below the passing ones.

    (set without, statistic): the logarithm of the factor to the least of them.

    0 or less: it does not.
    """
    floor, without = sets.values[passing].min(axis=0), sets.values[absent]
    out = np.log(np.maximum(floor, SMALLEST)) - np.log(np.maximum(without, SMALLEST))
    gaps = np.array([scales[name].least_gap for name in sets.names])
    return np.where(floor - without < gaps, -math.inf, out)


def _that_pass_together(sets: Sets, present: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Indices:
    """Find the sets with the label that pass together. The weakest are left out until the rest can.

    Each set without the label must lie below them by some statistic. Of the weakest by each statistic, the one goes
    whose going leaves the fewest sets that do not.
    """

    def n_not_below(passing: Indices) -> int:
        return int((_factors(sets, passing, absent, scales) <= 0).all(axis=1).sum())

    passing = present
    while n_not_below(passing):
        if len(passing) == 1:
            last = sets.rows[passing[0]].set
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {last}")
        values = sets.values[passing]
        weakest = np.flatnonzero((values == values.min(axis=0)).any(axis=1))
        dropped = min(
            weakest,
            key=lambda at: (n_not_below(np.delete(passing, at)), values[at].tolist(), sets.rows[passing[at]].set),
        )
        passing = np.delete(passing, dropped)
    return passing


class Judged(NamedTuple):
    """The decisions of fits about left-out sets."""

    false_pass: tuple[str, ...]
    """sets without the label, and traps made of left-out sets"""
    false_warn: tuple[str, ...]
    no_fit: tuple[str, ...]
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

    def wrong(self, *, without: bool) -> tuple[str, ...]:
        """Return its wrongly judged sets. Without the label they pass, with it they do not."""
        if self.passing is None:
            return ()
        wrong = self.passing & self.own.without if without else ~self.passing & self.own.present
        return tuple(row.set for row in self.own.keep(wrong).rows)


def trials(sets: Sets, refit: Refit, by: str = "model") -> Iterator[Trial]:
    """Judge each checkpoint or family by the others. by is "model" or "group"."""
    for name, others, own in folds(sets, by):
        try:
            yield Trial(name, own, own.passing(refit(others)))
        except ValueError:
            yield Trial(name, own, None)


def judged(trials: Iterable[Trial]) -> Judged:
    """Sum up trials."""
    done = list(trials)
    false_pass, false_warn = (
        tuple(sorted(name for trial in done for name in trial.wrong(without=without))) for without in (True, False)
    )
    return Judged(false_pass, false_warn, tuple(sorted(trial.name for trial in done if trial.passing is None)))


def folds(sets: Sets, by: str) -> Iterator[tuple[str, Sets, Sets]]:
    """Yield each checkpoint or family that has evidence. Each comes with its name, the other sets, and its own sets."""
    names = [getattr(row, by) for row in sets.rows]
    for name in dict.fromkeys(name for name, row in zip(names, sets.rows, strict=True) if not row.excluded):
        own = np.array(names) == name
        yield name, sets.keep(~own), sets.keep(own)


DEFINITION = (
    "strong (its three strongest features make up a kurtosis of 4 or more; ordinary features give about 0.1), "
    "persistent "
    "(the strongest feature is beyond 4 SD on its usual side in at least half of the images) and two-sided (at least a "
    "third of the energy lies on either side of zero, and of each image's median, without the three strongest features)"
)
"""What the label of a reference set means; benchmarks/measure_reference.py gives it."""
