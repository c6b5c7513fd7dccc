"""Make threshold profiles of measured sets. The default one has the same bytes every time.

python -m robustcheck_onnx.thresholds.calibrate > thresholds/data/default-4.json

The profile records this command, so the module keeps its name. Other profiles are made by `robustcheck calibrate`.

`fitted_profile` is for the rows that `robustcheck calibrate` measured, `profile_of` for any labelled sets.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import profile, results, tables
from .ends import End
from .fit import (
    DIGITS,
    GAP_POSITION,
    STRICT_RULE,
    Rule,
    Sets,
    Trial,
    fit,
    judged,
    models,
    passes,
    taking_part,
    trials,
    with_label,
)
from .profile import Calibration, Nearest, Profile, Rate, TensorFit, Threshold, Trained, seal
from .published import MEASURED, find
from .results import TENSORS, Result
from .statistics import DEFINITIONS, Bounds, Statistic
from .tables import Reference

Rows = Sequence[Result]
Table = Sequence[Reference]
Populations = Mapping[str, Callable[[Reference], bool]]
SHOWN = 8  # sets and traps named as the nearest
ALPHA = 0.05  # error rate of each lower bound, and of the upper ones together
BOUNDS: Bounds = "looks"
WIDER = (5 / 6, 11 / 12)  # where 2/3 is not enough: half of what is left, twice
FEW_CHECKPOINTS = 10  # without the label; below it the largest of them says little about the next one
MANY_CHECKPOINTS = 30  # on either side; with 30 and no error the 95 % bound of a rate is 10 %
FEW = "{} checkpoints with and {} without it: too few for narrow bounds; one error more or less moves them"
RESULT_LABELS = "with: robustness to natural distribution shifts was published or measured; without: it is absent"
MEANING = "PASS means that the model shows the outlier features of robust CLIP encoders. It does not prove robustness."
SHIFTS_MEANT = (
    "It is about natural distribution shifts of ImageNet kind (sketches, renditions, viewpoints), not about "
    "adversarial robustness or corruptions."
)
RESULT_RULE = (
    "threshold = {} of the way from the largest estimate below the passing sets, of those that the statistic turns "
    "away best, to their smallest estimate{}; logarithmic for the strength; no set without the label and no trap is "
    "above all of them, and of those with it as many as possible are"
)
_WIDE = ", wider than the usual 2/3: few checkpoints are without, or one of them passed when left out"
_POSITIONS = {GAP_POSITION: ("2/3", ""), WIDER[0]: ("5/6", _WIDE), WIDER[1]: ("11/12", _WIDE)}
_SIDES = {"present": "with", "absent": "without", "unlabelled": "without a label"}


class CannotFitError(ValueError):
    """The error for rows that no thresholds fit. The message gives the reason, in one line."""


def fitted_profile(
    rows: Rows,
    *,
    id: str,
    tensor: str = "auto",
    missing: Mapping[str, str] = MappingProxyType({}),
    labels: str = "",
    suite_known: bool = True,
) -> Profile:
    """Make a profile from a results table's rows.

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
    compared = tuple(_tensor_fit(rows, name) for name in TENSORS if name in {row.tensor for row in rows})
    chosen = best_tensor(compared) if tensor == "auto" else tensor
    if fault := {one.tensor: one.fault for one in compared}.get(chosen, f"no row is of {chosen}"):
        raise CannotFitError(f"{chosen}: no thresholds can be fitted; {fault}")
    some = rows_of(rows, chosen)
    table = results.as_references(some)
    sets = with_traps(table)
    rule = chosen_rule(sets)
    thresholds = fit(sets, rule).thresholds
    by_id = {row.id: row for row in some}
    passing = [by_id[r.set] for r in with_label("present", taking_part(table)) if passes(r, thresholds)]
    first = some[0]
    suites = sorted({(row.suite, row.suite_digest) for row in some})
    hard = [
        (r.set, f"{_SIDES[r.expected]}; {'passes' if passes(r, thresholds) else 'does not pass'}")
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
            "rule": RESULT_RULE.format(*_POSITIONS[rule.position]),
            "missing": tuple(sorted(missing.items())),
            "hard_cases": tuple(sorted(hard)),
            "tensors": compared if len(compared) > 1 else (),
        },
    )


