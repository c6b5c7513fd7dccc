"""Compute effective robustness from accuracies, and whether the verdict agrees.

Also the image sets with published accuracies: what each is called, and the classes and images that it has.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from ....thresholds import published
from ....thresholds.published import IMAGENET, SHIFT_WORDS, SHIFTS, BaselineFit, baselines_of, effective_robustness
from ....thresholds.records import Frozen
from ...core.evidence import Skips
from ...core.statistics.intervals import CONFIDENCE, Accuracy, wilson
from ...text import Texts

Outcome = Literal["agree", "disagree", "no contradiction", "undecided", "nothing to compare"]


class Difference(Frozen):
    """The difference of accuracies on two sets. It is shifted minus in-distribution (fractions)."""

    value: float
    low: float
    high: float


class SetResult(Frozen):
    """One labelled image set, measured."""

    name: str
    source: str
    shift: str | None
    """which known set it was said to be"""
    label_set: str
    labels: str
    """how labels were read, in words"""
    n_labels: int
    """classes that occur"""
    n_compete: int
    """classes among which the prediction is made"""
    n_available: int
    n_read: int
    n_skipped: int
    skipped: Skips
    digest: str
    accuracy: Accuracy


class Effective(Frozen):
    """Effective robustness on one named shift, percentage points."""

    points: float
    low: float
    high: float
    expected: float
    """accuracy that the baseline leads one to expect (fraction)"""
    extrapolated: bool
    baseline: str
    """what the line is fitted on, in words"""


class Shifted(Frozen):
    """A shifted set next to the in-distribution set."""

    result: SetResult
    difference: Difference
    in_both: int
    """images that are in both sets"""
    effective_robustness: Effective | None
    not_applicable: str
    """why there is no effective robustness; empty where there is"""


class ComparedVerdict(Frozen):
    """The verdict that the accuracies are compared with."""

    verdict: Literal["PASS", "WARN"]
    reasons: Texts
    profile: str
    n_images: int
    tensor: str
    origin: str
    """where it comes from, in words"""


class VerdictAgreement(Frozen):
    """Whether the measured robustness agrees with the verdict."""

    outcome: Outcome
    sentence: str
    mean_pp: float | None
    """mean effective robustness over `shifts`, percentage points"""
    low_pp: float | None
    high_pp: float | None
    shifts: Texts
    usual_low_pp: float | None
    """5 and 95 % of that mean over the models of the baseline"""
    usual_high_pp: float | None


CLASSES = {IMAGENET: 1000, "imagenetv2": 1000, "sketch": 1000, "imagenet_r": 200, "imagenet_a": 200, "objectnet": 113}
"""Number of classes that each named image set has."""
LABEL_SET = {
    IMAGENET: IMAGENET,
    "imagenetv2": IMAGENET,
    "sketch": IMAGENET,
    "objectnet": "file",
    "imagenet_r": "imagenet_r",
    "imagenet_a": "imagenet_a",
}
"""Label set of each (sets.ClassMap.label_set), for accuracies as published."""
IMAGES = {
    IMAGENET: 50_000,  # validation set (Russakovsky et al. 2015)
    "imagenetv2": 10_000,  # matched frequency (Recht et al. 2019)
    "sketch": 50_889,  # Wang et al. 2019
    "imagenet_r": 30_000,  # Hendrycks et al. 2021, "The Many Faces of Robustness"
    "imagenet_a": 7_500,  # Hendrycks et al. 2021, "Natural Adversarial Examples"
}
"""Images that each named set has, for a note where another number was found."""
ALIASES = {  # lower case, letters and digits only
    IMAGENET: ("imagenet", "imagenet1k", "in1k"),
    "imagenetv2": ("v2", "imagenetv2"),
    "sketch": ("sketch", "imagenetsketch"),
    "imagenet_r": ("r", "imagenetr"),
    "imagenet_a": ("a", "imageneta"),
    "objectnet": ("objectnet",),
}
WORDS = {IMAGENET: "ImageNet"} | SHIFT_WORDS
"""What each is called in a report."""

CLAIM = (
    "Accuracies are of these images with these labels only. Effective robustness is accuracy beyond what the accuracy "
    "on ImageNet leads one to expect of models trained on ImageNet alone (Taori et al. 2020). Nothing here changes a "
    "verdict."
)

AGREEMENT: dict[tuple[bool, str], tuple[Outcome, str]] = {
    (True, "PASS"): ("agree", ": above them, and the verdict is PASS"),
    (False, "PASS"): ("disagree", ": not above them, although the verdict is PASS"),
    (True, "WARN"): (
        "no contradiction",
        ": above them. That is not a contradiction: WARN means that the outlier features are absent, or that this was "
        "not established",
    ),
    (False, "WARN"): ("agree", ": not above them, and the verdict is WARN"),
}
"""(whether the mean is above the models of the baseline, verdict) → outcome, and the end of its sentence"""

MAX_HALF_WIDTH_PP = 2.0  # of an accuracy: about the scatter of the models that the baselines are fitted on


def not_comparable(result: SetResult) -> str:
    """Return why a set's accuracy is not comparable (other labels, missing classes, too few images), or ""."""
    if result.shift is None:
        return f"{result.name} was not named as one of {', '.join(WORDS.values())}"
    word = WORDS[result.shift]
    classes = CLASSES[result.shift]
    if result.label_set != LABEL_SET[result.shift]:
        return f"the labels of {result.name} are not {word}'s"
    if result.n_labels != classes:
        return f"{result.n_labels} of {word}'s {classes} classes occur in {result.name}"
    accuracy = result.accuracy
    half = published.PERCENTAGE_POINTS * (accuracy.high - accuracy.low) / 2
    if half > MAX_HALF_WIDTH_PP:
        return (
            f"the {accuracy.n} images of {result.name} give its accuracy to within {half:.1f} points; "
            f"{MAX_HALF_WIDTH_PP:g} or less is needed"
        )
    if not 0 < accuracy.value < 1:
        return f"accuracy on {result.name} is {accuracy.value:g}"
    return ""


