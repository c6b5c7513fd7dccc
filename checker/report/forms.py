"""Render outcomes in the forms of `-o`, in shared words.

Each form but the terminal's is a template of this package, or a module with one pure function
`write_NAME(outcomes, options) -> str`; what it needs is imported when it is asked for.

Words describe verdict, statistics, reference list and preprocessing; pure.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from ...thresholds.profile import STATISTICS, End, Profile, Statistic
from .. import text
from ..core.evidence import (
    CLIP,
    IMAGENET,
    TOP_FEATURES,
    Content,
    Interval,
    OutlierFeature,
    Preprocessing,
    PreprocessingFacts,
    Statistics,
)
from ..core.verdict.foreseen import describe
from ..core.verdict.gate import Waiver
from ..core.verdict.notes import ON_BUNDLED
from ..core.verdict.reasons import NAMES, WITHOUT_SCORES, Kind
from ..core.verdict.rule import Reason, Verdict, inside, outside, side_of
from ..errors import COMMANDS, UsageError
from ..text import Fields, as_json, error_json, frozen, number_text, printable
from .record import Bound, Failed, Outcome, ReferenceRow, Report, predicate_of, sealed, to_json

TEXTS = ("json", "junit", "sarif", "markdown", "html", "openmetrics", "modelcard", "gitlab", "predicate", "cyclonedx")
FORMS = ("terminal", *TEXTS)
OUTPUTS = (*FORMS, "template")
"""what `-o` of a check takes: a template is named with its file, and is not a form of `render`"""
PACKAGED = ("gitlab", "modelcard", "openmetrics")
"""forms that are templates of this package"""
MODULES = dict.fromkeys(("json", "predicate"), "forms")
MODULES |= dict.fromkeys(("html", *PACKAGED), "template") | dict.fromkeys(("junit", "sarif", "cyclonedx"), "pipelines")
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


@frozen
class FormOptions:
    """The options that a form may need."""

    thumbnails: Mapping[str, str] = field(default_factory=dict)
    """data: URIs of photos by their digest (html)"""
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
    module = import_module(f"{__package__}.{MODULES.get(form, form)}")
    write = partial(module.packaged, form) if form in PACKAGED else getattr(module, f"write_{form}")
    document: str = write(all_sealed(outcomes), options or FormOptions())
    return document


def all_sealed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Give each report the digest of what it holds now."""
    return [sealed(outcome) if isinstance(outcome, Report) else outcome for outcome in outcomes]


def one_model(form: str, models: int) -> None:
    """Refuse several models for a one-model form. Raises UsageError."""
    if form in ONE_MODEL and models != 1:
        raise UsageError(
            f"--output is {form} for {models} models; it holds one model only",
            f"robustcheck model.onnx --images photos/ -o {form}",
        )


def render_error(form: str, message: str, hint: str, exit_code: int, model: str = "") -> str:
    """Write the document of a run without a verdict. It is valid in its form, and never to be read as a PASS.

    form: one of FORMS. model: as it was given; empty where it is not known.
    """
    if form == "terminal":
        return text.error_text(message, hint, exit_code)
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
        return self.reason.title


def findings(report: Report) -> tuple[Finding, ...]:
    """Return the report's reasons, in its order. The tuple is empty exactly if the verdict is PASS."""
    gate = report.gate
    waivers = {w.reason: w for w in gate.waived} if gate else {}
    expired = {w.reason: w for w in gate.expired if w.reason not in waivers} if gate else {}
    return tuple(Finding(r, waivers.get(r.id), expired.get(r.id)) for r in report.verdict.reasons)


def finding_text(finding: Finding) -> str:
    """Write what was seen, with waivers, on one line. The waivers are in parentheses."""
    waivers = "".join(f" ({waiver})" for waiver in waiver_texts(finding))
    return printable(finding.reason.seen) + waivers


def waiver_texts(finding: Finding) -> list[str]:
    """Write the valid or the expired waiver. It takes one line; without one there is none."""
    texts = [waiver_text(finding.waiver)] if finding.waiver else []
    return texts + ([waiver_text(finding.expired, expired=True)] if finding.expired else [])


def waiver_text(waiver: Waiver, *, expired: bool = False) -> str:
    """Write who accepted a reason, why, until when. It takes one line."""
    state, until = ("a waiver", "expired on") if expired else ("waived", "until")
    return printable(f"{state} by {waiver.owner} {until} {waiver.expires.isoformat()}: {waiver.because}")


def loosening_text(report: Bound) -> str:
    """Write which settings can loosen the gate. A file or a variable sets them; one line, empty where nothing does."""
    settings_by_source: dict[str, list[str]] = {}
    for entry in report.gate.loosening if report.gate else ():
        if entry.source == "command line":
            continue
        settings_by_source.setdefault(entry.source, []).append(f"{entry.setting} {entry.value}")
    facts = [f"{', '.join(settings)} ({source})" for source, settings in settings_by_source.items()]
    return printable(f"can loosen the gate: {'; '.join(facts)}") if facts else ""


