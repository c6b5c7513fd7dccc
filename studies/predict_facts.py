"""The facts of studies/predict.py: checkpoints with verdict and effective robustness, intervals, criteria; pure.

Verdicts are by point estimates against the default profile, by the statistics alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from scipy.stats import beta, mannwhitneyu

from robustcheck_onnx.thresholds import published, results, suite
from robustcheck_onnx.thresholds.fit import passes
from robustcheck_onnx.thresholds.from_results import rows_of
from robustcheck_onnx.thresholds.profile import load
from robustcheck_onnx.thresholds.tables import ReferenceSet, references

SUITE = "paper"
LABELS = suite.LabelRule()  # those of the suite: robust from +20, not robust below +10 points
ZERO_SHOT = "zero_shot_clip"
FINETUNED = "imagenet_finetuned_clip"
CONFIDENCE = 0.95
FALSE_PASS = 0.10  # share of the checkpoints that are not robust; a gate that lets more through is not a gate
MISSED = 0.50  # share of the robust ones; above it most of them do not show the sign
LEAST_ACCURACY = 0.55  # top-1 on ImageNet; below it the baselines of effective robustness are extrapolated
LEAST = 10  # checkpoints on each side that a criterion needs
PROFILE = load()

Score = Callable[[ReferenceSet], float]


class Checkpoint(NamedTuple):
    """One checkpoint, its measured sets, and what is known of its robustness."""

    name: str
    group: str
    training: str
    label: suite.Label
    """present: robust, absent: not robust, by effective robustness; unlabelled: between, extrapolated, or not known"""
    mean_pp: float | None
    """published effective robustness, mean over V2, Sketch, R and A, percentage points; None: not published"""
    sets: tuple[ReferenceSet, ...]
    passing: tuple[bool, ...]
    """of each set, by point estimates"""

    @property
    def passed(self) -> bool:
        """Against the claim in doubt: all sets of a robust checkpoint must pass; of another, one is enough."""
        return all(self.passing) if self.label == "present" else any(self.passing)

    def median(self, score: Score) -> float:
        """Of a score over the sets."""
        return statistics.median(map(score, self.sets))


class PublishedClass(NamedTuple):
    """How many published models of one kind are robust, among those with LEAST_ACCURACY on ImageNet or more."""

    name: str
    rows: tuple[published.Published, ...]
    """highest effective robustness first"""

    @property
    def robust(self) -> list[published.Published]:
        """The models whose mean effective robustness is that of the suite's label *robust*."""
        return [row for row in self.rows if (row.mean_pp or 0.0) >= LABELS.present_from_pp]


class Outcome(NamedTuple):
    """What a criterion says: refuted, holds or open, and the numbers."""

    verdict: str
    numbers: str


def measured(table: Sequence[ReferenceSet] | None = None) -> list[Checkpoint]:
    """The checkpoints of the reference table that have a set which is evidence, in its order."""
    rows = {(row.library, row.model, row.weights): row for row in published.published()}
    by_name: dict[str, list[ReferenceSet]] = {}
    for one in references() if table is None else table:
        if not one.excluded:
            by_name.setdefault(one.model, []).append(one)
    out = []
    for name, sets in by_name.items():
        keys = {published.MEASURED[one.set] for one in sets if one.set in published.MEASURED}
        found = [rows[key] for key in keys]  # one at most: a name stands for one checkpoint
        known = found[0] if found and found[0].mean_pp is not None else None
        sure = known is not None and not any(shift in known.extrapolated for shift in published.MEAN_SHIFTS)
        mean_pp = known.mean_pp if known else None
        label: suite.Label = suite.label_from(mean_pp, LABELS) if mean_pp is not None and sure else "unlabelled"
        passing = tuple(passes(one, PROFILE.thresholds) for one in sets)
        first = sets[0]
        out.append(Checkpoint(name, first.group, first.training, label, mean_pp, tuple(sets), passing))
    return out


def published_classes() -> list[PublishedClass]:
    """Sort the published models of open_clip and timm into the class that PASS was fitted to, and two others."""
    known = [
        row
        for row in published.published()
        if row.mean_pp is not None and row.accuracy[published.IMAGENET] >= LEAST_ACCURACY
    ]
    known.sort(key=lambda row: row.mean_pp or 0.0, reverse=True)
    timm = [row for row in known if row.library == "timm"]
    named = {
        "zero-shot encoders of open_clip": [row for row in known if row.library == "open_clip"],
        "CLIP models finetuned on ImageNet (timm)": [row for row in timm if row.group == FINETUNED],
        "all other models of timm": [row for row in timm if row.group != FINETUNED],
    }
    return [PublishedClass(name, tuple(rows)) for name, rows in named.items()]


