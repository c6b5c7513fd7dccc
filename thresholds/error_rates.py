"""Says how far fitted thresholds can be trusted: by sets left out, resampled checkpoints, AUROC, exact bounds; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import choice
from .fit import DIGITS, LOGARITHMIC, Rule, Sets, fit, models, with_label
from .profile import ENERGIES, KurtosisAlone, Moved, Rate, Statistic, Threshold, Trained
from .reference import Reference

BOOTSTRAP_FITS = 400  # resamples of the checkpoints
BOOTSTRAP_SEED = 0


def by_family(sets: Sets, rule: Rule, *, choosing: bool = False) -> tuple[tuple[str, str], ...]:
    """What the fit to the other groups says of each group that is left out whole (`choice.judged`), in words."""
    outcome = choice.judged(sets, rule, "group", choosing=choosing)
    out = []
    for group, _, own in choice.folds(sets, "group"):
        wrong = [row.set for row in own.rows if row.set in outcome.false_pass + outcome.false_warn]
        right = f"{len(own.rows) - len(wrong)} of {len(own.rows)} right; wrong: {', '.join(wrong) or 'none'}"
        out.append((group, "no fit without it" if group in outcome.no_fit else right))
    return tuple(out)


def moves(sets: Sets, rule: Rule, thresholds: Mapping[Statistic, Threshold]) -> tuple[Moved, ...]:
    """What each checkpoint alone moves: thresholds without it, and the sets whose verdict changes; none: left out.

    The statistics stay those of the rule.
    """
    before = sets.passing(thresholds)
    out = []
    for model, others, _ in choice.folds(sets, "model"):
        try:
            without = fit(others, rule).thresholds
        except ValueError as fault:
            out.append(Moved(checkpoint=model, thresholds={}, flips=(), fault=str(fault)))
            continue
        changed = {name: t.minimum for name, t in without.items() if t.minimum != thresholds[name].minimum}
        flips = (before != sets.passing(without)) & (sets.present | sets.absent)
        flipped = tuple(sorted(row.set for row, turned in zip(sets.rows, flips, strict=True) if turned))
        if changed:
            out.append(Moved(checkpoint=model, thresholds=changed, flips=flipped))
    return tuple(out)


def populations(sets: Sets, left_out: choice.Judged, thresholds: Mapping[Statistic, Threshold]) -> tuple[Rate, ...]:
    """The false-PASS bound over all checkpoints without the label, over the signed ones, and over each kind of end.

    An end that no set with the label has is turned away as such, and has no row.
    """
    energies = [name for name in thresholds if name in ENERGIES]

    def is_signed(row: Reference) -> bool:
        return all(row.estimate(name) > thresholds[name].minimum for name in energies)

    absent = [row for row, is_absent in zip(sets.rows, sets.absent, strict=True) if is_absent]
    ends = sorted({row.ends_in for row, shows in zip(sets.rows, sets.present, strict=True) if shows and row.ends_in})
    groups = [("all", absent), ("signed", [row for row in absent if is_signed(row)])]
    groups += [(f"signed, ends in {end}", [r for r in absent if is_signed(r) and r.ends_in == end]) for end in ends]
    out = []
    for name, rows in groups:
        trials = {row.model for row in rows} - set(left_out.no_fit)
        errors = {row.model for row in rows if row.set in left_out.false_pass}
        out.append(Rate(of=name, n=len(trials), n_wrong=len(errors), upper=upper_bound(len(errors), len(trials))))
    return tuple(out)


def by_training(sets: Sets, thresholds: Mapping[Statistic, Threshold]) -> tuple[Trained, ...]:
    """How many sets of each kind of training pass, and those that do otherwise than most of their kind."""
    passing = sets.passing(thresholds)
    out = []
    for kind in dict.fromkeys(row.training for row in sets.rows if row.training and not row.excluded):
        of_kind = [
            (row.set, bool(passed))
            for row, passed in zip(sets.rows, passing, strict=True)
            if row.training == kind and not row.excluded
        ]
        n_passing = sum(passed for _, passed in of_kind)
        rare = n_passing <= len(of_kind) / 2
        names = tuple(sorted(name for name, passed in of_kind if passed == rare))
        out.append(Trained(training=kind, n=len(of_kind), n_passing=n_passing, otherwise=names))
    return tuple(out)


def with_bootstrap(
    thresholds: Mapping[Statistic, Threshold], sets: Sets, rule: Rule
) -> tuple[dict[Statistic, Threshold], int]:
    """The thresholds with 5 and 95 % of each over fits to checkpoints drawn with replacement; how many fits failed."""
    names = models([row for row in sets.rows if not row.excluded])
    of_model = np.array([names.index(row.model) if row.model in names else -1 for row in sets.rows])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: dict[Statistic, list[float]] = {name: [] for name in thresholds}
    failed = 0
    for _ in range(BOOTSTRAP_FITS):
        drawn = rng.integers(0, len(names), len(names))
        try:
            fitted = fit(sets.keep(np.isin(of_model, [-1, *drawn])), rule).thresholds  # simulated traps stay
        except ValueError:  # a resample without one side, or one in which they overlap: counted, and said
            failed += 1
            continue
        for name in thresholds:
            draws[name].append(fitted[name].minimum)
    out = {}
    for name, threshold in thresholds.items():
        low, high = np.quantile(draws[name], [0.05, 0.95]) if draws[name] else (threshold.minimum, threshold.minimum)
        span = {"bootstrap_low": round(float(low), DIGITS), "bootstrap_high": round(float(high), DIGITS)}
        out[name] = threshold.model_copy(update=span)
    return out, failed


def upper_bound(n_wrong: int, n: int) -> float:
    """One-sided 95 % Clopper–Pearson bound over checkpoints (sets of one are one trial), rounded up.

    1 where there was no trial.
    """
    return math.ceil(clopper_pearson_upper(n_wrong, n) * 10**DIGITS) / 10**DIGITS if n else 1.0


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
            distances.append((scaled(name, row.estimate(name)) - scaled(name, t.minimum)) / width)
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
