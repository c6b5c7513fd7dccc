"""Thresholds from measured sets with labels: the same pure functions for the default profile and for `calibrate`.

A set passes when every statistic lies above its threshold, so a set without the label is turned away by any one of
them. Thresholds are placed so that none of those sets passes, and then so that as many sets with the label pass as
can: each lies `GAP_POSITION` of the way from the largest value below the passing sets to their smallest. Kurtosis and
its ratio are placed on a logarithmic scale, shares on a linear one. Rectified sets are turned away first, by negative
energy, and take no part in the other thresholds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.thresholds.error_rates import auroc, clopper_pearson_upper
from robustcheck_onnx.thresholds.profile import STATISTICS, KurtosisAlone, Statistic, Threshold
from robustcheck_onnx.thresholds.reference import Reference

GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
WIDER = (5 / 6, 11 / 12)  # where 2/3 is not enough: half of what is left, twice
FEW_CHECKPOINTS = 10  # without the label; below it the largest of them says little about the next one
MANY_CHECKPOINTS = 30  # on either side; with 30 and no error the 95 % bound of a rate is 10 %
LOGARITHMIC = ("kurtosis", "persistence_ratio")  # ratios; the others are shares
ENERGIES: tuple[Statistic, ...] = ("negative_energy", "negative_z_energy")
STRENGTHS: tuple[Statistic, ...] = ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
MIN_ENERGY_GAP = 0.1  # between rectified and signed; the reference table has .29, signed sets among themselves .06
FLOOR: dict[Statistic, float] = {"kurtosis": 3, "persistence_ratio": 1, "top3_share": 0, "outlier_frequency": 0}
"""What Gaussian features without any outlier feature read, however many images."""
NO_SET = "none: Gaussian features"
DIGITS = 3  # decimal places of a threshold
BOOTSTRAP_FITS = 400  # resamples of the checkpoints
BOOTSTRAP_SEED = 0


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


def checkpoint_of(row: Reference) -> str:
    """The checkpoint without the note on how it was loaded: the unit that is left out."""
    return row.checkpoint.split(" (")[0]


def checkpoints(table: Sequence[Reference], expected: str | None = None) -> list[str]:
    """The different checkpoints, in order; those with one label."""
    return list(dict.fromkeys(checkpoint_of(r) for r in table if expected in (None, r.expected)))


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
    present = [r for r in signed if r.expected == "present"]
    absent = [r for r in signed if r.expected == "absent"]
    if not present or not absent:
        raise ValueError("the table needs signed sets with and without the indication")
    kept = present if rule.all_must_pass else _largest_box(present, absent)
    for name in STRENGTHS:
        high = min(kept, key=lambda r: value(r, name))
        floor = min(r.low[name] for r in kept)
        below = absent if rule.all_must_pass else [r for r in absent if r.high[name] < floor]
        # where no set without the label lies below, the other statistics turn all of them away
        low = max(((r.set, r.high[name]) for r in below), key=lambda pair: pair[1], default=(NO_SET, FLOOR[name]))
        out[name] = _place(low, (high.set, value(high, name)), name in LOGARITHMIC, rule.position)
    thresholds = {name: out[name] for name in STATISTICS}
    missed = tuple(sorted(r.set for r in used if r.expected == "present" and not passes(r, thresholds)))
    return Fit(thresholds, missed, borrowed)


def _largest_box(present: list[Reference], absent: list[Reference]) -> list[Reference]:
    """The sets with the label that can pass together, found by leaving out the weakest until they can.

    Each set without the label must lie clearly below them by some statistic: its upper bound below all of their lower
    bounds. Of the weakest by each statistic, the one goes whose going leaves the fewest sets that do not, then the one
    with the smallest persistence ratio.
    """
    kept = list(present)
    while _not_clear(kept, absent):
        if len(kept) == 1:
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {kept[0].set}")
        weakest: dict[str, Reference] = {}
        for name in STRENGTHS:
            lowest = min(r.low[name] for r in kept)
            weakest |= {r.set: r for r in kept if r.low[name] == lowest}
        ranked = []
        for w in weakest.values():
            left = _not_clear([r for r in kept if r is not w], absent)
            ranked.append((left, w.persistence_ratio, w.set))
        gone = min(ranked)[2]
        kept = [r for r in kept if r.set != gone]
    return kept


def _not_clear(kept: list[Reference], absent: list[Reference]) -> int:
    """Sets without the label that no statistic parts clearly from the kept ones."""
    floor = {name: min(r.low[name] for r in kept) for name in STRENGTHS}
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
    high = min((r for r in signed if r.expected == "present"), key=lambda r: value(r, name))
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


# ------------------------------------------------------------------------------------------- how far to trust it


class LeftOut(NamedTuple):
    """What fits to the other checkpoints say of each checkpoint that was left out."""

    false_pass: tuple[str, ...]
    """sets without the label that would pass"""
    false_warn: tuple[str, ...]
    """sets with the label that would not"""
    no_fit: tuple[str, ...]
    """checkpoints without which there is no fit: they are no trial"""


def leave_one_out(table: Sequence[Reference], rule: Rule = STRICT_RULE) -> LeftOut:
    """Sets judged wrongly when every set of their checkpoint is left out of the fit."""
    used = taking_part(table)
    false_pass: list[str] = []
    false_warn: list[str] = []
    no_fit: list[str] = []
    for checkpoint in checkpoints(used):
        try:
            thresholds = fit([r for r in used if checkpoint_of(r) != checkpoint], rule).thresholds
        except ValueError:
            no_fit.append(checkpoint)
            continue
        for row in used:
            if checkpoint_of(row) == checkpoint and passes(row, thresholds) != (row.expected == "present"):
                (false_pass if row.expected == "absent" else false_warn).append(row.set)
    return LeftOut(tuple(sorted(false_pass)), tuple(sorted(false_warn)), tuple(sorted(no_fit)))


def leave_family_out(table: Sequence[Reference], rule: Rule) -> tuple[tuple[str, str], ...]:
    """What the fit to the other groups says of each group that is left out whole."""
    used = taking_part(table)
    out = []
    for group in dict.fromkeys(r.group for r in used):
        members = [r for r in used if r.group == group]
        try:
            thresholds = fit([r for r in used if r.group != group], rule).thresholds
        except ValueError as fault:
            out.append((group, f"no fit without it: {fault}"))
            continue
        wrong = [r.set for r in members if passes(r, thresholds) != (r.expected == "present")]
        out.append((group, f"{len(members) - len(wrong)} of {len(members)} right; wrong: {', '.join(wrong) or 'none'}"))
    return tuple(out)


def with_bootstrap(
    thresholds: Mapping[Statistic, Threshold], table: Sequence[Reference], rule: Rule
) -> tuple[dict[Statistic, Threshold], int]:
    """The thresholds with 5 and 95 % of each over fits to checkpoints drawn with replacement; how many fits failed."""
    used = taking_part(table)
    names = checkpoints(used)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: dict[Statistic, list[float]] = {name: [] for name in STATISTICS}
    failed = 0
    for _ in range(BOOTSTRAP_FITS):
        chosen = {names[i] for i in rng.integers(0, len(names), len(names))}
        try:
            drawn = fit([r for r in used if checkpoint_of(r) in chosen], rule).thresholds
        except ValueError:  # a resample without one side, or one in which they overlap: counted, and said
            failed += 1
            continue
        for name in STATISTICS:
            draws[name].append(drawn[name].minimum)
    out = {}
    for name, threshold in thresholds.items():
        low, high = np.quantile(draws[name], [0.05, 0.95]) if draws[name] else (threshold.minimum, threshold.minimum)
        span = {"bootstrap_low": round(float(low), DIGITS), "bootstrap_high": round(float(high), DIGITS)}
        out[name] = threshold.model_copy(update=span)
    return out, failed


def separation(sets: Sequence[Reference], score: Callable[[Reference], float]) -> float:
    """AUROC of a score over the given sets: those with the label against those without.

    Raises ValueError when one side is empty.
    """
    return round(
        auroc(
            [score(r) for r in sets if r.expected == "present"],
            [score(r) for r in sets if r.expected == "absent"],
        ),
        DIGITS,
    )


def joint_score(thresholds: Mapping[Statistic, Threshold]) -> Callable[[Reference], float]:
    """How far a set lies above all thresholds: above 0 exactly if it passes.

    The smallest of its distances to the thresholds, each as a share of the gap that the threshold was placed in (on
    the scale that it was placed on).
    """

    def scaled(name: Statistic, x: float) -> float:
        return math.log(max(x, 1e-9)) if name in LOGARITHMIC else x

    def score(row: Reference) -> float:
        distances = []
        for name, t in thresholds.items():
            width = scaled(name, t.lowest_with) - scaled(name, t.highest_without)
            distances.append((scaled(name, value(row, name)) - scaled(name, t.minimum)) / width)
        return min(distances)

    return score


def upper_bound(wrong: Sequence[str], sets: Sequence[Reference], no_fit: Sequence[str] = ()) -> float:
    """One-sided 95 % Clopper–Pearson bound over checkpoints: sets of one checkpoint are one trial.

    1 where no checkpoint could be left out.
    """
    trials = {checkpoint_of(r) for r in sets} - set(no_fit)
    errors = {checkpoint_of(r) for r in sets if r.set in wrong}
    return round(clopper_pearson_upper(len(errors), len(trials)), DIGITS) if trials else 1.0


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties with their mean rank; equals `scipy.stats.spearmanr(x, y).statistic`.

    None for fewer than three pairs, and where one side is constant.
    """
    if len(x) < 3:
        return None
    a, b = _ranks(x), _ranks(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), DIGITS)


