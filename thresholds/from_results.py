"""Make a profile of the rows that `robustcheck calibrate` measured."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from . import Texts, results
from .fit import GAP_POSITION, Rule, Sets, fit, judged, models, passes, taking_part, with_label
from .fitted import MEANING, SHIFTS_MEANT, profile_of, trials_of, with_traps
from .profile import Profile, TensorFit
from .results import TENSORS, Result

Rows = Sequence[Result]
WIDER = (5 / 6, 11 / 12)  # where 2/3 is not enough: half of what is left, twice
FEW_CHECKPOINTS = 10  # without the label; below it the largest of them says little about the next one
RESULT_LABELS = "with: robustness to natural distribution shifts was published or measured; without: it is absent"
RESULT_RULE = (
    "threshold = {} of the way from the largest estimate below the passing sets, of those that the statistic turns "
    "away best, to their smallest estimate{}; logarithmic for the strength; no set without the label and no trap is "
    "above all of them, and of those with it as many as possible are"
)
_WIDE = ", wider than the usual 2/3: few checkpoints are without, or one of them passed when left out"
_POSITIONS = {GAP_POSITION: ("2/3", ""), WIDER[0]: ("5/6", _WIDE), WIDER[1]: ("11/12", _WIDE)}
_SIDES = {"present": "with", "absent": "without", "unlabelled": "without a label"}


class CannotFitError(ValueError):
    """The error for rows that no thresholds fit, with the reason in one line."""


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
    measured = {row.tensor for row in rows}
    compared = tuple(_tensor_fit(rows, name) for name in TENSORS if name in measured)
    chosen = best_tensor(compared) if tensor == "auto" else tensor
    faults = {one.tensor: one.fault for one in compared}
    if fault := faults.get(chosen, f"no row is of {chosen}"):
        raise CannotFitError(f"{chosen}: no thresholds can be fitted; {fault}")
    some = rows_of(rows, chosen)
    table = results.as_references(some)
    sets = with_traps(table)
    rule = chosen_rule(sets)
    thresholds = fit(sets, rule).thresholds
    passing = []
    hard_cases = []
    for row, reference in zip(some, table, strict=True):
        is_passing = passes(reference, thresholds)
        if is_passing and row.label == "present" and not reference.excluded:
            passing.append(row)
        if row.hard_case:
            answer = "passes" if is_passing else "does not pass"
            hard_cases.append((row.id, f"{_SIDES[row.label]}; {answer}"))
    first = some[0]
    suites = sorted({(row.suite, row.suite_digest) for row in some})
    has_one_width = len({row.n_varied for row in some}) == 1
    varied = f", {first.n_varied} varied" if has_one_width else ""
    says = {
        "command": f"robustcheck calibrate --from-evidence TABLE --tensor {chosen} --id {id}",
        "table": "results of robustcheck calibrate",
        "table_digest": results.digest_of(some),
        "date": max(row.date for row in some),
        "suite": ", ".join(name for name, _ in suites),
        "suite_digest": ", ".join(digest for _, digest in suites),
        "images": f"{first.n_images} images{varied}, seed {first.seed}, {first.images_digest}",
        "labels": labels or RESULT_LABELS,
        "rule": RESULT_RULE.format(*_POSITIONS[rule.position]),
        "missing": tuple(sorted(missing.items())),
        "hard_cases": tuple(sorted(hard_cases)),
        "tensors": compared if len(compared) > 1 else (),
    }
    ends = {row.ends_in for row in passing if not row.ends_in.can_make_outliers}
    return profile_of(
        table,
        rule,
        id=id,
        statistic_version=first.statistic_version,
        tensor_rules=sorted({row.rule for row in passing}),
        pools=sorted({row.pool for row in passing}),
        ends=sorted(ends, key=str),
        limits=_limits(some, passing, missing, suite_known),
        tensor=chosen,
        says=says,
    )


def rows_of(rows: Rows, tensor: str) -> list[Result]:
    """Return each model's row of a tensor, or of the representation where it has no other (a classifier)."""
    by_id = {row.id: row for wanted in (TENSORS[0], tensor) for row in rows if row.tensor == wanted}
    return [by_id[name] for name in sorted(by_id)]


def best_tensor(compared: Sequence[TensorFit]) -> str:
    """Return the tensor that separates the sets better.

    With checkpoints left out, the better one has the fewest false PASS, then most sets that pass, then the fewest false
    WARN, then the larger gap. The representation is chosen where all are alike.

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
    sets = with_traps(table)
    used = taking_part(table)
    n_with = len(with_label("present", used))
    n_without = len(used) - n_with
    fit_of = partial(TensorFit, tensor=tensor, n_with=n_with, n_without=n_without, auroc=None)
    try:
        rule = chosen_rule(sets)
    except ValueError as fault:
        why = sorted({row.excluded for row in table if row.excluded})
        left_out = f" (left out: {'; '.join(why)})" if why else ""
        return fit_of(n_passing=0, left_out_false_pass=0, left_out_false_warn=0, gap=None, fault=f"{fault}{left_out}")
    fitted = fit(sets, rule)
    alone = judged(trials_of(sets, rule))
    return fit_of(
        n_passing=n_with - len(fitted.missed),
        left_out_false_pass=len(alone.false_pass),
        left_out_false_warn=len(alone.false_warn),
        gap=fitted.nearest[0][2],
    )


def chosen_rule(sets: Sets) -> Rule:
    """Return the rule of the lowest position at which no checkpoint passes falsely when it is left out.

    The positions are wider where few checkpoints are without the label. Where none is enough, the one with the fewest
    false PASS is taken.

    Raises ValueError as `fit` does.
    """
    rule = Rule(all_must_pass=False)
    fit(sets, rule)
    without = models(with_label("absent", taking_part(sets.rows)))
    positions = WIDER if len(without) < FEW_CHECKPOINTS else (GAP_POSITION, *WIDER)
    rules = [rule._replace(position=each) for each in positions]
    return min(rules, key=lambda each: len(judged(trials_of(sets, each)).false_pass))


def _limits(some: Rows, passing: Rows, missing: Mapping[str, str], suite_known: bool) -> Texts:
    used = [row for row in some if not results.excluded(row)]
    groups = sorted({row.group for row in used})
    ends = sorted({str(row.ends_in) for row in passing})
    out = [
        MEANING,
        "WARN means absent or not established; models that do well on shifted data may show nothing.",
        f"It holds for the kinds of model in its suite ({', '.join(groups)}); others were not measured.",
        f"It holds for tensors that end as the passing sets do: {', '.join(ends)}.",
    ]
    if made := [row.id for row in used if row.synthetic]:
        out.append(
            f"{len(made)} of its models were made by hand or replay measured vectors: it shows how a calibration "
            "works, and is not a ground for a release"
        )
    if missing:
        out.append(f"It is not complete: {len(missing)} models of its suite were not measured.")
    if not suite_known:
        out.append("It was fitted from tables without the suite: whether models are missing was not looked at.")
    return (*out, SHIFTS_MEANT)
