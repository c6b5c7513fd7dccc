"""The model card form: Hugging Face metadata (`model-index`) for one model, and the claim in words; pure.

The metrics are the verdict and the statistics of the indication. They are neither an accuracy nor a robustness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath

from robustcheck_onnx.checker.text import printable

from .forms import FormOptions
from .markdown import prose, section, text
from .outcome import cautions, findings
from .record import Failed, Outcome, Report
from .words import statistics_of, verdict_text

MARK = "---\n# robustcheck: model card metadata\n"
CLAIM = "An indication found on in-distribution images; neither accuracy nor robustness on shifted data was measured."


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the card of exactly one model (`forms.render` refuses more): YAML front matter, then Markdown.

    A model without a verdict has a card without results.
    """
    del options
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        return f"{MARK}tags:\n- robustcheck-error\n---\n\n{section(outcome)}\n"
    return f"{MARK}{_index(outcome)}---\n\n{_words(outcome)}\n"


def _index(report: Report) -> str:
    images, statistics = report.evidence.images, report.evidence.statistics
    lines = [
        "model-index:",
        f"- name: {_scalar(PurePath(report.evidence.model.file).stem or 'model')}",
        "  results:",
        "  - task:",
        '      type: "image-feature-extraction"',
        '      name: "Indication of robustness to natural distribution shifts (robustcheck)"',
        "    dataset:",
        '      type: "in-distribution-images"',
        f"      name: {_scalar(images.source or 'images')}",
        "      args:",
        f"        digest: {_scalar(images.digest)}",
        f"        images: {statistics.n_images}",
        "    metrics:",
    ]
    reasons = " ".join(f.reason.id for f in findings(report))
    args = {
        "claim": CLAIM,
        "kind": report.verdict.kind or "",
        "reasons": reasons,
        "model_digest": report.evidence.model.digest,
        "profile": report.verdict.profile_id,
        "profile_digest": report.verdict.profile_digest,
        "robustcheck": report.tool_version,
    }
    lines += _metric("robustcheck_verdict", "robustcheck verdict (an indication)", report.verdict.verdict, args)
    for s in statistics_of(report):
        if s.interval.estimate is not None:
            bounds = {"low": s.interval.low, "high": s.interval.high, "threshold": s.minimum}
            name = f"{s.name} (statistic of the indication)"
            lines += _metric(f"robustcheck_{s.id}", name, s.interval.estimate, bounds)
    return "\n".join(lines) + "\n"


def _metric(kind: str, name: str, value: str | float, args: dict[str, str] | dict[str, float | None]) -> list[str]:
    return [
        f"    - type: {_scalar(kind)}",
        f"      name: {_scalar(name)}",
        f"      value: {_scalar(value)}",
        "      args:",
        *(f"        {key}: {_scalar(value)}" for key, value in args.items()),
        "      verified: false",
    ]


def _scalar(value: str | float | None) -> str:
    """Write a YAML scalar: a JSON text without unprintable characters is one; a number always gets a point."""
    if isinstance(value, str):
        return json.dumps(printable(value), ensure_ascii=False)
    written = json.dumps(None if value is None else float(value), allow_nan=False)
    # YAML 1.1 takes 1e-05 for a text: it wants a point before the exponent
    return written if "e" not in written or "." in written else written.replace("e", ".0e")


def _words(report: Report) -> str:
    lines = [
        "## robustcheck",
        "",
        f"Verdict: **{text(verdict_text(report.verdict))}**. {CLAIM}",
        "",
        *(f"**!** {text(caution)}\n" for caution in cautions(report)),
        text(report.claim),
    ]
    if reasons := findings(report):
        lines += ["", *(f"- {text(f.title)}: {text(f.reason.seen)} → {prose(f.reason.next_step)}" for f in reasons)]
    lines += ["", "Limits:", "", *(f"- {text(limit)}" for limit in report.profile.limits)]
    return "\n".join(lines)