def comparable_accuracies(inner: SetResult, shifted: Sequence[Shifted]) -> dict[str, float]:
    """Return the accuracy of every comparable set by kind, none where `inner` is not named as ImageNet."""
    if inner.shift != IMAGENET:
        return {}
    results = (inner, *(s.result for s in shifted))
    by_shift = {result.shift: result for result in results}
    accuracies = {}
    for shift in (IMAGENET, *SHIFTS):
        result = by_shift.get(shift)
        if result is not None and not not_comparable(result):
            accuracies[shift] = result.accuracy.value
    return accuracies


def effective(inside: SetResult, outside: SetResult, source: str) -> tuple[Effective | None, str]:
    """Return effective robustness on a named shift, or the reason why there is none.

    The interval takes both accuracies at their bounds, each at half the error rate: it holds for both together.
    """
    if outside.shift not in SHIFTS:
        return None, (
            f"not named as one of {', '.join(SHIFT_WORDS.values())}; only these have a published baseline. To name "
            "it: --shifted v2=PATH"
        )
    if inside.shift != IMAGENET:
        return None, "the in-distribution set was not named as ImageNet, from which all baselines start"
    for result in (inside, outside):
        if why := not_comparable(result):
            return None, why
    line = baselines_of(source)[outside.shift]
    of_each = 1 - (1 - CONFIDENCE) / 2
    low, high = _er_bounds(inside, outside, line, of_each)
    point = effective_robustness(inside.accuracy.value, outside.accuracy.value, line)
    library = published.library_of(source, outside.shift)
    robustness = Effective(
        points=float(point.points),
        low=low,
        high=high,
        expected=float(published.expected_accuracy(inside.accuracy.value, line)),
        extrapolated=bool(point.extrapolated),
        baseline=published.FITTED_ON[library],
    )
    return robustness, ""


def _er_bounds(inside: SetResult, outside: SetResult, line: BaselineFit, confidence: float) -> tuple[float, float]:
    """Return the bounds of effective robustness, with both accuracies at the bounds of intervals of this `confidence`.

    Effective robustness falls with the in-distribution accuracy and rises with the other.
    """
    x = wilson(inside.accuracy.n_correct, inside.accuracy.n, confidence)
    y = wilson(outside.accuracy.n_correct, outside.accuracy.n, confidence)
    low = effective_robustness(min(x.high, 1 - 1e-12), y.low, line).points
    high = effective_robustness(max(x.low, 1e-12), y.high, line).points
    return float(low), float(high)


