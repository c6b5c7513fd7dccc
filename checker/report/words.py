"""The words and numbers that several forms share.

They describe verdict, statistics, reference list, and preprocessing; pure.

Each statistic is compared with its threshold; no report is known here, and reports may use it.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from robustcheck_onnx.checker.errors import COMMANDS
from robustcheck_onnx.checker.evidence import (
    CLIP,
    IMAGENET,
    TOP_FEATURES,
    Content,
    Interval,
    OutlierFeature,
    Preprocessing,
    Statistics,
)
from robustcheck_onnx.checker.text import interval_text, number_text, percent_text, quoted
from robustcheck_onnx.checker.verdict.reasons import NAMES, Kind
from robustcheck_onnx.checker.verdict.rule import Verdict, describe, inside, outside
from robustcheck_onnx.thresholds.profile import STATISTICS, End, Limits, Profile, Statistic

from .record import ReferenceRow, Report

SIGNS = {"PASS": "✓", "WARN": "▲", "ERROR": "✗"}

Clears = Literal["yes", "no", "straddles", "not measured"]
CLEARS: dict[Clears, tuple[str, str]] = {
    "yes": ("✓", "yes"),
    "no": ("✗", "no"),
    "straddles": ("~", "straddles"),
    "not measured": ("?", "unknown"),
}
"""Sign and word of each answer to "clears it?"."""

_MEANING: dict[Kind | None, str] = {
    None: "The outlier features of robust CLIP encoders are present on the images that were given. They are an "
    "indication of robustness to natural distribution shifts, not a proof.",
    "not_established": "It was not established whether the outlier features of robust CLIP encoders are present. Do "
    "the next steps, and check again.",
    "not_applicable": "The thresholds do not hold for this model, so the check says nothing of its robustness. That is "
    "not evidence of fragility.",
    "absent": "The outlier features of robust CLIP encoders are absent on the images that were given. That is not "
    "evidence of fragility.",
    "other_signal": "The outlier features of robust CLIP encoders are present on the images that were given, but "
    "another signal warns.",
}


def meaning_text(verdict: Verdict) -> str:
    """Explain a verdict in a sentence or two."""
    return _MEANING[verdict.kind]


_PLAIN: dict[Kind | None, tuple[str, str]] = {
    None: (
        "On the {images}, this model shows the outlier features that robust CLIP encoders show.",
        "That is a sign of robustness to natural distribution shifts, not a proof, and it says nothing of accuracy.",
    ),
    "not_established": (
        "The check came to no result on this model: {why}.",
        "Do the next step and check again.",
    ),
    "not_applicable": (
        "This check does not apply to this model. {why}.",
        "This says nothing about how robust it is.",
    ),
    "absent": (
        "On the {images}, this model does not show the outlier features that robust CLIP encoders show.",
        "It may be robust all the same.",
    ),
    "other_signal": (
        "On the {images}, this model shows the outlier features that robust CLIP encoders show; another signal warns.",
        "Read the reasons below before you release it.",
    ),
}


def plain_text(verdict: Verdict, n_images: int, end: End) -> str:
    """Explain a verdict to a reader without statistics. It takes a few sentences.

    Args:
        verdict: of the check.
        n_images: how many images were measured.
        end: what the representation comes out of.
    """
    images = f"{n_images:,} {'photo that was' if n_images == 1 else 'photos that were'} measured"
    seen = verdict.reasons[0].seen if verdict.reasons else ""
    why = seen
    if verdict.kind == "not_applicable":
        why = seen[:1].upper() + seen[1:]
        if verdict.reasons[0].id in ("one_sided", "rectified", "end_not_calibrated"):
            negative = "" if verdict.reasons[0].id == "end_not_calibrated" else ", and few or none of them are negative"
            why = f"Its features are {describe(end)}{negative}; there is no threshold for such models"
        if "too_few_images" in {each.id for each in verdict.reasons}:
            why += ". More photos will not change that"
    text = " ".join(_PLAIN[verdict.kind])
    return f"{verdict.verdict}: {text}".replace("{images}", images).replace("{why}", why)


def verdict_text(verdict: Verdict) -> str:
    """Write the verdict with its kind. Example: "WARN · absent"."""
    return f"{verdict.verdict} · {verdict.kind}" if verdict.kind else verdict.verdict


def clears(interval: Interval, limits: Limits) -> Clears:
    """Return on which side of the threshold the interval lies. The verdict's own comparisons decide."""
    if interval.low is None or interval.high is None:
        return "not measured"
    if inside(interval, limits):
        return "yes"
    return "no" if outside(interval, limits) else "straddles"


