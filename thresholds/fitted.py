"""Make a sealed profile of labelled sets, and say how far its fit can be trusted."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import results, tables
from .fit import DIGITS, Rule, Sets, Trial, fit, judged, models, passes, taking_part, trials, with_label
from .profile import Calibration, Nearest, Profile, Rate, Trained, seal
from .statistics import DEFINITIONS, Bounds
from .tables import ReferenceSet

Table = Sequence[ReferenceSet]


Populations = Mapping[str, Callable[[ReferenceSet], bool]]
SHOWN = 8  # sets and traps named as the nearest
ALPHA = 0.05  # error rate of each lower bound, and of the upper ones together
BOUNDS: Bounds = "looks"
MANY_CHECKPOINTS = 30  # on either side; with 30 and no error the 95 % bound of a rate is 10 %
FEW = "{} checkpoints with and {} without it: too few for narrow bounds; one error more or less moves them"
MEANING = "PASS means that the model shows the outlier features of robust CLIP encoders. It does not prove robustness."
SHIFTS_MEANT = (
    "It is about natural distribution shifts of ImageNet kind (sketches, renditions, viewpoints), not about "
    "adversarial robustness or corruptions."
)


def with_traps(table: Table) -> Sets:
    """Return the sets with the simulated traps, and with two of every one-sided set (`derived_traps`)."""
    return Sets.of([*table, *tables.traps(), *tables.derived_traps(table)])


def trials_of(sets: Sets, rule: Rule, by: str = "model") -> list[Trial]:
    """Judge each checkpoint (by "model") or family (by "group") by thresholds that are fitted to the others."""
    return list(trials(sets, lambda others: fit(others, rule).minimums, by))


def profile_of(
    table: Table,
    rule: Rule,
    *,
    says: Mapping[str, Any],
    populations: Populations = MappingProxyType({}),
    **fields: Any,
) -> Profile:
    """Fit thresholds and seal them as a profile, which records how far the fit can be trusted.

    Args:
        table: measured sets with labels.
        rule: how thresholds are placed.
        says: the fields of Calibration that are known beforehand.
        populations: sets of which none should pass, by labels that don't look at the statistics; none: those without
            the label.
        fields: of the profile, as they are.

    Raises:
        ValueError: no thresholds can be fitted, and why.
    """
    used = taking_part(table)
    sets = with_traps(table)
    fitted = fit(sets, rule)
    thresholds = fitted.thresholds
    by_model = trials_of(sets, rule)
    alone = judged(by_model)
    present = with_label("present", used)
    absent = with_label("absent", used)
    n_with = len(models(present))
    n_without = len(models(absent))
    counted = populations or {"without the label": lambda row: row.expected == "absent"}
    rates = _rates(used, by_model, counted)
    wrong = [row for row in present if row.set in alone.false_warn]
    n_wrong = len(models(wrong))
    n_tried = len(set(models(present)).difference(alone.no_fit))
    passing = [row.set for row in table if passes(row, thresholds)]
    few = ""
    if min(n_with, n_without) < MANY_CHECKPOINTS:
        few = FEW.format(n_with, n_without)
    calibration = Calibration(
        **says,
        few=few,
        n_sets=len(used),
        n_checkpoints=len(models(used)),
        n_with_checkpoints=n_with,
        n_without_checkpoints=n_without,
        with_indication=tuple(sorted(r.set for r in present)),
        without_indication=tuple(sorted(r.set for r in absent)),
        missed=fitted.missed,
        unlabelled_passing=tuple(sorted(r.set for r in table if r.excluded == "unlabelled" and r.set in passing)),
        excluded=tuple(sorted((r.set, r.excluded) for r in table if r.excluded)),
        left_out_false_pass=alone.false_pass,
        left_out_false_warn=alone.false_warn,
        not_left_out=alone.no_fit,
        false_pass_upper=rates[0].upper,
        false_warn_upper=upper_bound(n_wrong, n_tried),
        family_out=tuple(_family_out(trial) for trial in trials_of(sets, rule, "group")),
        n_traps=sum(row.trap for row in sets.rows),
        nearest=tuple(Nearest(set=name, statistic=by, factor=factor) for name, by, factor in fitted.nearest[:SHOWN]),
        rates=rates if populations else (),
        by_training=_by_training(used, passing),
    )
    return seal(
        Profile(
            **fields,
            definitions={name: DEFINITIONS[name] for name in thresholds},
            min_features=min(r.d for r in used),
            max_features=max(r.d for r in used),
            min_images=results.MIN_IMAGES,
            alpha=ALPHA,
            bounds=BOUNDS,
            thresholds=thresholds,
            calibration=calibration,
        )
    )


def _rates(used: Table, trials: Sequence[Trial], populations: Populations) -> tuple[Rate, ...]:
    """Count the checkpoints of each population that pass when left out, which none of them should."""
    passing: dict[str, bool] = {}
    for trial in trials:
        if trial.passing is not None:
            names = [row.set for row in trial.own.rows]
            passing |= zip(names, trial.passing.tolist(), strict=True)
    rates = []
    for name, belongs in populations.items():
        tried = [row for row in used if belongs(row) and row.set in passing]
        n = len(models(tried))
        wrong = [row for row in tried if passing[row.set]]
        n_wrong = len(models(wrong))
        upper = upper_bound(n_wrong, n)
        rates.append(Rate(of=name, n=n, n_wrong=n_wrong, upper=upper))
    return tuple(rates)


def _family_out(trial: Trial) -> tuple[str, str]:
    """Describe how a fit to the other groups judges a group."""
    if trial.passing is None:
        return trial.name, "no fit without it"
    wrong = {*trial.wrong(without=True), *trial.wrong(without=False)}
    named = ", ".join(row.set for row in trial.own.rows if row.set in wrong)
    n_sets = len(taking_part(trial.own.rows))
    return trial.name, f"{n_sets} sets; wrong: {named or 'none'}"


def _by_training(used: Table, passing: Sequence[str]) -> tuple[Trained, ...]:
    """Count the passing sets of each kind of training, and name those that are judged otherwise than most."""
    out = []
    for kind in dict.fromkeys(row.training for row in used if row.training):
        of_kind = {row.set for row in used if row.training == kind}
        passed = of_kind.intersection(passing)
        failed = of_kind - passed
        rare = min(passed, failed, key=len)
        trained = Trained(training=kind, n=len(of_kind), n_passing=len(passed), otherwise=tuple(sorted(rare)))
        out.append(trained)
    return tuple(out)


def upper_bound(n_wrong: int, n: int) -> float:
    """Return the one-sided 95 % Clopper–Pearson bound of a rate: the p with P(X ≤ n_wrong | n, p) = 5 %, rounded up.

    Equals `scipy.stats.beta.ppf(0.95, n_wrong + 1, n - n_wrong)`; 1 where there was no trial, or each is an error.
    """
    if n_wrong >= n:
        return 1.0
    low = n_wrong / n
    high = 1.0
    for _ in range(60):  # bisection: 2^-60 is below float precision
        p = (low + high) / 2
        at_most = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n_wrong + 1))
        if at_most > ALPHA:
            low = p
        else:
            high = p
    return float(math.ceil(high * 10**DIGITS) / 10**DIGITS)
