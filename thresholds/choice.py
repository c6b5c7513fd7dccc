"""Chooses the statistics that decide, among all subsets of those that are measured; pure.

First what is right: no set and no trap on the wrong side, nor a set whose checkpoint or family the fit left out. Of the
subsets that are as right as any, those with the widest margin; of those, the one with the fewest statistics. So a
statistic that alone turns a trap away, or alone keeps the margin, stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from .fit import Rule, Sets, fit, models
from .profile import STATISTICS, Statistic

AS_WIDE = 0.95  # share of the widest margin (as the factor less 1) from which on fewer statistics are better


class Candidate(NamedTuple):
    """A subset of the statistics, and what a rule of them does."""

    statistics: tuple[Statistic, ...]
    margin: float
    """the least factor by which a set without the indication, or a trap, lies below those with it (`Fit.nearest`)"""
    false_pass: int
    """sets without the indication and traps that pass, as a fit to all says, and fits without their checkpoint or
    family"""
    false_warn: int
    """sets with the indication that do not, counted in the same way"""


class Judged(NamedTuple):
    """What fits say of sets that they left out."""

    false_pass: tuple[str, ...]
    false_warn: tuple[str, ...]
    no_fit: tuple[str, ...]
    """checkpoints or families without which there is no fit: they are no trial"""


def candidates(sets: Sets, rule: Rule) -> tuple[Candidate, ...]:
    """Every subset whose fit to all sets exists, the best first. `rule` gives everything but the statistics."""
    out = []
    for size in range(1, len(STATISTICS) + 1):
        for subset in itertools.combinations(STATISTICS, size):
            tried = rule._replace(statistics=subset)
            try:
                fitted = fit(sets, tried)
            except ValueError:  # they overlap under these statistics
                continue
            wrong = sets.passing(fitted.thresholds)
            left_out = [judged(sets, tried, by) for by in ("model", "group")]
            out.append(
                Candidate(
                    subset,
                    fitted.nearest[0][2],
                    int((wrong & (sets.absent | sets.trap)).sum()) + sum(len(one.false_pass) for one in left_out),
                    int((~wrong & sets.present).sum()) + sum(len(one.false_warn) for one in left_out),
                )
            )
    return tuple(sorted(out, key=lambda c: (c.false_pass, c.false_warn, -c.margin, len(c.statistics), c.statistics)))


def chosen(found: tuple[Candidate, ...]) -> Candidate:
    """The subset that decides.

    Raises ValueError: there is none.
    """
    if not found:
        raise ValueError("under no subset of the statistics do the sets with and without the indication lie apart")
    right = [c for c in found if (c.false_pass, c.false_warn) == (found[0].false_pass, found[0].false_warn)]
    widest = max(c.margin for c in right)
    wide = [c for c in right if c.margin - 1 >= AS_WIDE * (widest - 1)]
    return min(wide, key=lambda c: (len(c.statistics), -c.margin, c.statistics))


def choose(sets: Sets, rule: Rule) -> Rule:
    """The rule with the statistics that decide. Raises ValueError as `chosen` does."""
    return rule._replace(statistics=chosen(candidates(sets, rule)).statistics)


def folds(sets: Sets, by: str) -> Iterator[tuple[str, Sets, Sets]]:
    """Each checkpoint ("model") or family ("group") that has evidence: its name, the other sets, its sets."""
    rows = [row for row in sets.rows if not row.excluded]
    for name in models(rows) if by == "model" else dict.fromkeys(row.group for row in rows):
        own = sets.of_model(name) if by == "model" else sets.of_group(name)
        yield name, sets.keep(~own), sets.keep(own & (sets.present | sets.absent))


def judged(sets: Sets, rule: Rule, by: str, *, choosing: bool = False) -> Judged:
    """Sets judged wrongly when their checkpoint or family is left out of the fit, traps of it too.

    Args:
        sets: all of them.
        rule: how to fit.
        by: model or group.
        choosing: whether the statistics are chosen again in each fold (nested), as they were for all sets.
    """
    false_pass: list[str] = []
    false_warn: list[str] = []
    no_fit: list[str] = []
    for name, others, own in folds(sets, by):
        try:
            thresholds = fit(others, choose(others, rule) if choosing else rule).thresholds
        except ValueError:
            no_fit.append(name)
            continue
        passing = own.passing(thresholds)
        false_pass += [row.set for row, passed in zip(own.rows, passing & own.absent, strict=True) if passed]
        false_warn += [row.set for row, failed in zip(own.rows, ~passing & own.present, strict=True) if failed]
    return Judged(tuple(sorted(false_pass)), tuple(sorted(false_warn)), tuple(sorted(no_fit)))