def rows_of(rows: Rows, tensor: str) -> list[Result]:
    """Return one row per model.

    It is the tensor's where the model has it, else the representation's (a classifier has no other).
    """
    by_id = {row.id: row for wanted in (TENSORS[0], tensor) for row in rows if row.tensor == wanted}
    return [by_id[name] for name in sorted(by_id)]


def best_tensor(compared: Sequence[TensorFit]) -> str:
    """Return the tensor that separates the sets better.

    It has the fewest false PASS with checkpoints left out, then most sets that pass, then the fewest false WARN, then
    the larger gap; the representation where all are alike.

    Raises CannotFitError: no tensor can be fitted.
    """
    fitted = [one for one in compared if not one.fault]
    if not fitted:
        why = "; ".join(f"{one.tensor}: {one.fault}" for one in compared)
        raise CannotFitError(f"no thresholds can be fitted; {why or 'there is no row'}")
    return max(
        fitted,
        key=lambda one: (
            -one.left_out_false_pass,
            one.n_passing,
            -one.left_out_false_warn,
            one.gap or 0.0,
            -TENSORS.index(one.tensor),
        ),
    ).tensor


def _tensor_fit(rows: Rows, tensor: str) -> TensorFit:
    table = results.as_references(rows_of(rows, tensor))
    sets, used = with_traps(table), taking_part(table)
    n_with = len(with_label("present", used))
    none = TensorFit(
        tensor=tensor,
        n_with=n_with,
        n_without=len(used) - n_with,
        n_passing=0,
        auroc=None,
        left_out_false_pass=0,
        left_out_false_warn=0,
        gap=None,
    )
    try:
        rule = chosen_rule(sets)
    except ValueError as fault:
        why = sorted({r.excluded for r in table if r.excluded})
        return none.model_copy(update={"fault": f"{fault} (left out: {'; '.join(why)})" if why else str(fault)})
    fitted, alone = fit(sets, rule), judged(_trials(sets, rule))
    return none.model_copy(
        update={
            "n_passing": n_with - len(fitted.missed),
            "left_out_false_pass": len(alone.false_pass),
            "left_out_false_warn": len(alone.false_warn),
            "gap": fitted.nearest[0][2],
        }
    )


def with_traps(table: Table) -> Sets:
    """Return the sets and those that must not pass.

    These are simulated ones, and two of every one-sided set (`derived_traps`).
    """
    return Sets.of([*table, *tables.traps(), *tables.derived_traps(table)])


def _trials(sets: Sets, rule: Rule, by: str = "model") -> list[Trial]:
    return list(trials(sets, lambda others: fit(others, rule).minimums, by))


def chosen_rule(sets: Sets) -> Rule:
    """Raise the rule's position until no false PASS remains. Each checkpoint is left out in turn.

    It starts wider where few checkpoints are without the label. Where no position is enough, the one with the fewest
    false PASS.

    Raises ValueError as `fit` does.
    """
    rule = Rule(all_must_pass=False)
    fit(sets, rule)
    few = len(models(with_label("absent", taking_part(sets.rows)))) < FEW_CHECKPOINTS
    rules = [rule._replace(position=each) for each in (WIDER if few else (GAP_POSITION, *WIDER))]
    return min(rules, key=lambda each: len(judged(_trials(sets, each)).false_pass))


def _limits(some: Rows, passing: Rows, missing: Mapping[str, str], suite_known: bool) -> tuple[str, ...]:
    groups = sorted({row.group for row in some if not results.excluded(row)})
    ends = sorted({str(row.ends_in) for row in passing})
    out = [
        MEANING,
        "WARN means absent or not established; models that do well on shifted data may show nothing.",
        f"It holds for the kinds of model in its suite ({', '.join(groups)}); others were not measured.",
        f"It holds for tensors that end as the passing sets do: {', '.join(ends)}.",
    ]
    if made := [row.id for row in some if row.synthetic and not results.excluded(row)]:
        out.append(
            f"{len(made)} of its models were made by hand or replay measured vectors: it shows how a calibration "
            "works, and is not a ground for a release"
        )
    if missing:
        out.append(f"It is not complete: {len(missing)} models of its suite were not measured.")
    if not suite_known:
        out.append("It was fitted from tables without the suite: whether models are missing was not looked at.")
    return (*out, SHIFTS_MEANT)


