"""Compares all subsets of at most three of ten statistics, by the criterion of docs/dev/decisions/three-statistics.md.

python studies/choose_statistics.py

Writes studies/statistics_candidates.csv (all subsets) and prints those that separate the sets and the traps, the
winner, and what the whole choice does when it is repeated without each checkpoint.
"""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import NamedTuple

from robustcheck_onnx.thresholds import DATA
from robustcheck_onnx.thresholds.fit import SCALES, Fit, Scale, Sets, fit, folds, judged, trials
from robustcheck_onnx.thresholds.tables import TABLE, TRAPS, ReferenceSet, derived_traps, references, traps

OUT = Path(__file__).parent / "statistics_candidates.csv"
KURTOSIS = Scale(0.1, logarithmic=True)  # counted in units of kurtosis
ENERGY = SCALES["two_sidedness"]
CANDIDATES = SCALES | {
    "kurtosis": Scale(3.0, logarithmic=True),
    "persistence_ratio": Scale(1.0, logarithmic=True),
    "top3_share": Scale(),
    "excess": KURTOSIS,
    "persistent_kurtosis": KURTOSIS,
    "negative_energy": ENERGY,
    "negative_z_energy": ENERGY,
}
CANNOT_WIN = "persistent_kurtosis"  # it jumps, so no bound covers it
MOST = 3  # statistics


class Candidate(NamedTuple):
    """A subset of the statistics, and what a rule of them does."""

    statistics: tuple[str, ...]
    fault: str
    """why there is no fit to all sets; then nothing else is known"""
    false_pass: tuple[str, ...] = ()
    """sets without the label and traps that pass: fitted to all, without their checkpoint, without their family"""
    false_warn: tuple[str, ...] = ()
    """sets with the label that don't pass without their checkpoint"""
    family_warn: tuple[str, ...] = ()
    gap: float = 0.0
    nearest: str = ""
    thresholds: str = ""
    no_fit: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, int, int, float]:
        """By the criterion, the best first."""
        return len(self.false_pass), len(self.statistics), len(self.false_warn), -self.gap


def everything() -> Sets:
    """The 84 sets, the derived traps and the simulated ones, with all ten statistics."""
    columns: dict[str, dict[str, str]] = {}
    for name in (TABLE, TRAPS):
        with (DATA / name).open(encoding="utf-8", newline="") as handle:
            columns |= {row["set"]: row for row in csv.DictReader(handle)}

    def value(row: ReferenceSet, name: str) -> float:
        if name in ("negative_energy", "negative_z_energy"):
            energy = float(getattr(row, name))
            return min(energy, 1 - energy)
        if name == "excess":
            return row.kurtosis - (0 if math.isinf(row.kurtosis) else row.kurtosis / row.persistence_ratio)
        if name == "persistent_kurtosis":
            of_set = row.set.removesuffix(", offset")
            return math.inf if row.set.endswith(", planted") else float(columns[of_set]["persistent_kurtosis"])
        return float(getattr(row, name))

    table = references()
    return Sets.of([*table, *traps(), *derived_traps(table)], tuple(CANDIDATES), value)


def of_statistics(sets: Sets, names: tuple[str, ...]) -> Sets:
    """These statistics only."""
    return sets._replace(names=names, values=sets.values[:, [sets.names.index(name) for name in names]])


def refit(sets: Sets) -> dict[str, float]:
    """The thresholds for some sets."""
    return fit(sets, scales=CANDIDATES).minimums


def tried(sets: Sets, subset: tuple[str, ...]) -> Candidate:
    """What a rule of these statistics does."""
    some = of_statistics(sets, subset)
    try:
        fitted = fit(some, scales=CANDIDATES)
    except ValueError as fault:
        return Candidate(subset, str(fault))
    passing = some.passing(fitted.minimums) & some.without
    by_model, by_family = judged(trials(some, refit)), judged(trials(some, refit, "group"))
    return Candidate(
        subset,
        "",
        (*(row.set for row in some.keep(passing).rows), *by_model.false_pass, *by_family.false_pass),
        by_model.false_warn,
        by_family.false_warn,
        fitted.nearest[0][2],
        ", by ".join(fitted.nearest[0][:2]),
        "; ".join(f"{name} {minimum:g}" for name, minimum in fitted.minimums.items()),
        (*by_model.no_fit, *by_family.no_fit),
    )


def subsets() -> list[tuple[str, ...]]:
    """All subsets of at most three statistics."""
    return [s for size in range(1, MOST + 1) for s in itertools.combinations(CANDIDATES, size)]


def best(found: list[Candidate]) -> Candidate:
    """The winner among the subsets that have a fit and can win."""
    return min((c for c in found if not c.fault and CANNOT_WIN not in c.statistics), key=lambda c: c.order)


def chosen(sets: Sets) -> tuple[tuple[str, ...], Fit]:
    """The whole choice for some sets. Raises ValueError where no subset separates them."""
    found = [tried(sets, subset) for subset in subsets() if CANNOT_WIN not in subset]
    if all(c.fault for c in found):
        raise ValueError("no subset separates these sets")
    statistics = best(found).statistics
    return statistics, fit(of_statistics(sets, statistics), scales=CANDIDATES)


def nested(sets: Sets) -> list[str]:
    """What the whole choice does without each checkpoint: a line for each that changes the choice or is misjudged."""
    out = []
    for name, others, own in folds(sets, "model"):
        statistics, fitted = chosen(others)
        passing = of_statistics(own, statistics).passing(fitted.minimums)
        missed = [row.set for row in own.keep(~passing & own.present).rows]
        passed = [row.set for row in own.keep(passing & own.without).rows]
        out.append(f"without {name}: {', '.join(statistics)}; false PASS {passed}, false WARN {missed}")
        print(out[-1], flush=True)
    return out


def main() -> None:
    """Try all subsets, write the table, print the winner, and repeat the choice without each checkpoint."""
    sets = everything()
    found = sorted((tried(sets, subset) for subset in subsets()), key=lambda c: (bool(c.fault), c.order))
    with OUT.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(Candidate._fields)
        for c in found:
            cells = ("; ".join(cell) if isinstance(cell, tuple) else cell for cell in c)
            writer.writerow(cells)
            if not c.fault:
                print(c, flush=True)
    print("winner:", best(found))
    nested(sets)


if __name__ == "__main__":
    main()