class JudgedStatistic(NamedTuple):
    """A deciding statistic with its threshold."""

    id: Statistic
    interval: Interval
    limits: Limits
    """PASS needs the whole interval inside"""

    @property
    def minimum(self) -> float:
        """Return the threshold that the interval must exceed."""
        return self.limits.minimum

    @property
    def name(self) -> str:
        """Return the statistic in words."""
        return NAMES[self.id]

    @property
    def value(self) -> str:
        """Write the estimate, or a dash. The dash is for one that could not be measured."""
        return number_text(self.interval.estimate, missing="–")

    @property
    def clears(self) -> Clears:
        """Return on which side of the threshold the interval lies."""
        return clears(self.interval, self.limits)

    def bounds(self, between: str = " to ", missing: str = "not measured") -> str:
        """Write the interval in enough digits. They show on which side of the threshold each bound lies."""
        return interval_text(self.interval.low, self.interval.high, self.limits, between=between, missing=missing)


def judged(statistics: Statistics, profile: Profile) -> list[JudgedStatistic]:
    """Return the deciding statistics, in the profile's order."""
    return [JudgedStatistic(name, getattr(statistics, name), profile.limits_of(name)) for name in profile.deciding]


WITHOUT_SCORES = "Measure it on its own task, or compare it with its original. To waive it: `robustcheck init`"


def step_of(step: str, model: str, photos: str = "", explain: str = "", *, scores: bool) -> tuple[str, str]:
    """Split a next step into words and a command. The command works as it is printed.

    Args:
        step: of a reason, or the hint of an error. Of one without a command only the first sentence stays.
        model: for MODEL in the command.
        photos: the option that names the photos, for a command that has it.
        explain: the command of a step that has none.
        scores: whether the model gives class scores, which its accuracy is measured by.

    >>> step_of("Do: `robustcheck MODEL --images PHOTOS`. Or not.", "a", " --images MODELS/", scores=True)
    ('Do:', 'robustcheck a --images MODELS/')
    >>> step_of("Export it again. Or not.", "a", scores=True)
    ('Export it again.', '')
    """
    if "robustcheck shift" in step and not scores:
        step = WITHOUT_SCORES
    if step.startswith(COMMANDS):
        return "", step
    found = re.match(r"(.*?:) `(robustcheck [^`]*)`", step)
    first, stop, _ = step.partition(". ")
    prose, command = (found[1], found[2]) if found else (first + stop.strip(), "")
    names = {"MODEL": quoted(model), " --images PHOTOS": photos}  # each may hold the other's word
    return prose, re.sub("|".join(names), lambda word: names[word[0]], command) or explain


NEIGHBOURS = 4  # reference sets listed around the model, next to the two ends of the table

_GROUPS = {
    "zero_shot_clip": "zero-shot CLIP",
    "finetuned_clip": "finetuned CLIP",
    "self_supervised": "self-supervised",
    "face": "face recognition",
    "reid": "re-identification",
    "bad_export": "bad export",
}


def statistics_of(report: Report) -> list[JudgedStatistic]:
    """Return the deciding statistics, in the profile's order."""
    return judged(report.evidence.statistics, report.profile)


def context_of(report: Report) -> tuple[tuple[str, str], ...]:
    """Return the statistics that do not decide. Each has a name and a value in words; the profile sets which decide."""
    evidence = report.evidence.statistics
    others = [name for name in STATISTICS if name not in report.profile.thresholds]
    return tuple((NAMES[name], number_text(getattr(evidence, name).estimate, missing="–")) for name in others)


def confidence_text(report: Report) -> str:
    """Write what the error rate of the bounds covers. In simulations those of the energies do not reach it."""
    statistics = report.evidence.statistics
    confidence = f"{100 * (1 - statistics.alpha):g} %"
    less = "; less for the energies" if report.profile.is_earlier else ""
    return (
        f"{confidence} for {'each lower bound by itself' if statistics.bounds != 'together' else 'all together'}{less}"
    )


def strength_of(statistics: Statistics) -> float | None:
    """Return the strength, None where not measured. The report may be by an earlier version."""
    k, share = statistics.kurtosis.estimate, statistics.top3_share.estimate
    return None if k is None or share is None else k * share


