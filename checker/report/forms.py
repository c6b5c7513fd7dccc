"""Render outcomes in the forms of `-o`. What several forms need of an outcome is here, too.

Each form but the terminal's is a template of this package, or a module with one pure function
`write_NAME(outcomes, options) -> str`; what it needs is imported when it is asked for.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import SCHEMA_VERSION, as_json, error_json, error_text, name_text, printable
from robustcheck_onnx.checker.verdict.gate import Waiver
from robustcheck_onnx.checker.verdict.notes import ON_BUNDLED
from robustcheck_onnx.checker.verdict.reasons import RULES
from robustcheck_onnx.checker.verdict.rule import Reason

from .record import Failed, Outcome, Report, sealed, to_json
from .words import verdict_text

TEXTS = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "modelcard", "gitlab", "predicate", "cyclonedx")
NAMES = ("terminal", *TEXTS)
OUTPUTS = (*NAMES, "template")
"""what `-o` of a check takes: a template is named with its file, and is not a form of `render`"""
PACKAGED = ("gitlab", "modelcard", "openmetrics")
"""forms that are templates of this package"""
MODULES = {"json": "forms", "predicate": "reader"}
MODULES |= dict.fromkeys(PACKAGED, "template") | dict.fromkeys(("junit", "sarif", "cyclonedx"), "pipelines")
"""of a form whose module has another name; the function is `write_NAME`"""
ONE_MODEL = ("modelcard", "predicate")
"""forms that hold one model only"""


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 # a text
    except OSError:  # the folder was removed under the process
        return os.sep


def _repository() -> str:
    start = Path(_working_folder())
    return str(next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), start))


@dataclass(frozen=True)
class FormOptions:
    """The options that a form may need."""

    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """data: URIs of calibration images by their digest (html)"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """why an image has no thumbnail, by its digest (html)"""
    working_folder: str = field(default_factory=_working_folder)
    """absolute folder that models' relative paths start from (sarif, gitlab, annotations)"""
    root: str = field(default_factory=_repository)
    """absolute folder that a pipeline's paths are relative to: the nearest one upward that holds .git"""


def render(form: str, outcomes: Sequence[Outcome], options: FormOptions | None = None) -> str:
    """Write one document about all outcomes, in order. It ends in a newline.

    form: one of TEXTS. Each report gets the digest of what it holds now: a gate may have been added since it was made.
    Raises UsageError where the form holds one model only and there are several.
    """
    one_model(form, len(outcomes))
    final = [sealed(outcome) if isinstance(outcome, Report) else outcome for outcome in outcomes]
    module = import_module(f"{__package__}.{MODULES.get(form, form)}")
    write = partial(module.packaged, form) if form in PACKAGED else getattr(module, f"write_{form}")
    text: str = write(final, options or FormOptions())
    return text


def one_model(form: str, models: int) -> None:
    """Refuse several models for a one-model form. Raises UsageError."""
    if form in ONE_MODEL and models != 1:
        raise UsageError(
            f"--output is {form} for {models} models; it holds one model only",
            f"robustcheck model.onnx --images photos/ -o {form}",
        )


def render_error(form: str, message: str, hint: str, exit_code: int, model: str = "") -> str:
    """Write the document of a run without a verdict. It is valid in its form, and never to be read as a PASS.

    form: one of NAMES. model: as it was given; empty where it is not known.
    """
    if form == "terminal":
        return error_text(message, hint, exit_code)
    return render(form, [Failed(model=model, message=message, hint=hint, exit_code=exit_code)])


NOT_ASSESSED = "could_not_assess"
"""stands for a reason where there is no verdict; `robustcheck explain` knows it as an exit code, not as a reason"""
NOT_ASSESSED_TITLE = "the model could not be assessed"
NOT_ASSESSED_HELP = (
    "The run ended in an error, so there is no verdict. That is never a PASS: the message says what is wrong, the hint "
    "what to type next."
)


class Finding(NamedTuple):
    """A reason for WARN with its waiver."""

    reason: Reason
    waiver: Waiver | None
    """holds for this reason: it counts for the verdict, not for the exit code"""
    expired: Waiver | None
    """was for this reason, and ended: it counts for nothing"""

    @property
    def title(self) -> str:
        """Return the reason's title."""
        return title_of(self.reason)


def title_of(reason: Reason) -> str:
    """Return a reason's title. It is its id where this version does not know it."""
    rule = RULES.get(reason.id)
    return rule.title if rule else reason.id


def findings(report: Report) -> tuple[Finding, ...]:
    """Return the report's reasons, in its order. The tuple is empty exactly if the verdict is PASS."""
    gate = report.gate
    waivers = {w.reason: w for w in gate.waived} if gate else {}
    expired = {w.reason: w for w in gate.expired if w.reason not in waivers} if gate else {}
    return tuple(Finding(r, waivers.get(r.id), expired.get(r.id)) for r in report.verdict.reasons)


def finding_text(finding: Finding) -> str:
    """Write what was seen, with waivers, on one line. The waivers are in parentheses."""
    waivers = "".join(f" ({text})" for text in waiver_texts(finding))
    return printable(finding.reason.seen) + waivers


def waiver_texts(finding: Finding) -> list[str]:
    """Write the valid or the expired waiver. It takes one line; without one there is none."""
    texts = [waiver_text(finding.waiver)] if finding.waiver else []
    return texts + ([waiver_text(finding.expired, expired=True)] if finding.expired else [])


def waiver_text(waiver: Waiver, *, expired: bool = False) -> str:
    """Write who accepted a reason, why, until when. It takes one line."""
    state, until = ("a waiver", "expired on") if expired else ("waived", "until")
    return printable(f"{state} by {waiver.owner} {until} {waiver.expires.isoformat()}: {waiver.because}")


