"""Check models and deliver their reports. Several are checked side by side; the exit code is that of the worst.

It imports what is heavy at the top: a run imports it while the child process starts.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ...thresholds.profile import Profile
from ..core.options import Options
from ..core.progress import LOG
from ..core.verdict.profile import load_profile
from ..errors import EnvironmentFaultError, RobustcheckError
from ..outside.isolation import NotReadError, Wall
from ..outside.storage import documents
from ..outside.storage.places import redact, redact_text
from ..report import forms
from ..report.check import Report
from ..report.model_names import FormOptions
from ..report.record import Failed, Outcome, sealed
from ..report.words import exit_code_of, line_of
from ..text import VERSION, Fields, printable, sha256_of
from . import output, process
from .command_line import Invocation
from .destinations import Destination, Destinations, bundle_at, check_target, fill_stdout, remove_earlier, template_of
from .named_models import refuse_missing, target_of
from .options import path_of
from .output import Faults, print_result, write_files
from .plan import Plan
from .progress import progress_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

GPUS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")
"""one of these is there on a system with an NVIDIA GPU: a server, a Jetson, Windows' Linux"""
Outcomes = dict[str, Outcome]
"""by model, what came of it"""
CHILD_BYTES = 1 << 29
"""memory of a child besides its model"""


def run(plan: Plan, invocation: Invocation, wall: Wall) -> int:
    """Check the models of a plan and deliver their reports. Returns the exit code of the worst.

    Of one model, an error ends the run. Of several, a model that can't be assessed gets its error on stderr and counts,
    and the next one is checked; only what is wrong with the call itself ends the run, before anything is measured.

    Args:
        plan: what to do.
        invocation: is told whether the run judged.
        wall: has the child processes that read models and images.
    """
    settings = plan.settings
    wall.limits = plan.limits
    remove_earlier(plan.documents)
    refuse_missing(plan.models)
    with log_written(path_of(settings.log_file), on_stderr=settings.verbose > 1):
        if settings.sign is not None:  # its import takes long: the earlier documents are gone by now
            from ..trust.verify.signature import check_key

            check_key(Path(settings.sign))
        profile = load_profile(path_of(settings.thresholds))
        if len(plan.models) > 1:  # an image set that can't be opened is the call's fault, not each model's
            asked, about = _image_set(plan.options)
            wall.run("outside.image_sets.open:count_images", asked, int, about=about, is_last=False)
        if not (settings.quiet or fill_stdout(plan.documents)):
            from ..report import terminal  # noqa: F401 # while the child still imports
        outcomes = _outcomes(plan, profile, invocation, wall)
        deliver(plan, outcomes, wall)
        invocation.judged = True
    return max(map(exit_code_of, outcomes.values()))


def _image_set(options: Options) -> tuple[Fields, str]:
    """Return the arguments that open the photos of a run, and their name in errors."""
    asked = {"images": options.images, "seed": options.seed, "limit": options.max_images}
    return asked, redact(options.images or "bundled photos")


def _outcomes(plan: Plan, profile: Profile, invocation: Invocation, wall: Wall) -> Outcomes:
    """Check the models, side by side where possible, and alone again where memory or time was lacking."""
    models = plan.models
    n = _n_side_by_side(plan, wall)
    in_html = any(d.form == "html" for d in plan.documents)

    def judged(model: str) -> Report | Exception:
        # a child ends with the thread that starts it: those side by side start none for later
        is_last_model = model == models[-1] and not in_html
        about = redact(model)
        asked = {"model": model, "thresholds": profile, **plan.options.keywords}
        asked["save_representations"] = plan.representations.get(model)
        try:
            with progress_of(about) as tell:
                task = "questions.check:check_stored"
                report = wall.run(task, asked, Report, about=about, is_last=n > 1 or is_last_model, tell=tell)
            return _gated(plan, model, report)
        except Exception as fault:  # whatever it is, the other models get their verdicts; a signal is not one
            if len(models) == 1 or invocation.interrupted():
                raise
            return fault

    outcomes: Outcomes = {}
    with progress_lines(plan.settings.quiet, several=len(models) > 1) as progress_of:
        with wall.threads(n) as pool:
            for model, result in zip(models, (pool.map if n > 1 else map)(judged, models), strict=True):
                if n == 1 or not isinstance(result, NotReadError | EnvironmentFaultError):
                    outcomes[model] = _outcome(model, result, invocation)
        for model in [model for model in models if model not in outcomes]:
            outcomes[model] = _outcome(model, judged(model), invocation)  # alone: with memory and time to itself
    return {model: outcomes[model] for model in models}