def difference(of: Accuracy, minus: Accuracy) -> Difference:
    """Return the difference of two accuracies, with Newcombe's hybrid score interval for independent sets.

    d − √((p₁−l₁)² + (u₂−p₂)²) to d + √((u₁−p₁)² + (p₂−l₂)²), l and u the Wilson bounds of each (Newcombe 1998,
    method 10). For versions of the same images it is too wide, never too narrow as long as they are not negatively
    related.
    """
    value = of.value - minus.value
    down = math.hypot(of.value - of.low, minus.high - minus.value)
    up = math.hypot(of.high - of.value, minus.value - minus.low)
    low = max(value - down, -1.0)
    high = min(value + up, 1.0)
    return Difference(value=value, low=low, high=high)


def compare_sets(
    inner: SetResult, inner_digests: Sequence[str], result: SetResult, digests: Sequence[str], baseline: str
) -> Shifted:
    """Compare a shifted set with the in-distribution set, `inner`. Digests are of the images, in any order."""
    robustness, why = effective(inner, result, baseline)
    return Shifted(
        result=result,
        difference=difference(result.accuracy, inner.accuracy),
        in_both=(Counter(inner_digests) & Counter(digests)).total(),
        effective_robustness=robustness,
        not_applicable=why,
    )


def agree(judged: ComparedVerdict, inside: SetResult, shifted: Sequence[Shifted], source: str) -> VerdictAgreement:
    """Compare mean effective robustness with the verdict, one-sided as the verdict is.

    The mean is compared with the 5–95 % of the models that the baselines are fitted on. PASS agrees with a mean that is
    surely above them, and disagrees with one that surely is not. WARN agrees with a mean that is not above; with one
    that is, it does not contradict: WARN means that outlier features are absent or were not established, never "not
    robust".
    """
    comparable = {s.result.shift or "": s for s in shifted if s.effective_robustness}
    # the published means leave ObjectNet out: timm has none
    comparable = {shift: comparable[shift] for shift in comparable if shift in published.MEAN_SHIFTS} or comparable
    if not comparable:
        return VerdictAgreement(
            outcome="nothing to compare",
            sentence="no effective robustness could be measured, and accuracies alone speak neither for nor against "
            "the verdict",
            mean_pp=None,
            low_pp=None,
            high_pp=None,
            shifts=(),
            usual_low_pp=None,
            usual_high_pp=None,
        )
    shifts = tuple(comparable)
    middle = published.usual_robustness(source, shifts)
    share = 1 - (1 - CONFIDENCE) / (len(shifts) + 1)
    lines = baselines_of(source)
    bounds = [_er_bounds(inside, s.result, lines[shift], share) for shift, s in comparable.items()]
    lows, highs = zip(*bounds, strict=True)
    low = sum(lows) / len(shifts)
    high = sum(highs) / len(shifts)
    beyond = [s.effective_robustness for s in comparable.values() if s.effective_robustness]
    mean = sum(e.points for e in beyond) / len(beyond)
    outcome, words = AGREEMENT[low > middle.high, judged.verdict]
    if any(e.extrapolated for e in beyond):
        outcome = "nothing to compare"
        words = "; the baseline is extrapolated at this ImageNet accuracy"
    elif low <= middle.high < high:
        outcome = "undecided"
        words = ": the images do not show clearly whether it is above them"
    over = ""
    if len(shifts) > 1:
        over = " over " + ", ".join(SHIFT_WORDS[shift] for shift in shifts)
    percent = published.MIDDLE[1] - published.MIDDLE[0]
    models = published.FITTED_ON[published.library_of(source, shifts[0])]
    return VerdictAgreement(
        outcome=outcome,
        sentence=f"mean effective robustness{over} is {mean:+.1f} points ({low:+.1f} to {high:+.1f}); {percent} % of "
        f"{models} have {middle.low:+.1f} to {middle.high:+.1f}{words}",
        mean_pp=mean,
        low_pp=low,
        high_pp=high,
        shifts=shifts,
        usual_low_pp=middle.low,
        usual_high_pp=middle.high,
    )