def passed_by(report: Report) -> str:
    """Write why a WARN does not fail the run. It is " (waived)", " (accepted)" or " (let through)"."""
    if report.verdict.passed or exit_code_of(report) != 0 or report.gate is None:
        return ""
    waived = {waiver.reason for waiver in report.gate.waived}
    if all(reason.id in waived for reason in report.verdict.reasons):
        return " (waived)"
    return " (accepted)" if all(r.kind == report.gate.accept for r in report.verdict.reasons) else " (let through)"


STOPPED = "STOPPED"
"""what a heading adds to a verdict for which the run ends with exit code 1"""


def is_stopped(outcome: Outcome) -> bool:
    """Return whether a gate stops the run because of this model's verdict."""
    return isinstance(outcome, Report) and outcome.gate is not None and outcome.gate.exit_code == 1


def gate_text(report: Report) -> str:
    """Write what the gate makes of a WARN, to follow it: " · STOPPED", or as `passed_by`."""
    return f" · {STOPPED}" if is_stopped(report) else passed_by(report)


def loosened(report: Report) -> Iterator[str]:
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

    Reported are what can loosen the gate, photos that are not the reader's, a preprocessing that is only claimed, and
    the arithmetic that was asked for.

    A report from Python has no gate, and says nothing of the first.
    """
    on_bundled = ON_BUNDLED if report.evidence.images.bundled else ""
    return list(filter(None, [loosening_text(report), on_bundled, *limits_of(report)]))


def limits_of(report: Bound) -> list[str]:
    """Write what the verdict is limited to, one line each: what only an option states, and whose arithmetic was run."""
    return list(filter(None, [claim_text(report), arithmetic_text(report)]))


def arithmetic_text(report: Bound) -> str:
    """Write whose arithmetic the verdict is about, where an option says it; else it is empty."""
    arithmetic = report.evidence.execution.arithmetic
    if arithmetic is None:
        return ""
    about = "exact int8 sums" if arithmetic == "exact" else "this machine's arithmetic alone"
    return f"the verdict is about {about} (--arithmetic {arithmetic})"


def claim_text(report: Bound) -> str:
    """Write that an option alone states the preprocessing of a PASS. It is empty for other reports."""
    preprocessing = report.evidence.preprocessing
    if not report.verdict.passed or not preprocessing.is_claimed:
        return ""
    origin = preprocessing.origin.removeprefix("contract (").removesuffix(")")
    return printable(f"preprocessing stated only by {origin or 'an option'}")


TENSORS = "none: the images were given as preprocessed tensors"


def pixels_text(report: Report) -> str:
    """Write the normalisation and what states it. Tensors came without one."""
    preprocessing = report.evidence.preprocessing
    if preprocessing.source == "tensors":
        return TENSORS
    return f"{normalisation_text(preprocessing.preprocessing)}, {origin_text(preprocessing)}"


def origin_text(preprocessing: PreprocessingFacts) -> str:
    """Write what states a preprocessing."""
    origin = preprocessing.origin or preprocessing.source
    if preprocessing.source == "assumed":
        return "assumed"
    return printable(f"from {'the ' * origin.startswith('contract')}{origin}")


def all_cautions(outcomes: Sequence[Outcome]) -> list[str]:
    """Write what comes before the verdicts of several models, each line once."""
    return list(dict.fromkeys(line for o in outcomes if isinstance(o, Report) for line in cautions(o)))


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
    file = text.name_text(report.evidence.model.file, ascii_only=False)
    on_bundled = ON_BUNDLED if report.evidence.images.bundled else ""
    limits = filter(None, [on_bundled, *limits_of(report)])
    limited = "; ".join(limits)
    shown = f" ({limited})" if limited else ""
    return f"{verdict_text(report.verdict)} {file}{shown}" + (f": {reasons}" if reasons else "")


def line_of(outcome: Outcome) -> str:
    """Write an outcome in one line, for `-q`. It has verdict, model, reasons, or the error."""
    if isinstance(outcome, Failed):
        return printable(f"ERROR {outcome.model}: {without_model(outcome)}")
    return f"{one_line(outcome)} · {STOPPED}" if is_stopped(outcome) else one_line(outcome)


def word_of(outcome: Outcome) -> str:
    """Return PASS, WARN or ERROR."""
    return "ERROR" if isinstance(outcome, Failed) else outcome.verdict.verdict


def counts_text(outcomes: Sequence[Outcome]) -> str:
    """Count outcomes by their word. Example: "2 PASS, 1 ERROR"."""
    counts = Counter(map(word_of, outcomes))
    return ", ".join(f"{counts[word]} {word}" for word in SIGNS if counts[word])


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
    return as_json({"schema_version": text.SCHEMA_VERSION, "tool": "robustcheck", "reports": documents(outcomes)})


def documents(outcomes: Sequence[Outcome]) -> list[Fields]:
    """Return the document of each outcome. It has a report's fields, or the model with its error."""
    return [
        {"model": o.model, "error": {"message": o.message, "hint": o.hint, "exit_code": o.exit_code}}
        if isinstance(o, Failed)
        else o.model_dump(mode="json")
        for o in outcomes
    ]


