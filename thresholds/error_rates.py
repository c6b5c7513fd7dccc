"""Says how far fitted thresholds can be trusted: by sets left out, resampled checkpoints, AUROC, exact bounds; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .fit import (
    DIGITS,
    LOGARITHMIC,
    STRICT_RULE,
    Rule,
    checkpoint_of,
    checkpoints,
    fit,
    passes,
    taking_part,
    value,
    with_label,
)
from .profile import STATISTICS, KurtosisAlone, Statistic, Threshold
from .reference import Reference

BOOTSTRAP_FITS = 400  # resamples of the checkpoints
BOOTSTRAP_SEED = 0


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


def upper_bound(wrong: Sequence[str], sets: Sequence[Reference], no_fit: Sequence[str] = ()) -> float:
    """One-sided 95 % Clopper–Pearson bound over checkpoints: sets of one checkpoint are one trial.

    1 where no checkpoint could be left out.
    """
    trials = {checkpoint_of(r) for r in sets} - set(no_fit)
    errors = {checkpoint_of(r) for r in sets if r.set in wrong}
    return round(clopper_pearson_upper(len(errors), len(trials)), DIGITS) if trials else 1.0


def clopper_pearson_upper(k: int, n: int, alpha: float = 0.05) -> float:
    """One-sided upper Clopper–Pearson bound of a rate: the p with P(X ≤ k | n, p) = alpha.

    Equals `scipy.stats.beta.ppf(1 - alpha, k + 1, n - k)`; 1 − alpha^(1/n) for k = 0.

    Args:
        k: errors, 0 to n.
        n: trials, at least 1.
        alpha: one minus the confidence.

    Returns:
        The bound, 0–1; 1 where every trial is an error.

    Raises:
        ValueError: k or n out of range.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} errors of {n} trials is no rate")
    if k == n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(100):  # bisection: 2^-100 is far below float precision
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > alpha else (low, middle)
    return high


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X ≤ k) for X ~ Binomial(n, p); equals `scipy.stats.binom.cdf(k, n, p)`."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def auroc(with_indication: Sequence[float], without: Sequence[float]) -> float:
    """Probability that a random set with the indication reads higher than one without; ties count half.

    The Mann–Whitney statistic over its maximum; equals `scipy.stats.mannwhitneyu(a, b).statistic / (len(a)·len(b))`.

    Raises:
        ValueError: one side is empty.
    """
    if not len(with_indication) or not len(without):
        raise ValueError("AUROC needs values on both sides")
    a = np.asarray(with_indication, dtype=np.float64)[:, None]
    b = np.asarray(without, dtype=np.float64)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def separation(sets: Sequence[Reference], score: Callable[[Reference], float]) -> float:
    """AUROC of a score over the given sets: those with the label against those without.

    Raises ValueError when one side is empty.
    """
    present, absent = ([score(r) for r in with_label(label, sets)] for label in ("present", "absent"))
    return round(auroc(present, absent), DIGITS)


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


def kurtosis_alone(sets: Sequence[Reference]) -> KurtosisAlone:
    """What the published statistic could do by itself: its best threshold with hindsight, over the same sets.

    The best is the one with the fewest sets on the wrong side, of those the highest.
    """
    present, absent = ([r.kurtosis for r in with_label(label, sets)] for label in ("present", "absent"))
    highest = max(absent)

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
