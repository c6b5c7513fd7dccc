"""What every pipeline's form tells of an outcome: the reasons with their waivers, paths, escaped text; pure."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from robustcheck_onnx.checker.text import name_text
from robustcheck_onnx.checker.verdict import NAMES, RULES, Reason, Waiver
from robustcheck_onnx.thresholds.profile import STATISTICS

from .record import Failed, Outcome, Report

NOT_ASSESSED = "could_not_assess"
"""stands for a reason where there is no verdict; `robustcheck explain` knows it as an exit code, not as a reason"""
NOT_ASSESSED_TITLE = "the model could not be assessed"
NOT_ASSESSED_HELP = (
    "The run ended in an error, so there is no verdict. That is never a PASS: the message says what is wrong, the hint "
    "what to type next."
)


class Finding(NamedTuple):
    """One reason for WARN, and what the gate made of it."""

    reason: Reason
    waiver: Waiver | None
    """holds for this reason: it counts for the verdict, not for the exit code"""
    expired: Waiver | None
    """was for this reason, and ended: it counts for nothing"""

    @property
    def title(self) -> str:
        """The reason in words; its id where this version knows none."""
        rule = RULES.get(self.reason.id)
        return rule.title if rule else self.reason.id


def findings(report: Report) -> tuple[Finding, ...]:
    """The report's reasons, in its order; none exactly if the verdict is PASS."""
    gate = report.gate
    held = {w.reason: w for w in gate.waived} if gate else {}
    ended = {w.reason: w for w in gate.expired} if gate else {}
    return tuple(
        Finding(
            reason,
            held.get(reason.id),
            None if reason.id in held else ended.get(reason.id),
        )
        for reason in report.verdict.reasons
    )


def waiver_text(waiver: Waiver, *, expired: bool = False) -> str:
    """Who accepted a reason, why and until when; one line."""
    words = "expired on" if expired else "until"
    state = "a waiver" if expired else "waived"
    return shown(f"{state} by {waiver.owner} {words} {waiver.expires.isoformat()}: {waiver.because}")


def finding_text(finding: Finding) -> str:
    """What was seen, and the waiver's words; one line."""
    text = shown(finding.reason.seen)
    if finding.waiver:
        text += f" ({waiver_text(finding.waiver)})"
    if finding.expired:
        text += f" ({waiver_text(finding.expired, expired=True)})"
    return text


def exit_code_of(outcome: Outcome) -> int:
    """What this outcome alone makes of the exit code; a report without a gate counts as its verdict."""
    if isinstance(outcome, Failed):
        return outcome.exit_code
    if outcome.gate is not None:
        return outcome.gate.exit_code
    return 0 if outcome.verdict.verdict == "PASS" else 1


def rule_of(report: Report) -> str:
    """Which rule decided, in one sentence."""
    return shown(report.gate.rule if report.gate else f"the verdict is {report.verdict.verdict}")


def model_of(outcome: Outcome) -> str:
    """The model's path as it was given, unescaped; empty where the run ended before it was known."""
    return outcome.model if isinstance(outcome, Failed) else outcome.evidence.model.file


def statistics_of(report: Report) -> list[tuple[str, str, float | None, float | None, float | None, float]]:
    """(id, name, estimate, low, high, threshold) of each deciding statistic, in the profile's order."""
    found: list[tuple[str, str, float | None, float | None, float | None, float]] = []
    for name in STATISTICS:
        interval = getattr(report.evidence.statistics, name)
        minimum = report.profile.thresholds[name].minimum
        found.append((name, NAMES[name], interval.estimate, interval.low, interval.high, minimum))
    return found


def shown(text: str) -> str:
    r"""Text that may quote names, on one line: control characters and bytes that are no text become escapes.

    >>> shown("a\nb")
    'a\\nb'
    """
    return name_text(text, ascii_only=False)


def names_of(outcomes: Sequence[Outcome]) -> list[str]:
    """A name for each outcome, escaped, not empty, no two alike: the path, with a number where it comes again."""
    names: list[str] = []
    for outcome in outcomes:
        name = again = shown(model_of(outcome)) or "robustcheck"
        number = 1
        while again in names:
            number += 1
            again = f"{name} ({number})"
        names.append(again)
    return names


def is_address(model: str) -> bool:
    """Whether a model was given as `scheme://…` and not as a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", model) is not None


def located(model: str, here: str, root: str) -> str:
    """The model's path relative to the repository, with forward slashes: how a pipeline names files.

    Args:
        model: as it was given; an address (`scheme://…`) stays as it is.
        here: absolute folder that a relative path starts from.
        root: absolute folder of the repository.

    Returns:
        The absolute path where the model lies outside the root; "robustcheck" where no model is known.
    """
    if not model or is_address(model):
        return model or "robustcheck"
    path = os.path.normpath(os.path.join(here, model))  # noqa: PTH118 # PurePath keeps `..`, and links stay links
    pure = PurePath(path)
    return (pure.relative_to(root) if pure.is_relative_to(root) else pure).as_posix()


def fingerprint(path: str, rule: str) -> str:
    """One finding's identity over runs: the same model and reason, whatever was measured."""
    return hashlib.sha256(name_bytes(f"{path}\0{rule}")).hexdigest()


def name_bytes(name: str) -> bytes:
    r"""A name's bytes, as the file system has them; half a character (a name given by a program) has some, too.

    >>> name_bytes("\udcff"), name_bytes("\ud800")
    (b'\xff', b'\xed\xa0\x80')
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")
