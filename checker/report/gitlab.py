"""GitLab's code quality form: a list with an entry for each reason of each model; pure.

A PASS is the empty list: the form has no place for what is in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck_onnx.checker.text import as_json, printable

from .forms import FormOptions
from .outcome import NOT_ASSESSED, NOT_ASSESSED_TITLE, finding_text, findings, fingerprint, path_of
from .record import Failed, Outcome


def render(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the list: severity major for a reason, info for a waived one, blocker where there is no verdict."""
    return as_json([entry for outcome in outcomes for entry in _entries(outcome, options)])


def _entries(outcome: Outcome, options: FormOptions) -> list[dict[str, object]]:
    path = path_of(outcome, options)
    if isinstance(outcome, Failed):
        words = [printable(text) for text in (outcome.message, outcome.hint) if text]
        return [_entry(path, NOT_ASSESSED, f"{NOT_ASSESSED_TITLE}: {'; hint: '.join(words)}", "blocker")]
    return [
        _entry(path, f.reason.id, f"{f.title} ({f.reason.kind}): {finding_text(f)}", "info" if f.waiver else "major")
        for f in findings(outcome)
    ]


def _entry(path: str, rule: str, text: str, severity: str) -> dict[str, object]:
    return {
        "check_name": f"robustcheck:{printable(rule)}",
        "description": text,
        "fingerprint": fingerprint(path, rule),
        "severity": severity,
        "location": {"path": printable(path), "lines": {"begin": 1}},
    }
