"""Describe a verdict, its reasons and its gate in words. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ...thresholds.ends import End
from .. import text
from ..core.evidence import Statistics
from ..core.verdict.foreseen import describe
from ..core.verdict.gate import Waiver
from ..core.verdict.kinds import KINDS, WITHOUT_SCORES, Kind
from ..core.verdict.notes import ON_BUNDLED
from ..core.verdict.reasons import RULES
from ..core.verdict.rule import Reason, Verdict, side_of
from ..errors import COMMANDS
from ..text import around, count_text, printable
from .record import Bound, Failed, Outcome, Outcomes

NOT_ASSESSED = "could_not_assess"
"""stands for a reason where there is no verdict; `robustcheck explain` knows it as an exit code, not as a reason"""


NOT_ASSESSED_TITLE = "the model could not be assessed"


NOT_ASSESSED_HELP = (
    "The run ended in an error, so there is no verdict. That is never a PASS: the message says what is wrong, the hint "
    "what to type next."
)


_IN_WORDS = {kind: kind.replace("_", " ") for kind in KINDS} | {id: rule.title for id, rule in RULES.items()}
_SLUG = re.compile(rf"(?<![\w./-])({'|'.join(slug for slug in _IN_WORDS if '_' in slug)})(?![\w./-])")


class GatedReason(NamedTuple):
    """A reason for WARN with its waiver."""

    reason: Reason
    waiver: Waiver | None
    """holds for this reason: it counts for the verdict, not for the exit code"""
    expired: Waiver | None
    """was for this reason, and ended: it counts for nothing"""


def findings(report: Bound) -> tuple[GatedReason, ...]:
    """Return the report's reasons, in its order. The tuple is empty exactly if the verdict is PASS."""
    gate = report.gate
    waivers = {w.reason: w for w in gate.waived} if gate else {}
    expired = {w.reason: w for w in gate.expired if w.reason not in waivers} if gate else {}
    return tuple(GatedReason(r, waivers.get(r.id), expired.get(r.id)) for r in report.verdict.reasons)


def finding_text(finding: GatedReason) -> str:
    """Write what was seen, with waivers, on one line. The waivers are in parentheses."""
    text = printable(finding.reason.seen)
    if finding.waiver:
        text += f" ({waiver_text(finding.waiver)})"
    if finding.expired:
        text += f" ({waiver_text(finding.expired, expired=True)})"
    return text


def waiver_text(waiver: Waiver, *, expired: bool = False) -> str:
    """Write in one line who accepted a reason, why, until when."""
    day = waiver.expires.isoformat()
    words = f"waived by {waiver.owner} until {day}"
    if expired:
        words = f"a waiver by {waiver.owner} expired on {day}"
    return printable(f"{words}: {waiver.because}")


def loosening_text(report: Bound) -> str:
    """Write which settings can loosen the gate. A file or a variable sets them; one line, empty where nothing does."""
    if report.gate is None:
        return ""
    settings_by_source: dict[str, list[str]] = {}
    for entry in report.gate.loosening:
        if entry.source == "command line":
            continue
        setting = f"{entry.setting} {entry.value}"
        settings_by_source.setdefault(entry.source, []).append(setting)
    facts = [f"{', '.join(settings)} ({source})" for source, settings in settings_by_source.items()]
    return printable(around("can loosen the gate: ", "; ".join(facts)))


def passed_by(report: Bound) -> str:
    """Write why a WARN does not fail the run: " (waived)", " (accepted)" or " (let through)"."""
    if report.verdict.passed or exit_code_of(report) != 0 or report.gate is None:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    if all(reason.id in waived for reason in report.verdict.reasons):
        return " (waived)"
    if all(reason.kind == report.gate.accept for reason in report.verdict.reasons):
        return " (accepted)"
    return " (let through)"


STOPPED = "STOPPED"
"""what a heading adds to a verdict for which the run ends with exit code 1"""


def is_stopped(outcome: Outcome) -> bool:
    """Return whether a gate stops the run because of this model's verdict."""
    if isinstance(outcome, Failed) or outcome.gate is None:
        return False
    return outcome.gate.exit_code == 1


def gate_text(report: Bound) -> str:
    """Write what the gate makes of a WARN, to follow it: " · STOPPED", or as `passed_by`."""
    if is_stopped(report):
        return f" · {STOPPED}"
    return passed_by(report)