def notable_features(statistics: Statistics) -> list[OutlierFeature]:
    """Return the strongest three and the persistent features.

    The three make up the strength; persistent ones are extreme in half of the images.
    """
    return [f for rank, f in enumerate(statistics.features) if f.persistent or rank < TOP_FEATURES]


def rank_text(content: Content | None) -> str:
    """Write the effective rank and its maximum. That is the number of images."""
    return "not measured" if content is None else f"{number_text(content.effective_rank)} of {content.n}"


def variance_text(content: Content | None) -> str:
    """Write the relative variance in per cent."""
    return "not measured" if content is None else percent_text(content.relative_variance)


def max_median_text(statistics: Statistics) -> str:
    """Write the max-median ratio. It is "infinite" where it was measured and a median is 0."""
    if statistics.max_median_ratio is None and statistics.rms_kurtosis is not None:
        return "infinite"
    return number_text(statistics.max_median_ratio)


class ReferenceLine(NamedTuple):
    """A line of the reference list. `reference` None = the model that was measured."""

    rank: int
    reference: ReferenceRow | None
    left_out: int = 0
    """sets between the line before and this one that are not listed"""


def reference_lines(
    references: Sequence[ReferenceRow], strength: float, everything: bool = False
) -> tuple[ReferenceLine, ...]:
    """Rank the model among the reference sets by strength. The list has its neighbours and both ends.

    Args:
        references: in any order.
        strength: the model's.
        everything: all sets instead.

    Returns:
        The strongest first, ranks counted with the model among the sets; after sets of the same strength.
    """
    strongest = sorted(references, key=lambda r: -r.strength)
    own = sum(r.strength >= strength for r in references)
    ordered = [*strongest[:own], None, *strongest[own:]]
    last = len(ordered) - 1
    first = max(min(own - NEIGHBOURS // 2, last - NEIGHBOURS), 0)
    window = range(first, first + NEIGHBOURS + 1)
    listed = [i for i in range(len(ordered)) if everything or i in window or i in (0, last)]
    return tuple(
        ReferenceLine(i + 1, ordered[i], i - before - 1) for before, i in zip((-1, *listed), listed, strict=False)
    )


def widest_kurtosis(references: Sequence[ReferenceRow]) -> tuple[str, float, float] | None:
    """Return the checkpoint whose kurtosis differs most between sets.

    Returns its name, least and most activation kurtosis over its image sets.

    Only sets that show the indication count: of the others the table holds logits next to representations.
    None when no checkpoint is in the table twice.
    """
    shows = sorted((r for r in references if r.shows_outlier_features), key=lambda r: r.checkpoint)
    ranges = []
    for checkpoint, rows in groupby(shows, key=lambda r: r.checkpoint):
        values = [r.kurtosis for r in rows]
        if len(values) > 1 and min(values) > 0:
            ranges.append((checkpoint, min(values), max(values)))
    return max(ranges, key=lambda r: r[2] / r[1], default=None)


def group_text(group: str) -> str:
    """Write a group of the reference table in words."""
    return _GROUPS.get(group, group.replace("_", " "))


def preprocessing_text(p: Preprocessing) -> str:
    """Write the preprocessing in one line. It goes from decoded photo to model input; px are width×height."""
    height, width = p.resize_size
    if p.resize_mode == "none":
        resize = "no resize"
    elif p.resize_mode == "squash":
        resize = "squashed" if p.resize_size == p.size else f"squashed to {width}×{height} px"
    elif height == width:
        resize = f"{p.resize_mode} edge {width} px"
    else:
        resize = f"{'covering' if p.resize_mode == 'shortest' else 'within'} {width}×{height} px"
    steps = [resize]
    if p.resize_mode != "none":
        steps.append(p.interpolation)
    if p.crop == "center":
        steps.append("centre crop")
    if p.rescale != 1 / 255:  # what every library does unless told otherwise
        steps.append(f"pixels × {p.rescale:.4g}")
    steps.append(_normalisation(p))
    if p.color_order != "RGB":
        steps.append(p.color_order)
    return f"{p.size[1]}×{p.size[0]} px: {', '.join(steps)}"


def _normalisation(p: Preprocessing) -> str:
    for name, known in (("CLIP", CLIP), ("ImageNet", IMAGENET)):
        if (p.mean, p.std) == (known.mean, known.std):
            return f"{name} mean and SD"
    return f"mean {_triple(p.mean)}, SD {_triple(p.std)}"


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.4g}" if len(set(values)) == 1 else " ".join(f"{v:.4g}" for v in values)
