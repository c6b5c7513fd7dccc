"""Say in sentences what a comparison found."""

from __future__ import annotations

from collections import Counter

from ...core.verdict.kinds import NAMES, Kind
from ...core.verdict.rule import Reason, Verdict
from ...text import percent_text
from .features import Fate
from .judge import CompareReport

ACTS: dict[Fate, str] = {
    "lost": "lost",
    "uncorrelated": "replaced",
    "rotated": "rotated away",
    "weaker": "weakened",
    "moved": "moved",
}
"""what the new file did to an outlier feature that it did not keep"""


ADVICE: dict[Kind | None, str] = {
    None: "Neither robustness to natural distribution shifts nor accuracy was measured.",
    "not_established": "Do the next steps below and compare again.",
    "not_applicable": "This does not show how robust the new file is; measure its accuracy on shifted photos to find "
    "out.",
    "absent": "Look at how the new file was made before you release it.",
    "other_signal": "Read the reasons below, and look at how the new file was made before you release it.",
}
"""what follows the answer, by the kind of the verdict"""


def plain_text(report: CompareReport) -> str:
    """Explain the verdicts to a reader who knows no statistic. The one that stops the run leads."""
    text = f"{answer(report)} {ADVICE[report.kind]}"
    verdict = report.verdict.verdict
    if not report.index_first:
        verdicts = " · ".join(filter(None, (verdict, report.index_words)))
        return f"{verdicts}: {text}"
    parts = [report.index_text, f"On outlier features it is {verdict}: {text}"]
    if not report.is_required:
        parts.insert(1, "Only this is required.")
    return " ".join(parts)


def answer(report: CompareReport) -> str:
    """Answer, with numbers, whether the new file kept the outlier features of its reference.

    A changed file was measured as any other, so the answer comes first, and then why it is not a PASS.
    """
    reference = reference_name(report)
    if report.baseline:
        reference = f"the baseline {reference}"
    first = next(iter(_measured(report.verdict)), None)
    if first is not None and first.kind in ("not_established", "not_applicable"):
        return (
            f"It cannot be told whether the new file kept the outlier features of {reference}, because {cause(first)}."
        )
    change = ""
    if any(reason.id == "file_changed" for reason in report.reasons):
        change = " Its graph or weights are not those of its contract, so it can't be a PASS."
    if first is not None and first.id == "unrelated":
        return f"The new file is unrelated to {reference}: {first.seen}.{change}"
    done = _done(report)
    photos = f"{report.n_images:,} photos that were measured"
    if report.n_images == 1:
        photos = "1 photo that was measured"
    return f"The new file {done} {_total(report)} of {reference} on the {photos}{_but(report, done)}.{change}"


def cause(reason: Reason) -> str:
    """Write why a comparison came to no result, to follow "because"."""
    seen = reason.seen.replace(" by itself: ", " by itself is WARN: ", 1)
    if reason.id == "undecided":
        return f"the photos do not decide: {seen}"
    return seen


def _done(report: CompareReport) -> str:
    """Count what the new file did to the outlier features. What it kept counts only where it did nothing else."""
    counts = Counter(feature.fate for feature in report.features)
    if report.candidate.evidence.model.rule != "encoder_output":  # the head moved along
        counts["kept"] += counts.pop("moved", 0)
    acts = [f"{act} {counts[fate]}" for fate, act in ACTS.items() if counts[fate]]
    if not acts and counts["kept"] == len(report.features) > 1:
        return "kept all"
    kept = f"kept {counts['kept']}"
    return f"{' and '.join(acts) or kept} of"


def _total(report: CompareReport) -> str:
    total = len(report.features)
    if len(report.reference.evidence.statistics.persistent) > total:
        return f"{total} strongest outlier features"
    return f"{total} outlier features"


def _but(report: CompareReport, done: str) -> str:
    """Write what else was lost, or what else stops a file that kept every outlier feature."""
    kept = done.startswith("kept")
    left = [
        f"{percent_text(change.ratio.estimate or 0.0)} of the {NAMES[change.name]}"
        for change in report.statistics
        if change.keeps == "shrank"
    ]
    lost = f"with {' and '.join(left)} left"
    if left and kept:
        return f", but {lost}"
    if left:
        return f", {lost}"
    reasons = _measured(report.verdict)
    if not reasons or not kept:
        return ""
    first = reasons[0]
    if first.kind == "absent":
        return f", but by itself it does not show the outlier features of robust CLIP encoders: {first.title}"
    return f", but {first.title}"


def _measured(verdict: Verdict) -> tuple[Reason, ...]:
    """Return the reasons that bear on what was measured: all but that the file was changed."""
    return tuple(reason for reason in ordered(verdict) if reason.id != "file_changed")


def ordered(verdict: Verdict) -> tuple[Reason, ...]:
    """Return the reasons as they are shown: what was lost comes before what a check of the candidate alone gives."""
    if verdict.kind != "absent":
        return verdict.reasons
    return tuple(sorted(verdict.reasons, key=lambda reason: reason.kind != "other_signal"))


def reference_name(report: CompareReport) -> str:
    """Return the file that was compared with: the reference, or the baseline in its place."""
    return report.baseline or report.reference.evidence.model.file
