"""The words and numbers that several forms share.

They describe verdict, statistics, reference list, and preprocessing; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from robustcheck_onnx.checker.evidence import (
    CLIP,
    IMAGENET,
    TOP_FEATURES,
    Content,
    OutlierFeature,
    Preprocessing,
    Statistics,
)
from robustcheck_onnx.checker.text import number_text, percent_text
from robustcheck_onnx.checker.verdict.reasons import NAMES
from robustcheck_onnx.thresholds.profile import STATISTICS

from .judged import (
    CLEARS,
    SIGNS,
    Clears,
    JudgedStatistic,
    clears,
    judged,
    meaning_text,
    plain_text,
    verdict_text,
)
from .record import ReferenceRow, Report

__all__ = [
    "CLEARS",
    "NEIGHBOURS",
    "SIGNS",
    "Clears",
    "JudgedStatistic",
    "ReferenceLine",
    "clears",
    "confidence_text",
    "context_of",
    "group_text",
    "max_median_text",
    "meaning_text",
    "notable_features",
    "plain_text",
    "preprocessing_text",
    "rank_text",
    "reference_lines",
    "statistics_of",
    "strength_of",
    "variance_text",
    "verdict_text",
    "widest_kurtosis",
]

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
