"""How often PASS is wrong, and whether a checkpoint has the same verdict on other photos, from the reference table.

python studies/claims.py

Prints the two tables of studies/results/claims.md. The labels come from the sources: the kind of training, and
published accuracies. A set is judged by its estimates, by thresholds that were fitted without its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
from scipy.stats import beta

from robustcheck_onnx.thresholds import profile, published, tables
from robustcheck_onnx.thresholds.fit import Sets, fit
from robustcheck_onnx.thresholds.statistics import Statistic
from robustcheck_onnx.thresholds.tables import ReferenceSet

NOT_ROBUST_PP = 10  # published effective robustness, mean over four shifts


def passing(row: ReferenceSet, minimums: Mapping[Statistic, float] | Mapping[str, float]) -> bool:
    """Return whether a set's estimates lie above all minimums."""
    return all(getattr(row, name) > minimum for name, minimum in minimums.items())


def is_not_of(model: str, row: ReferenceSet) -> bool:
    """Return whether a set is of another checkpoint."""
    return row.model != model


def passing_left_out(table: Iterable[ReferenceSet]) -> dict[str, bool]:
    """Judge each set by thresholds that were fitted without its checkpoint, and without the traps made of it."""
    table = [*table]
    sets = Sets.of([*table, *tables.traps(), *tables.derived_traps(table)])
    out: dict[str, bool] = {}
    for model in {row.model for row in table if not row.excluded}:
        others = sets.which(partial(is_not_of, model))
        minimums = fit(sets.keep(others)).minimums
        out |= {row.set: passing(row, minimums) for row in table if row.model == model and not row.excluded}
    return out


def effective_robustness(row: ReferenceSet) -> float:
    """Return the published effective robustness of a set's checkpoint in points; infinite where none is known."""
    found = published.find(*published.MEASURED[row.set]) if row.set in published.MEASURED else ()
    return next((entry.mean_pp for entry in found if entry.mean_pp is not None), np.inf)


def rates(used: list[ReferenceSet], passed: dict[str, bool]) -> list[str]:
    """Count the checkpoints that pass, by labels that don't look at the statistics, with one-sided 95 % bounds."""
    no_texts = [row for row in used if row.training != "image_text"]
    two_sided = [row for row in no_texts if row.two_sidedness > profile.load().thresholds["two_sidedness"].minimum]
    populations = {
        "not trained on images with texts": no_texts,
        "of these two-sided": two_sided,
        "of these ending in a linear layer": [row for row in two_sided if row.ends_in == "linear"],
        f"published effective robustness below +{NOT_ROBUST_PP} points": [
            row for row in used if effective_robustness(row) < NOT_ROBUST_PP
        ],
    }
    lines = []
    for name, rows in populations.items():
        n, wrong = (len({row.model for row in some}) for some in (rows, [row for row in rows if passed[row.set]]))
        upper = 100 * beta.ppf(0.95, wrong + 1, n - wrong) if wrong < n else 100
        lines.append(f"| {name} | {wrong} of {n} | {np.ceil(10 * upper) / 10:.1f} % |")
    return lines


def retests(used: list[ReferenceSet], judge: Callable[[ReferenceSet], bool]) -> tuple[list[str], int, float]:
    """Compare the sets of each checkpoint that has several: a row each, how many sets, the median ratio of K."""
    lines, n_sets, ratios = [], 0, []
    for model in dict.fromkeys(row.model for row in used):
        rows = [row for row in used if row.model == model]
        if len(rows) < 2:
            continue
        k = sorted(row.kurtosis for row in rows)
        verdicts = " and ".join(sorted({"PASS" if judge(row) else "WARN" for row in rows}))
        lines.append(f"| {model} | {len(rows)} | {verdicts} | {k[0]:.1f} to {k[-1]:.1f} | {k[-1] / k[0]:.2f} |")
        n_sets += len(rows)
        ratios.append(k[-1] / k[0])
    return lines, n_sets, float(np.median(ratios))


if __name__ == "__main__":
    used = [row for row in tables.references() if not row.excluded]
    print("| checkpoints | PASS | at most |\n|---|---|---|")
    every, two_sided, linear, _ = rates(used, passing_left_out(tables.references()))  # the last ones are all one-sided
    print("\n".join((every, two_sided, linear)), end="\n\n")
    minimums = {name: t.minimum for name, t in profile.load().thresholds.items()}
    lines, n_sets, ratio = retests(used, lambda row: passing(row, minimums))
    print("| checkpoint | photo sets | verdict on each | K | largest over smallest |\n|---|---|---|---|---|")
    print("\n".join(lines))
    print(f"{len(lines)} checkpoints, {n_sets} sets; median ratio {ratio:.2f}")