def _n_side_by_side(plan: Plan, wall: Wall) -> int:
    """Return how many models are checked at a time: 1 on a GPU, with --timeout, and for models elsewhere."""
    device = plan.options.device
    may_be_gpu = device != "auto" or any(map(os.path.exists, GPUS))
    on_gpu = device != "cpu" and may_be_gpu
    is_timed = bool(plan.settings.timeout)  # a time that those side by side would share
    if len(plan.models) == 1 or on_gpu or is_timed or not all(map(os.path.isfile, plan.models)):
        return 1
    with suppress(OSError, ValueError):  # no size is known of a broken link, or in a folder that can't be listed
        sizes: list[int] = []
        for path in map(Path, plan.models):
            with_weights = path.parent.glob(f"{escape(path.name)}*")
            sizes += [file.stat().st_size for file in with_weights]
        n_fitting = wall.n_side_by_side(3 * max(sizes) + CHILD_BYTES)
        return min(len(plan.models), n_fitting)
    return 1


def _outcome(model: str, fault: Report | Exception, invocation: Invocation) -> Outcome:
    """Return the outcome of a model. One without a verdict is reported on stderr, too."""
    if not isinstance(fault, Exception):
        return fault
    if "debug" in invocation.line.options:
        process.write_traceback(fault)
    code, message, hint = process.explain(fault, invocation.line)
    message = message or f"{redact(model)}: the check ended without a message; a verdict is needed"
    process.say(message, hint)
    return Failed(model=redact(model), message=message, hint=hint, exit_code=code)


def _gated(plan: Plan, model: str, result: Report) -> Report:
    """Let the gate decide on the exit code of a report."""
    verdict = result.verdict
    today = datetime.now(UTC).date()
    decision = plan.decide(verdict, model, leads_to=target_of(model), today=today)
    LOG.info("%s: %s; exit code %d: %s", model, verdict.verdict, decision.exit_code, decision.rule)
    changed: Fields = {"gate": decision, "notes": (*result.notes, *plan.notes)}
    if plan.settings.no_time:
        changed["time"] = None
    return sealed(result.model_copy(update=changed))


def deliver(plan: Plan, by_model: Outcomes, wall: Wall) -> None:
    """Write every report and signature, all at the end. So a run that ends early leaves no part of them."""
    outcomes = list(by_model.values())
    documents = plan.documents
    settings = plan.settings
    options = FormOptions(n_models=len(outcomes))
    if "html" in [document.form for document in documents] and not settings.no_thumbnails:
        thumbnails = thumbnails_of(outcomes, plan.options, wall)
        options = replace(thumbnails, n_models=len(outcomes))

    def rendered(some: Sequence[Outcome], form: str, *, into_file: bool = False) -> str:
        if (file := template_of(form)) is not None:
            from ..report import template

            return template.render_apart(Path(file), some, into_file=into_file)
        if form != "terminal":
            return forms.render(form, some, options)
        if some is not outcomes:
            return output.plain(_full(some[0], settings.verbose))
        return output.plain(terminal(ascii_only=False))

    faults: Faults = {}  # of files; the terminal report lists what is written by then
    terminal = partial(_terminal, plan, by_model, faults)
    texts = {}
    for document in documents:
        some = [by_model[document.model]] if document.model else outcomes
        texts[document] = partial(rendered, some, document.form, into_file=True)
    write_files(texts, faults)
    sign_reports(plan, _signed(plan, by_model, faults), by_model, options)
    process.announce(outcomes, documents, enabled=not settings.no_ci)
    print_result(
        documents,
        partial(rendered, outcomes),
        terminal,
        lambda: "\n".join(map(line_of, outcomes)),
        color=settings.color,
        quiet=settings.quiet,
        faults=faults,
    )


def _signed(plan: Plan, by_model: Outcomes, faults: Faults) -> list[Destination]:
    """Return the reports that get a signature: those with a verdict that are written."""
    lost = [document.path for document in faults]
    judged = [d for d in plan.signed if isinstance(by_model[d.model], Report)]
    return [document for document in judged if document.path not in lost]