def _ranks(x: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    _, place, counts = np.unique(np.asarray(x, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], dtype=np.float64)


def kurtosis_alone(sets: Sequence[Reference]) -> KurtosisAlone:
    """What the published statistic could do by itself: its best threshold with hindsight, over the same sets.

    The best is the one with the fewest sets on the wrong side, of those the highest.
    """
    present = sorted(r.kurtosis for r in sets if r.expected == "present")
    absent = sorted(r.kurtosis for r in sets if r.expected == "absent")
    highest = absent[-1]

    def wrong(minimum: float) -> int:
        return sum(k > minimum for k in absent) + sum(k <= minimum for k in present)

    candidates = [0.0, *present, *absent]
    best = min(candidates, key=lambda minimum: (wrong(minimum), -minimum))
    return KurtosisAlone(
        auroc=separation(sets, lambda r: r.kurtosis),
        minimum=best,
        false_pass=tuple(sorted(r.set for r in sets if r.expected == "absent" and r.kurtosis > best)),
        false_warn=tuple(sorted(r.set for r in sets if r.expected == "present" and r.kurtosis <= best)),
        power_without_false_pass=round(sum(k > highest for k in present) / len(present), DIGITS),
    )


def chosen_rule(table: Sequence[Reference], rule: Rule) -> Rule:
    """The rule with its position raised until leaving checkpoints out gives no false PASS.

    It starts wider where few checkpoints are without the label. Where no position is enough, the one with the fewest
    false PASS.

    Raises ValueError as `fit` does.
    """
    fit(table, rule)
    few = len(checkpoints(taking_part(table), "absent")) < FEW_CHECKPOINTS
    positions = WIDER if few else (GAP_POSITION, *WIDER)
    found = [(len(leave_one_out(table, rule._replace(position=p)).false_pass), p) for p in positions]
    return rule._replace(position=min(found)[1])
