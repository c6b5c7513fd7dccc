"""A verdict and its statistics, in words and signs.

Each statistic is compared with its threshold; no report is known here, and reports may use it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from robustcheck_onnx.checker.evidence import Interval, Statistics
from robustcheck_onnx.checker.text import interval_text, number_text
from robustcheck_onnx.checker.verdict.reasons import NAMES, Kind
from robustcheck_onnx.checker.verdict.rule import Verdict, describe, inside, outside
from robustcheck_onnx.thresholds.frozen import End
from robustcheck_onnx.thresholds.profile import Limits, Profile, Statistic

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