def _terminal(plan: Plan, by_model: Outcomes, faults: Faults, *, ascii_only: bool) -> RenderableType:
    """Return the terminal report about all models. faults: of the documents that are not written."""
    from rich.console import Group
    from rich.text import Text

    from ..report.overview import render_several

    verbose = plan.settings.verbose
    outcomes = list(by_model.values())
    notes = [f"signature: {bundle_at(document)}" for document in _signed(plan, by_model, faults)]
    for model, path in plan.representations.items():
        if isinstance(by_model[model], Report):
            notes.append(f"representations: {path}")
    if len(outcomes) == 1:
        above = [Text(printable(note)) for note in notes]
        return Group(*above, _full(outcomes[0], verbose, ascii_only))
    reports = [_full(outcome, verbose, ascii_only) for outcome in outcomes if verbose]
    written = [document for document in plan.documents if document.path and document not in faults]
    places = [f"{document.form}: {document.path}" for document in written]
    names = list(map(redact, by_model))
    code = max(map(exit_code_of, outcomes))
    table = render_several(outcomes, models=names, code=code, places=places + notes, ascii_only=ascii_only)
    return Group(*reports, table)


def _full(outcome: Outcome, verbose: int, ascii_only: bool = False) -> RenderableType:
    """Return the terminal report about one model, or its error."""
    from rich.text import Text

    from ..report.document import document_of
    from ..report.terminal import render_document

    if isinstance(outcome, Failed):
        text = f"{outcome.model}\nerror: {outcome.message}\n"
        if outcome.hint:
            text += f"hint: {outcome.hint}"
        return Text(text)
    return render_document(document_of(outcome), ascii_only=ascii_only, verbose=verbose > 0)


def thumbnails_of(outcomes: Sequence[Outcome], options: Options, wall: Wall) -> FormOptions:
    """Return what HTML forms need besides outcomes: small copies of the photos in their galleries."""
    galleries = [outcome.evidence.gallery for outcome in outcomes if not isinstance(outcome, Failed)]
    images = [image for gallery in galleries if gallery for image in (*gallery.most, *gallery.least)]
    wanted = {image.digest: image for image in images}
    if not wanted:
        return FormOptions()
    photos, about = _image_set(options)
    arguments = photos | {"wanted": list(wanted.values())}
    task = "outside.image_sets.thumbnails:make_thumbnails"
    try:
        thumbnails = wall.run(task, arguments, dict[str, dict[str, str]], about=about)
    except RobustcheckError as fault:  # it costs the thumbnails alone
        return FormOptions(missing=dict.fromkeys(wanted, fault.message))
    return FormOptions(thumbnails=thumbnails["uris"], missing=thumbnails["missing"])


class _LogLines(logging.Formatter):
    """A formatter of log records in UTC, one line each. A file's name can forge no line, and no URL shows a key."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact_text(super().format(record)))


@contextmanager
def log_written(path: Path | None, *, on_stderr: bool) -> Iterator[None]:
    """Write the package's log to a file and to stderr (-vv) while the block runs."""
    handlers: list[logging.Handler] = []
    if on_stderr:
        handlers.append(logging.StreamHandler(sys.stderr))
    if path is not None:
        is_log = partial(documents.is_ours, pattern=documents.LOG)
        check_target(path, (), "log", "--log-file ", is_log)
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{path}: log is not writable ({fault.strerror}); it was asked for", f"ls -ld {path}"
            ) from fault
    level = LOG.level
    try:
        for handler in handlers:
            handler.setFormatter(_LogLines("%(asctime)s %(levelname)s %(message)s"))
            LOG.addHandler(handler)
        if handlers:
            LOG.setLevel(logging.DEBUG)
            LOG.info("robustcheck %s", VERSION)  # `documents.LOG` knows it by this
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)


def sign_reports(plan: Plan, signed: Destinations, by_model: Outcomes, options: FormOptions) -> None:
    """Write the signature of each report. A model without a verdict has none.

    options: what the reports are rendered with. Raises as `signature.sign`.
    """
    key = path_of(plan.settings.sign)
    if key is None or not signed:
        return
    from ..trust.verify import signature

    signatures: dict[Path, str] = {}
    for destination in signed:
        report = by_model[destination.model]
        assert isinstance(report, Report)
        text = forms.render("json", [report], options)
        digest = sha256_of(text.encode())
        statement = signature.statement(sealed(report), digest)
        signatures[bundle_at(destination)] = signature.sign(statement, key)
    output.say_home(plan.settings.quiet)
    for bundle, text in signatures.items():
        documents.write_atomically(bundle, text)