def loosened(report: Bound) -> Iterator[str]:
    """Write first what lets a WARN through. What no longer does is named, too."""
    gate = report.gate
    if gate is None:
        return
    if not report.verdict.passed and gate.exit_code == 0:
        yield gate.rule
    yield from (f"{w.reason}: {waiver_text(w)}" for w in gate.waived)
    yield from (f"{w.reason}: {waiver_text(w, expired=True)}" for w in gate.expired)


def cautions(report: Bound) -> list[str]:
    """Write what comes before the verdict, one line each.

    Reported are what can loosen the gate, photos that are not the reader's, a preprocessing that is only claimed, the
    arithmetic that was asked for, and what a comparison allows.

    A report from Python has no gate, and says nothing of the first.
    """
    return list(filter(None, [loosening_text(report), *_limits_and_photos(report), *report.allowances]))


def _limits_and_photos(report: Bound) -> list[str]:
    """Write that the photos are not the reader's, and what else the verdict is limited to, one line each."""
    limits = limits_of(report)
    if report.evidence.images.bundled:
        limits.insert(0, ON_BUNDLED)
    return limits


def limits_of(report: Bound) -> list[str]:
    """Write what the verdict is limited to, one line each: what only an option states, and whose arithmetic was run."""
    return list(filter(None, [claim_text(report), arithmetic_text(report)]))


def arithmetic_text(report: Bound) -> str:
    """Write whose arithmetic the verdict is about, where an option says it; else it is empty."""
    arithmetic = report.evidence.execution.arithmetic
    if arithmetic is None:
        return ""
    about = "this machine's arithmetic alone"
    if arithmetic == "exact":
        about = "exact int8 sums"
    return f"the verdict is about {about} (--arithmetic {arithmetic})"


def claim_text(report: Bound) -> str:
    """Write that an option alone states the preprocessing of a PASS, or nothing for other reports."""
    preprocessing = report.evidence.preprocessing
    if not report.verdict.passed or not preprocessing.is_claimed:
        return ""
    origin = preprocessing.origin.removeprefix("contract (").removesuffix(")")
    return printable(f"preprocessing stated only by {origin or 'an option'}")


def all_cautions(outcomes: Outcomes) -> list[str]:
    """Write what comes before the verdicts of several models, each line once."""
    return list(dict.fromkeys(line for o in outcomes if isinstance(o, Bound) for line in cautions(o)))


def exit_code_of(outcome: Outcome) -> int:
    """Return the exit code of this outcome alone: its error's or gate's; without a gate 0 for PASS, 1 for WARN."""
    if isinstance(outcome, Failed):
        return outcome.exit_code
    if outcome.gate is not None:
        return outcome.gate.exit_code
    return int(not outcome.passed)


def one_line(report: Bound) -> str:
    """Write the verdict in one line. `-q` and logs show it: "WARN · absent model.onnx: too_weak"."""
    file = text.name_text(report.evidence.model.file, ascii_only=False)
    limits = around(" (", "; ".join(_limits_and_photos(report)), ")")
    ids = [reason.id for reason in report.verdict.reasons]
    reasons = around(": ", ", ".join(ids))
    return f"{verdict_text(report.verdict)} {file}{limits}{reasons}"


def line_of(outcome: Outcome) -> str:
    """Write an outcome in one line, for `-q`: verdict, model, reasons, or the error."""
    if isinstance(outcome, Failed):
        return printable(f"ERROR {outcome.model}: {without_model(outcome)}")
    return one_line(outcome) + around(" · ", STOPPED * is_stopped(outcome))


def word_of(outcome: Outcome) -> str:
    """Return PASS, WARN or ERROR."""
    return "ERROR" if isinstance(outcome, Failed) else outcome.verdict.verdict


def spelled(text: str) -> str:
    """Write words for the names of reasons and kinds in a sentence. Names of files stay.

    >>> spelled("the verdict is WARN (one_sided)"), spelled("WARN · not_applicable"), spelled("one_sided.onnx")
    ('the verdict is WARN (one-sided representation)', 'WARN · not applicable', 'one_sided.onnx')
    """
    return _SLUG.sub(lambda slug: _IN_WORDS[slug[0]], text)