def of_results(rows: Iterable[results.Result], tensor: str) -> list[Checkpoint]:
    """The models of a calibration that can be judged by a tensor.

    representation: those whose published row stands for no measured checkpoint (`seen`). pooled: all that have it, and
    classifiers by their head's input, which is the same place; no threshold was fitted to it.

    Raises ValueError: the rows are of another version of the statistics than the profile.
    """
    known = seen() if tensor == "representation" else set()
    by_name: dict[str, list[tuple[results.Result, ReferenceSet, bool]]] = {}
    for row in rows_of(list(rows), tensor):
        if row.statistic_version != PROFILE.statistic_version:
            wanted = PROFILE.statistic_version
            raise ValueError(f"{row.id}: statistics are of version {row.statistic_version}; the profile's are {wanted}")
        if row.tensor != tensor and row.rule != "head_input":
            continue  # a projected embedding, which is another place
        if row.id in known or results.excluded(row.model_copy(update={"label": "absent"})):
            continue
        (one,) = results.as_references([row])
        alike = (row.context.get("spread") or 0.0) < results.ALIKE_SPREAD  # a check never passes these
        by_name.setdefault(one.model, []).append((row, one, passes(one, PROFILE.thresholds) and not alike))
    out = []
    for name, found in by_name.items():
        first, sets, passing = found[0][0], tuple(one for _, one, _ in found), tuple(passed for _, _, passed in found)
        out.append(Checkpoint(name, first.group, "", first.label, first.effective_robustness_pp, sets, passing))
    return out


def seen() -> set[str]:
    """Ids of the models of the paper's suite whose published row stands for a measured checkpoint."""
    keys = set(published.MEASURED.values())
    rows = [row for row in published.published() if (row.library, row.model, row.weights) in keys]
    names = {f"{row.library}:{row.name}" for row in rows}
    return {member.id for member in suite.open_suite(SUITE).members if member.entry.published in names}


def with_label(label: str, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Those that are present (robust), absent (not robust) or unlabelled."""
    return [one for one in checkpoints if one.label == label]


def interval(r: float | None, n: int, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Confidence interval of Spearman's rank correlation.

    tanh(artanh r ± z · √((1 + r²/2) / (n − 3))): Fisher's z with the variance of Bonett and Wright, "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika 65 (2000), 23–28. It is an
    approximation, and rough for few pairs.

    Args:
        r: the correlation of n pairs, −1 to 1.
        n: pairs.
        confidence: of the interval, between 0 and 1.

    Returns:
        Both ends; None where r is None (not defined) or ±1 (no finite z), and for 3 pairs or fewer (no variance).
    """
    if r is None or n <= 3 or abs(r) >= 1:
        return None
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + r * r / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def least_told(n: int) -> float:
    """The smallest positive r, to 0.01, whose interval over n > 3 pairs lies above 0; 1 where none does."""
    for hundredths in range(1, 100):
        found = interval(hundredths / 100, n)
        if found is not None and found[0] > 0:
            return hundredths / 100
    return 1.0


def joint_score(row: ReferenceSet) -> float:
    """How far a set lies above all thresholds: the smallest logarithm of an estimate over its threshold, 0 at it."""
    return min(math.log(max(getattr(row, name), 1e-9) / t.minimum) for name, t in PROFILE.thresholds.items())


def auroc(with_: Sequence[float], without: Sequence[float]) -> float:
    """Probability that one of the first lies above one of the others; ties count half."""
    return float(mannwhitneyu(with_, without).statistic / (len(with_) * len(without)))


def clopper_pearson_upper(k: int, n: int) -> float:
    """One-sided 95 % bound of a rate; 1 where every trial is an error."""
    return 1.0 if k == n else float(beta.ppf(CONFIDENCE, k + 1, n - k))


def share(n_hit: int, n: int, limit: float) -> Outcome:
    """Whether a share lies above a limit: refuted if its lower bound does, holds if its upper bound lies below.

    One-sided 95 % Clopper–Pearson bounds; open for fewer than LEAST checkpoints, and where there is none.
    """
    if n == 0:
        return Outcome("open", "no checkpoint")
    high = clopper_pearson_upper(n_hit, n)
    low = 1 - clopper_pearson_upper(n - n_hit, n)
    numbers = f"{n_hit} of {n}; {100 * low:.0f} to {100 * high:.0f} %"
    if n < LEAST:
        return Outcome("open", numbers)
    return Outcome("refuted" if low > limit else "holds" if high < limit else "open", numbers)


def above(with_: Sequence[float], without: Sequence[float]) -> Outcome:
    """Whether the first lie above the others: AUROC and the one-sided Mann–Whitney test (scipy.stats.mannwhitneyu).

    Refuted where it is not above one half (p > 0.05), else holds; open with fewer than LEAST on a side.
    """
    sizes = f"{len(with_)} against {len(without)}"
    if not with_ or not without:
        return Outcome("open", sizes)
    p = float(mannwhitneyu(with_, without, alternative="greater").pvalue)
    numbers = f"{sizes}; AUROC {auroc(with_, without):.2f}, p = {p:.2g}"
    if min(len(with_), len(without)) < LEAST:
        return Outcome("open", numbers)
    return Outcome("refuted" if p > 1 - CONFIDENCE else "holds", numbers)


def criteria(representation: Sequence[Checkpoint], pooled: Sequence[Checkpoint]) -> list[Outcome]:
    """The four criteria of the page, in its order.

    representation, pooled: the checkpoints by either tensor; pooled: empty where it was not measured.
    """
    robust, others = with_label("present", representation), with_label("absent", representation)
    zero_shot = [one for one in with_label("present", pooled) if one.group == ZERO_SHOT]
    finetuned = [one for one in pooled if one.group == FINETUNED]
    return [
        share(sum(one.passed for one in others), len(others), FALSE_PASS),
        share(sum(not one.passed for one in robust), len(robust), MISSED),
        above([one.median(joint_score) for one in robust], [one.median(joint_score) for one in others]),
        above([one.median(_kurtosis) for one in zero_shot], [one.median(_kurtosis) for one in finetuned]),
    ]


def _kurtosis(one: ReferenceSet) -> float:
    return one.kurtosis