def profile_of(
    table: Table,
    rule: Rule,
    *,
    says: Mapping[str, object],
    populations: Populations = MappingProxyType({}),
    **fields: Any,
) -> Profile:
    """Fit thresholds and seal them as a profile. It records how far the fit can be trusted.

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
    used, sets = taking_part(table), with_traps(table)
    fitted, by_model = fit(sets, rule), _trials(sets, rule)
    thresholds, alone = fitted.thresholds, judged(by_model)
    present, absent = with_label("present", used), with_label("absent", used)
    n_with, n_without = len(models(present)), len(models(absent))
    rates = _rates(used, by_model, populations or {"without the label": lambda row: row.expected == "absent"})
    n_wrong = len({r.model for r in present if r.set in alone.false_warn})
    content: dict[str, object] = {
        "few": FEW.format(n_with, n_without) if min(n_with, n_without) < MANY_CHECKPOINTS else "",
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
        "left_out_false_pass": alone.false_pass,
        "left_out_false_warn": alone.false_warn,
        "not_left_out": alone.no_fit,
        "false_pass_upper": rates[0].upper,
        "false_warn_upper": upper_bound(n_wrong, len({r.model for r in present}.difference(alone.no_fit))),
        "family_out": tuple(map(_family_out, _trials(sets, rule, "group"))),
        "n_traps": sum(row.trap for row in sets.rows),
        "nearest": [dict(zip(Nearest.model_fields, one, strict=True)) for one in fitted.nearest[:SHOWN]],
        "rates": rates if populations else (),
        "by_training": _by_training(used, thresholds),
    }
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
            calibration=Calibration.model_validate({**content, **says}),
        )
    )


def _rates(used: Table, trials: Sequence[Trial], populations: Populations) -> tuple[Rate, ...]:
    """Count the checkpoints of each population that pass when left out. None of them should."""
    passing = {
        row.set: bool(passed)
        for trial in trials
        if trial.passing is not None
        for row, passed in zip(trial.own.rows, trial.passing, strict=True)
    }
    rates = []
    for name, belongs in populations.items():
        tried = [row for row in used if belongs(row) and row.set in passing]
        n, n_wrong = len(models(tried)), len(models([row for row in tried if passing[row.set]]))
        rates.append(Rate(of=name, n=n, n_wrong=n_wrong, upper=upper_bound(n_wrong, n)))
    return tuple(rates)


def _family_out(trial: Trial) -> tuple[str, str]:
    """Describe how a left-out group is judged. The fit is to the other groups."""
    if trial.passing is None:
        return trial.name, "no fit without it"
    wrong = {*trial.wrong(without=True), *trial.wrong(without=False)}
    named = ", ".join(row.set for row in trial.own.rows if row.set in wrong)
    return trial.name, f"{sum(not row.excluded for row in trial.own.rows)} sets; wrong: {named or 'none'}"


def _by_training(used: Table, thresholds: Mapping[Statistic, Threshold]) -> tuple[Trained, ...]:
    """Count the passing sets of each kind of training.

    Sets that are judged otherwise than most of their kind are named.
    """
    out = []
    for kind in dict.fromkeys(row.training for row in used if row.training):
        of_kind = {row.set: passes(row, thresholds) for row in used if row.training == kind}
        n_passing = sum(of_kind.values())
        rare = n_passing <= len(of_kind) / 2
        names = tuple(sorted(name for name, passed in of_kind.items() if passed == rare))
        out.append(Trained(training=kind, n=len(of_kind), n_passing=n_passing, otherwise=names))
    return tuple(out)


def upper_bound(n_wrong: int, n: int) -> float:
    """Return the one-sided 95 % Clopper–Pearson bound of a rate.

    It is the p with P(X ≤ n_wrong | n, p) = 5 %, rounded up.

    Equals `scipy.stats.beta.ppf(0.95, n_wrong + 1, n - n_wrong)`; 1 where there was no trial, or each is an error.
    """
    if n_wrong >= n:
        return 1.0
    low, high = n_wrong / n, 1.0
    for _ in range(60):  # bisection: 2^-60 is below float precision
        p = (low + high) / 2
        at_most = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n_wrong + 1))
        low, high = (p, high) if at_most > ALPHA else (low, p)
    return float(math.ceil(high * 10**DIGITS) / 10**DIGITS)


COMMAND = "python -m robustcheck_onnx.thresholds.calibrate"
STATISTIC_VERSION = 2  # of the reference table; a test compares it with checker/core/statistics/definitions.py
NOT_ROBUST_PP = 10.0  # mean effective robustness below it counts as none
RULE = (
    "statistics: docs/dev/decisions/three-statistics.md. threshold: 2/3 of the way from the largest estimate of the "
    "sets and traps that the statistic turns away best to the smallest estimate with the indication; logarithmic for "
    "the strength"
)
LABELS = (
    f"with: the set shows the indication by its estimates: it is {tables.DEFINITION}; without: it does not. The label "
    "and the rule look at the same numbers, so that they agree on a set is not a finding. Absent means nothing for "
    "robustness: OpenCLIP ViT-bigG/14 is robust and shows none"
)
# What ends the sets with the indication: CLIP's projection, and the residual sum of SigLIP's attention pool.
ENDS = (End("linear"), End("other", "Add"))
LIMITS = (
    MEANING,
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) and DINOv2 ViT-g/14 have high "
    "published accuracy on shifted data and show no outlier features.",
    "Of 39 checkpoints that were not trained on images with texts none passes when left out of the fit: at most 7.4 % "
    "(95 % confidence). Most are turned away because their features have one sign; of the 14 two-sided ones the "
    "bound is "
    "19.3 %, of the 6 of these that end in a linear layer, all face encoders, 39.4 %. The rule was chosen on these "
    "sets, so these are not rates of a trial.",
    "It rests on few checkpoints. Not measured: ConvNeXt, DeiT(-III), BEiT, EfficientNetV2, RegNet, DINO, DINOv2 L, "
    "DINOv3, MAE; LAION-400M, DataComp, YFCC, CC12M, EVA, MobileCLIP, SigLIP 2; any classifier finetuned from CLIP on "
    "ImageNet.",
    "Every set with the indication is a projected image embedding or SigLIP's pooled one; representations that end "
    "otherwise (in a normalisation layer, in pooling, in a linear map of rectified features, in a PCA or another "
    "change of basis) are not judged by these thresholds.",
    "The statistics depend on the basis and on the mean vector of the representation: a linear layer that was made, "
    "not learned, can pass, such as a layer that has a row along the mean or a shifted bias.",
    SHIFTS_MEANT,
)
IMAGES = "each set on its own photos, in-distribution for its source (the sources are in the table)"


def default_profile(text: str) -> Profile:
    """Make the default profile from a table's text. The table is the reference table."""
    table = tables.references(text)
    two_sided = fit(with_traps(table)).thresholds["two_sidedness"].minimum
    robustness = {  # published; sets whose checkpoint has none are left out
        name: means[0]
        for name, checkpoint in MEASURED.items()
        if (means := [entry.mean_pp for entry in find(*checkpoint) if entry.mean_pp is not None])
    }

    def no_texts(row: Reference) -> bool:
        return row.training != "image_text"

    return profile_of(
        table,
        STRICT_RULE,
        id="default-4",
        statistic_version=STATISTIC_VERSION,
        tensor_rules=("encoder_output", "head_input"),
        pools=("none", "spatial_mean"),
        ends=ENDS,
        limits=LIMITS,
        populations={
            "not trained on images with texts": no_texts,
            "of these two-sided": lambda row: no_texts(row) and row.two_sidedness > two_sided,
            "of these ending in a linear layer": (
                lambda row: no_texts(row) and row.two_sidedness > two_sided and row.ends_in == "linear"
            ),
            f"published effective robustness below +{NOT_ROBUST_PP:g} points": (
                lambda row: robustness.get(row.set, NOT_ROBUST_PP) < NOT_ROBUST_PP
            ),
        },
        says={
            "command": COMMAND,
            "table": tables.TABLE,
            "table_digest": tables.table_digest(text),
            "date": tables.MEASURED_ON,
            "images": IMAGES,
            "labels": LABELS,
            "rule": RULE,
        },
    )


if __name__ == "__main__":
    sys.stdout.write(profile.to_json(default_profile(tables.table_text())))