def write_predicate(outcomes: Sequence[Outcome], options: FormOptions) -> str:
    """Write the predicate about one model, or its error. `render` refuses several.

    The digest in it is that of the document that `-o json=PATH` writes about this model alone in the same run.
    """
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        return error_json(outcome.message, outcome.hint, outcome.exit_code)
    return as_json(predicate_of(outcome, text.sha256_of(write_json([outcome], options).encode())))


SIGNS = {"PASS": "✓", "WARN": "▲", "ERROR": "✗"}

Clears = Literal["yes", "no", "straddles", "not measured"]
CLEARS: dict[Clears, tuple[str, str]] = {
    "yes": ("✓", "yes"),
    "no": ("✗", "no"),
    "straddles": ("~", "straddles"),
    "not measured": ("?", "unknown"),
}
"""Sign and word of each answer to "ok?"."""

_MEANING: dict[Kind | None, str] = {
    None: "The outlier features of robust CLIP encoders are present on the images that were given. It is "
    "not known whether they predict robustness to natural distribution shifts.",
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
        "It is not known whether that predicts robustness to natural distribution shifts, and the check says nothing "
        "of accuracy.",
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
    """Explain a verdict to a reader without statistics. It takes a few sentences.

    Args:
        verdict: of the check.
        statistics: that it judges.
        end: what the representation comes out of.
    """
    n_images = statistics.n_images
    images = f"{n_images:,} {'photo that was' if n_images == 1 else 'photos that were'} measured"
    seen = verdict.reasons[0].seen if verdict.reasons else ""
    why = seen
    if verdict.kind == "not_applicable":
        why = seen[:1].upper() + seen[1:]
        if verdict.reasons[0].id in ("one_sided", "end_not_calibrated"):
            side = "" if verdict.reasons[0].id == "end_not_calibrated" else f", and {side_of(statistics)}"
            why = f"Its features are {describe(end)}{side}; there is no threshold for such models"
        if "too_few_images" in {reason.id for reason in verdict.reasons}:
            why += ". More photos will not change that"
    plain = " ".join(_PLAIN[verdict.kind])
    return f"{verdict.verdict}: {plain.format(images=images, why=why, reasons=verdict.reasons)}"


def verdict_text(verdict: Verdict) -> str:
    """Write the verdict with its kind. Example: "WARN · absent"."""
    return f"{verdict.verdict} · {verdict.kind}" if verdict.kind else verdict.verdict


def clears(interval: Interval, minimum: float) -> Clears:
    """Return on which side of the threshold the interval lies. The verdict's own comparisons decide."""
    if interval.low is None or interval.high is None:
        return "not measured"
    if inside(interval, minimum):
        return "yes"
    return "no" if outside(interval, minimum) else "straddles"


class JudgedStatistic(NamedTuple):
    """A deciding statistic with its threshold."""

    id: Statistic
    interval: Interval
    minimum: float
    """the threshold; PASS needs the whole interval above it"""

    @property
    def must_be(self) -> str:
        """Write the threshold for a table: `> 7.5`."""
        return f"> {self.minimum:g}"

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
        return clears(self.interval, self.minimum)

    def bounds(self, between: str = " to ", missing: str = "not measured") -> str:
        """Write the interval in enough digits. They show on which side of the threshold each bound lies."""
        limits = [self.minimum]
        return text.interval_text(self.interval.low, self.interval.high, limits, between=between, missing=missing)


def judged(statistics: Statistics, profile: Profile) -> list[JudgedStatistic]:
    """Return the deciding statistics, in the profile's order."""
    return [JudgedStatistic(name, getattr(statistics, name), profile.minimum_of(name)) for name in profile.deciding]


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
    first, stop, _ = step.partition(". ")
    prose, command = (match[1], match[2]) if match else (first + stop.strip(), "")
    names = {"MODEL": text.quoted(model), " --images PHOTOS": photos}  # each may hold the other's word
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
    """Write what the error rate of the bounds covers."""
    return f"{100 * (1 - report.evidence.statistics.alpha):g} % for each lower bound by itself"


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
    return "not measured" if content is None else text.percent_text(content.relative_variance)


def rest_text(content: Content | None) -> str:
    """Write in per cent how much of the other features' energy their mean holds."""
    return "not measured" if content is None else text.percent_text(content.mean_of_rest)


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
    steps.append(normalisation_text(p))
    if p.color_order != "RGB":
        steps.append(p.color_order)
    return f"{p.size[1]}×{p.size[0]} px: {', '.join(steps)}"


def normalisation_text(p: Preprocessing) -> str:
    """Write the mean and SD of a preprocessing. Known ones have a name."""
    for name, standard in (("CLIP", CLIP), ("ImageNet", IMAGENET)):
        if (p.mean, p.std) == (standard.mean, standard.std):
            return f"{name} mean and SD"
    return f"mean {_triple(p.mean)}, SD {_triple(p.std)}"


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.4g}" if len(set(values)) == 1 else " ".join(f"{v:.4g}" for v in values)