def loosening_text(report: Report) -> str:
    """Write which settings can loosen the gate. A file or a variable sets them; one line, empty where nothing does."""
    settings_by_source: dict[str, list[str]] = {}
    for each in report.gate.loosening if report.gate else ():
        if each.source == "command line":
            continue
        settings_by_source.setdefault(each.source, []).append(f"{each.setting} {each.value}")
    facts = [f"{', '.join(settings)} ({source})" for source, settings in settings_by_source.items()]
    return printable(f"can loosen the gate: {'; '.join(facts)}") if facts else ""


def cautions(report: Report) -> list[str]:
    """Write what comes before the verdict, one line each.

    Reported are what can loosen the gate, and photos that are not the reader's.

    A report from Python has no gate, and says nothing of the first.
    """
    return list(filter(None, [loosening_text(report), ON_BUNDLED if report.evidence.images.bundled else ""]))


def exit_code_of(outcome: Outcome) -> int:
    """Return the exit code of this outcome alone.

    It is its error's or gate's; without a gate 0 for PASS, 1 for WARN.
    """
    if isinstance(outcome, Failed):
        return outcome.exit_code
    if outcome.gate is not None:
        return outcome.gate.exit_code
    return 0 if outcome.verdict.verdict == "PASS" else 1


def one_line(report: Report) -> str:
    """Write the verdict in one line. `-q` and logs show it: "WARN · absent model.onnx: too_weak"."""
    reasons = ", ".join(reason.id for reason in report.verdict.reasons)
    file = name_text(report.evidence.model.file, ascii_only=False)
    photos = f" ({ON_BUNDLED})" if report.evidence.images.bundled else ""
    return f"{verdict_text(report.verdict)} {file}{photos}" + (f": {reasons}" if reasons else "")


def line_of(outcome: Outcome) -> str:
    """Write an outcome in one line, for `-q`. It has verdict, model, reasons, or the error."""
    if isinstance(outcome, Failed):
        return printable(f"ERROR {outcome.model}: {without_model(outcome)}")
    return one_line(outcome)


def rank_of(outcome: Outcome) -> tuple[int, bool]:
    """Return a key that sorts the worst first.

    It sorts by exit code, then a WARN that does not fail the run before a PASS.
    """
    return -exit_code_of(outcome), isinstance(outcome, Report) and outcome.verdict.verdict == "PASS"


def rule_of(report: Report) -> str:
    """Return the rule that decided the exit code. It is one sentence."""
    return printable(report.gate.rule if report.gate else f"the verdict is {report.verdict.verdict}")


def model_of(outcome: Outcome) -> str:
    """Return the model's path as given, unescaped. It is empty where the run ended before it was known."""
    return outcome.model if isinstance(outcome, Failed) else outcome.evidence.model.file


def names_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a distinct name for each outcome. It is the escaped path, with a number where the path comes again."""
    names: list[str] = []
    for outcome in outcomes:
        name = numbered = printable(model_of(outcome)) or "robustcheck"
        number = 1
        while numbered in names:
            number += 1
            numbered = f"{name} ({number})"
        names.append(numbered)
    return names


def without_model(failed: Failed) -> str:
    """Return the error's message without the model's path. In a table the row already names the model.

    >>> without_model(Failed(model="a.onnx", message="a.onnx: file is empty", hint="", exit_code=3))
    'file is empty'
    """
    return failed.message.removeprefix(f"{failed.model}: ")


def is_address(model: str) -> bool:
    """Return whether a model is an address. It is then `scheme://…` and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", model) is not None


def path_in_repository(model: str, working_folder: str, root: str) -> str:
    """Return the model's path relative to the repository. It has forward slashes, as a pipeline names files.

    Args:
        model: as it was given; an address (`scheme://…`) stays as it is.
        working_folder: absolute folder that a relative path starts from.
        root: absolute folder of the repository.

    Returns:
        The absolute path where the model lies outside the root; "robustcheck" where no model is known.
    """
    if not model or is_address(model):
        return model or "robustcheck"
    path = os.path.normpath(os.path.join(working_folder, model))  # noqa: PTH118 # PurePath keeps `..`, and links stay links
    pure = PurePath(path)
    return (pure.relative_to(root) if pure.is_relative_to(root) else pure).as_posix()


def path_of(outcome: Outcome, options: FormOptions) -> str:
    """Return the model's path for a pipeline (`path_in_repository`)."""
    return path_in_repository(model_of(outcome), options.working_folder, options.root)


def fingerprint(path: str, rule: str) -> str:
    """Return a lasting digest of model and reason. It is the same over runs, whatever was measured."""
    return hashlib.sha256(name_bytes(f"{path}\0{rule}")).hexdigest()


def name_bytes(name: str) -> bytes:
    r"""Return a name's bytes in the file system. Lone surrogates (given by a program) have bytes, too.

    >>> name_bytes("\udcff"), name_bytes("\ud800")
    (b'\xff', b'\xed\xa0\x80')
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def write_json(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write one report, or several as `{"reports": [...]}`. A model that failed has an error document."""
    del options
    if len(outcomes) == 1:
        (outcome,) = outcomes
        if isinstance(outcome, Failed):
            return error_json(outcome.message, outcome.hint, outcome.exit_code)
        return to_json(outcome)
    return as_json({"schema_version": SCHEMA_VERSION, "tool": "robustcheck", "reports": documents(outcomes)})


def documents(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the document of each outcome. It has a report's fields, or the model with its error."""
    return [
        {"model": o.model, "error": {"message": o.message, "hint": o.hint, "exit_code": o.exit_code}}
        if isinstance(o, Failed)
        else o.model_dump(mode="json")
        for o in outcomes
    ]