def counts_text(outcomes: Outcomes) -> str:
    """Count outcomes by their word. Example: "2 PASS, 1 ERROR"."""
    counts = Counter(map(word_of, outcomes))
    return ", ".join(f"{counts[word]} {word}" for word in SIGNS if counts[word])


def rank_of(outcome: Outcome) -> tuple[int, bool]:
    """Return a key that sorts by exit code, the worst first, then a WARN that does not fail the run before a PASS."""
    return -exit_code_of(outcome), isinstance(outcome, Bound) and outcome.passed


def rule_of(report: Bound) -> str:
    """Return the rule that decided the exit code, in one sentence."""
    if report.gate:
        return printable(report.gate.rule)
    return f"the verdict is {report.verdict.verdict}"


def without_model(failed: Failed) -> str:
    """Return the error's message without the model's path. In a table the row already names the model.

    >>> without_model(Failed(model="a.onnx", message="a.onnx: file is empty", hint="", exit_code=3))
    'file is empty'
    """
    return failed.message.removeprefix(f"{failed.model}: ")


SIGNS = {"PASS": "✓", "WARN": "▲", "ERROR": "✗"}


PUBLISHED = (
    "All 94 published zero-shot CLIP encoders with 55 % or more on ImageNet do better on shifted photos than that "
    "predicts, by 22 points or more"
)
"""studies/results/does-pass-predict-robustness.md counts them."""

_MEANING: dict[Kind | None, str] = {
    None: f"The outlier features of robust CLIP encoders are present on the images that were given. {PUBLISHED}; "
    "whether this model does was not measured.",
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
        f"{PUBLISHED}; whether this one does was not measured, nor its accuracy.",
    ),
    "not_established": ("The check came to no result on this model: {why}.", "Do the next step and check again."),
    "not_applicable": ("This check does not apply to this model. {why}.", "This says nothing about how robust it is."),
    "absent": (
        "On the {images}, this model does not show the outlier features that robust CLIP encoders show: "
        "{reasons[0].title}.",
        "It may be robust all the same.",
    ),
    "other_signal": (
        "On the {images}, this model shows the outlier features that robust CLIP encoders show; another signal warns.",
        "Read the reasons below before you release it.",
    ),
}


def plain_text(verdict: Verdict, statistics: Statistics, end: End) -> str:
    """Explain a verdict in a few sentences, to a reader without statistics.

    Args:
        verdict: of the check.
        statistics: that it judges.
        end: what the representation comes out of.
    """
    n_images = statistics.n_images
    images = f"{n_images:,} {'photo that was' if n_images == 1 else 'photos that were'} measured"
    reasons = verdict.reasons
    why = ""
    if reasons:
        why = reasons[0].seen
    if verdict.kind == "not_applicable":
        why = why[:1].upper() + why[1:]
        features = f"Its features are {describe(end)}"
        without = "; there is no threshold for such models"
        if reasons[0].id == "end_not_calibrated":
            why = f"{features}{without}"
        if reasons[0].id == "one_sided":
            why = f"{features}, and {side_of(statistics)}{without}"
        if "too_few_images" in {reason.id for reason in reasons}:
            why += ". More photos will not change that"
    template = " ".join(_PLAIN[verdict.kind])
    plain = template.format(images=images, why=why, reasons=reasons)
    return f"{verdict.verdict}: {plain}"


def verdict_text(verdict: Verdict) -> str:
    """Write the verdict with its kind. Example: "WARN · absent"."""
    return verdict.verdict + around(" · ", verdict.kind or "")


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
    match = re.match(r"(.*?:) `(robustcheck [^`]*)`", step)
    if match is None:
        first, stop, _ = step.partition(". ")
        return first + stop.strip(), explain
    prose, command = match.groups()
    names = {"MODEL": text.quoted(model), " --images PHOTOS": photos}  # each may hold the other's word
    return prose, re.sub("|".join(names), lambda word: names[word[0]], command)


def _error_text(failed: Failed) -> str:
    hint = around("\nhint: ", printable(failed.hint))
    return f"{NOT_ASSESSED_TITLE}: {printable(failed.message)}{hint}"


def headline(verdict: Verdict, file: str, n_images: int) -> str:
    """Write verdict, kind, model and images in a line."""
    answer = f"{SIGNS[verdict.verdict]} {verdict_text(verdict)}"
    return f"{answer} · {file} · {count_text(n_images, 'image')}"
