"""Makes a threshold profile of measured sets: thresholds, what they rest on, and how far to trust them; pure.

`fitted_profile` is for the rows that `robustcheck calibrate` measured, `profile_of` for any labelled sets.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from . import choice, error_rates, results
from .ends import End
from .fit import DIGITS, GAP_POSITION, Rule, Sets, fit, models, passes, taking_part, with_label
from .profile import (
    DEFINITIONS,
    ENERGIES,
    STATISTICS,
    Calibration,
    Chosen,
    Nearest,
    Profile,
    Statistic,
    TensorFit,
    load,
    seal,
)
from .reference import Reference, derived_traps, traps
from .results import MIN_IMAGES, TENSORS, Result

SHOWN = 8  # sets and traps named as the nearest
ALPHA = 0.05  # error rate of each lower bound, and of the upper ones together
WIDER = (5 / 6, 11 / 12)  # where 2/3 is not enough: half of what is left, twice
FEW_CHECKPOINTS = 10  # without the label; below it the largest of them says little about the next one
MANY_CHECKPOINTS = 30  # on either side; with 30 and no error the 95 % bound of a rate is 10 %
FEW = "{with_} checkpoints with and {without} without it: too few for narrow bounds; one error more or less moves them"
RESULT_LABELS = "with: robustness to natural distribution shifts was published or measured; without: it is absent"
MEANING = "PASS means that the indication (persistent outlier features) is present; it is no proof of robustness."
SHIFTS_MEANT = (
    "It is about natural distribution shifts of ImageNet kind (sketches, renditions, viewpoints), not about "
    "adversarial robustness or corruptions."
)
_POSITIONS = {GAP_POSITION: "2/3", WIDER[0]: "5/6", WIDER[1]: "11/12"}


class CannotFitError(ValueError):
    """Measured rows to which no thresholds can be fitted; the message says why, in one line."""


def fitted_profile(
    rows: Sequence[Result],
    *,
    id: str,
    tensor: str = "auto",
    missing: Mapping[str, str] = MappingProxyType({}),
    labels: str = "",
    suite_known: bool = True,
) -> Profile:
    """A profile from the rows of a results table.

    Args:
        rows: as `results.joined` gives them.
        id: the profile's.
        tensor: representation, pooled, or auto: the one that parts the sets better (`best_tensor`).
        missing: models of the suite that have no row, and why.
        labels: what a label means, in the suite's words.
        suite_known: whether the suite was there to compare with; if not, the profile says so.

    Raises:
        CannotFitError: no thresholds can be fitted to the tensor, or to any.
    """
    measured = {row.tensor for row in rows}
    compared = tuple(_tensor_fit(rows, name) for name in TENSORS if name in measured)
    chosen = best_tensor(compared) if tensor == "auto" else tensor
    fits = {one.tensor: one for one in compared}
    if chosen not in fits or fits[chosen].fault:
        fault = fits[chosen].fault if chosen in fits else f"no row is of {chosen}"
        raise CannotFitError(f"{chosen}: no thresholds can be fitted; {fault}")
    some = rows_of(rows, chosen)
    table = results.as_references(some)
    sets = with_traps(table)
    rule = chosen_rule(sets, _base_rule())
    fitted = fit(sets, rule)
    by_id = {row.id: row for row in some}
    passing = [by_id[r.set] for r in with_label("present", taking_part(table)) if r.set not in fitted.missed]
    robustness = {r.id: r.effective_robustness_pp for r in some if r.effective_robustness_pp is not None}
    first = some[0]
    suites = sorted({(row.suite, row.suite_digest) for row in some})
    sides = {"present": "with", "absent": "without", "unlabelled": "without a label"}
    hard = [
        (r.set, f"{sides[r.expected]}; {'passes' if passes(r, fitted.thresholds) else 'does not pass'}")
        for r in table
        if by_id[r.set].hard_case
    ]
    widest = "" if len({row.n_varied for row in some}) > 1 else f", {first.n_varied} varied"
    return profile_of(
        table,
        rule,
        id=id,
        statistic_version=first.statistic_version,
        tensor_rules=sorted({row.rule for row in passing}),
        pools=sorted({row.pool for row in passing}),
        ends=sorted({row.ends_in for row in passing if not row.ends_in.can_make_outliers}, key=str),
        robustness=robustness,
        limits=_limits(some, passing, missing, suite_known),
        tensor=chosen,
        says={
            "command": f"robustcheck calibrate --from-evidence TABLE --tensor {chosen} --id {id}",
            "table": "results of robustcheck calibrate",
            "table_digest": results.digest_of(some),
            "date": max(row.date for row in some),
            "suite": ", ".join(name for name, _ in suites),
            "suite_digest": ", ".join(digest for _, digest in suites),
            "images": f"{first.n_images} images{widest}, seed {first.seed}, {first.images_digest}",
            "labels": labels or RESULT_LABELS,
            "spread": f"confidence bounds over the images, {100 * (1 - first.alpha):g} % for all statistics together",
            "rule": _rule_text(rule),
            "missing": tuple(sorted(missing.items())),
            "hard_cases": tuple(sorted(hard)),
            "tensors": compared if len(compared) > 1 else (),
        },
    )


def rows_of(rows: Sequence[Result], tensor: str) -> list[Result]:
    """One row a model: the tensor's where the model has it, else the representation's (a classifier has no other)."""
    own = {row.id: row for row in rows if row.tensor == tensor}
    others = {row.id: row for row in rows if row.tensor == TENSORS[0]}
    by_id = {**others, **own}
    return [by_id[name] for name in sorted(by_id)]


def best_tensor(compared: Sequence[TensorFit]) -> str:
    """The tensor that parts the sets better: fewest false PASS with checkpoints left out, then most sets that pass,
    then the fewest false WARN, the larger AUROC, the larger gap; the representation where all are alike.

    Raises CannotFitError: no tensor can be fitted.
    """
    fitting_ones = [one for one in compared if not one.fault]
    if not fitting_ones:
        why = "; ".join(f"{one.tensor}: {one.fault}" for one in compared)
        raise CannotFitError(f"no thresholds can be fitted; {why or 'there is no row'}")
    best = max(
        fitting_ones,
        key=lambda one: (
            -one.left_out_false_pass,
            one.n_passing,
            -one.left_out_false_warn,
            one.auroc or 0.0,
            one.gap or 0.0,
            -TENSORS.index(one.tensor),
        ),
    )
    return best.tensor


def _base_rule() -> Rule:
    return Rule(statistics=load().deciding, all_must_pass=False)


def _tensor_fit(rows: Sequence[Result], tensor: str) -> TensorFit:
    table = results.as_references(rows_of(rows, tensor))
    sets, used = with_traps(table), taking_part(table)
    n_with = len(with_label("present", used))
    counted = {"tensor": tensor, "n_with": n_with, "n_without": len(used) - n_with}
    try:
        rule = chosen_rule(sets, _base_rule())
    except ValueError as fault:
        why = sorted({r.excluded for r in table if r.excluded})
        said = f"{fault} (left out: {'; '.join(why)})" if why else str(fault)
        nothing = {"n_passing": 0, "auroc": None, "left_out_false_pass": 0, "left_out_false_warn": 0, "gap": None}
        return TensorFit.model_validate({**counted, **nothing, "fault": said})
    fitted, left_out = fit(sets, rule), choice.judged(sets, rule, "model")
    ratio = fitted.thresholds["persistence_ratio"]
    return TensorFit.model_validate(
        {
            **counted,
            "n_passing": n_with - len(fitted.missed),
            "auroc": error_rates.separation(used, error_rates.joint_score(fitted.thresholds)),
            "left_out_false_pass": len(left_out.false_pass),
            "left_out_false_warn": len(left_out.false_warn),
            "gap": round(ratio.lowest_with / ratio.highest_without, DIGITS),
        }
    )


def with_traps(table: Sequence[Reference]) -> Sets:
    """The sets with those that must not pass: simulated ones, and two of every one-sided set (`derived_traps`)."""
    return Sets([*table, *traps(), *derived_traps(table)])


def chosen_rule(sets: Sets, rule: Rule) -> Rule:
    """The rule with its position raised until leaving checkpoints out gives no false PASS.

    It starts wider where few checkpoints are without the label. Where no position is enough, the one with the fewest
    false PASS.

    Raises ValueError as `fit` does.
    """
    fit(sets, rule)
    few = len(models(with_label("absent", taking_part(sets.rows)))) < FEW_CHECKPOINTS
    positions = WIDER if few else (GAP_POSITION, *WIDER)
    found = [(len(choice.judged(sets, rule._replace(position=p), "model").false_pass), p) for p in positions]
    return rule._replace(position=min(found)[1])


def _rule_text(rule: Rule) -> str:
    wide = ""
    if rule.position != GAP_POSITION:
        wide = ", wider than the usual 2/3: few checkpoints are without, or one of them passed when left out"
    return (
        f"threshold = {_POSITIONS[rule.position]} of the way from the largest upper bound below the passing sets, of "
        f"those that the statistic turns away best, to their smallest estimate{wide}; logarithmic for kurtosis and "
        "persistence ratio; no set without the label and no trap is above all of them, and of those with it as many as "
        "possible are; the statistics that decide are those of the default profile"
    )


def _limits(
    some: Sequence[Result], passing: Sequence[Result], missing: Mapping[str, str], suite_known: bool
) -> tuple[str, ...]:
    groups = sorted({row.group for row in some if not results.excluded(row)})
    ends = sorted({str(row.ends_in) for row in passing})
    out = [
        MEANING,
        "WARN means absent or not established; models that do well on shifted data may show nothing.",
        f"It holds for the kinds of model in its suite ({', '.join(groups)}); others were not measured.",
        f"It holds for tensors that end as the passing sets do: {', '.join(ends)}.",
    ]
    made = [row.id for row in some if row.synthetic and not results.excluded(row)]
    if made:
        out.append(
            f"{len(made)} of its models were made by hand or replay measured vectors: it shows how a calibration "
            "works, and is no ground for a release"
        )
    if missing:
        out.append(f"It is not complete: {len(missing)} models of its suite were not measured.")
    if not suite_known:
        out.append("It was fitted from tables without the suite: whether models are missing was not looked at.")
    return (*out, SHIFTS_MEANT)


def profile_of(
    table: Sequence[Reference],
    rule: Rule,
    *,
    id: str,
    statistic_version: int,
    tensor_rules: Sequence[str],
    pools: Sequence[str],
    ends: Sequence[End],
    robustness: Mapping[str, float],
    limits: Sequence[str],
    says: Mapping[str, object],
    tensor: str = TENSORS[0],
    found: Sequence[choice.Candidate] = (),
) -> Profile:
    """Fit, find out how far the fit can be trusted, and seal all of it as a profile.

    Args:
        table: measured sets with labels.
        rule: which statistics decide, and how thresholds are placed.
        found: the subsets among which these statistics were chosen on this table; then the rates that left checkpoints
            out have chosen again in each fold. Empty: the statistics were fixed before.
        id, statistic_version, tensor_rules, pools, ends, limits, tensor: as the profile has them.
        robustness: mean effective robustness in percentage points of the sets for which it is known.
        says: the fields of Calibration that are known beforehand.

    Raises:
        ValueError: no thresholds can be fitted, and why.
    """
    used, sets = taking_part(table), with_traps(table)
    fitted = fit(sets, rule)
    thresholds, failed = error_rates.with_bootstrap(fitted.thresholds, sets, rule)
    left_out = choice.judged(sets, rule, "model", choosing=bool(found))
    present, absent = with_label("present", used), with_label("absent", used)
    signed = [r for r in used if all(r.estimate(name) > thresholds[name].minimum for name in ENERGIES)]
    known = [[r for r in used if r.model == model and r.set in robustness] for model in models(used)]
    known = [rows for rows in known if rows]
    n_with, n_without = len(models(present)), len(models(absent))
    rates = error_rates.populations(sets, left_out, thresholds)
    missing_fold = set(left_out.no_fit)
    with_trials = [r for r in present if r.model not in missing_fold]
    wrong_with = {r.model for r in present if r.set in left_out.false_warn}
    few = FEW.format(with_=n_with, without=n_without) if min(n_with, n_without) < MANY_CHECKPOINTS else ""
    content: dict[str, object] = {
        "few": few,
        "n_sets": len(used),
        "n_checkpoints": len(models(used)),
        "n_with_checkpoints": n_with,
        "n_without_checkpoints": n_without,
        "with_indication": tuple(sorted(r.set for r in present)),
        "without_indication": tuple(sorted(r.set for r in absent)),
        "missed": fitted.missed,
        "unlabelled_passing": tuple(
            sorted(r.set for r in table if r.excluded == "unlabelled" and passes(r, thresholds))
        ),
        "excluded": tuple(sorted((r.set, r.excluded) for r in table if r.excluded)),
        "left_out_false_pass": left_out.false_pass,
        "left_out_false_warn": left_out.false_warn,
        "not_left_out": left_out.no_fit,
        "false_pass_upper": rates[0].upper,
        "false_warn_upper": error_rates.upper_bound(len(wrong_with), len(models(with_trials))),
        "family_out": error_rates.by_family(sets, rule, choosing=bool(found)),
        "auroc": _each(used),
        "auroc_signed": _each(signed),
        "auroc_joint": error_rates.separation(used, error_rates.joint_score(thresholds)),
        "kurtosis_alone": error_rates.kurtosis_alone(used),
        "rank_correlation": {
            name: error_rates.rank_correlation(
                [statistics.median(r.estimate(name) for r in rows) for rows in known],
                [robustness[rows[0].set] for rows in known],
            )
            for name in STATISTICS
        },
        "rank_correlation_n": len(known),
        "bootstrap_fits": error_rates.BOOTSTRAP_FITS,
        "bootstrap_failed": failed,
        "n_traps": int(sets.trap.sum()),
        "choice": tuple(Chosen(**one._asdict()) for one in found),
        "nearest": tuple(Nearest(set=of, statistic=by, factor=factor) for of, by, factor in fitted.nearest[:SHOWN]),
        "rates": rates,
        "by_training": error_rates.by_training(sets, thresholds),
        "moves": error_rates.moves(sets, rule, thresholds),
    }
    return seal(
        Profile(
            id=id,
            statistic_version=statistic_version,
            definitions=DEFINITIONS,
            tensor=tensor,
            tensor_rules=tuple(tensor_rules),
            pools=tuple(pools),
            ends=tuple(ends),
            min_features=min(r.d for r in used),
            max_features=max(r.d for r in used),
            min_images=MIN_IMAGES,
            alpha=ALPHA,
            bounds="each",
            thresholds=thresholds,
            calibration=Calibration.model_validate({**content, **says}),
            limits=tuple(limits),
        )
    )


def _estimate(row: Reference, name: Statistic) -> float:
    return row.estimate(name)


def _each(sets: Sequence[Reference]) -> dict[Statistic, float]:
    """AUROC of each statistic alone."""
    return {name: error_rates.separation(sets, partial(_estimate, name=name)) for name in STATISTICS}
