"""The verb `check`, the default command. It has one model or several, reports, a log, and an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.text import VERSION, printable

from .. import command_line, output
from ..command_line import Invocation, documents_of, split, template_of
from ..options import PLACEHOLDER, ROWS, argument, one_of
from ..output import (
    Destination,
    ascii_only,
    check_target,
    console_for,
    deliver,
    destinations_of,
    mark_unfinished,
    plain,
    write_files,
)
from ..question import Call, progress_line, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustcheck_onnx.checker.isolation import Wall
    from robustcheck_onnx.checker.report import FormOptions, Outcome, Report
    from robustcheck_onnx.checker.storage.places import Place
    from robustcheck_onnx.thresholds.profile import Profile

    from ..options import Settings
    from ..output import Signature
    from ..settings import Resolved


@takes(*ROWS)
def check(
    call: Call,
    models: Annotated[
        list[str] | None,
        argument(
            "ONNX files, folders (every .onnx file below), quoted globs, or addresses: hf://org/repo, "
            "models:/name/3 and others. The last place may be the photos, as for --images.",
            "MODEL.onnx...",
        ),
    ] = None,
) -> int:
    """Check models: PASS, or WARN with reasons. The default command."""
    from robustcheck_onnx.checker import isolation
    from robustcheck_onnx.checker.isolation import MAX_MODEL_SIZE

    line = call.settings
    if line.show_settings and models:
        raise UsageError(
            f"MODEL.onnx is {models[0]}; --show-settings checks no model, and its exit code 0 is not a PASS",
            "robustcheck check --show-settings",
        )
    if line.show_settings and line.strict:
        raise UsageError(
            "--show-settings is given with --strict, with which exit code 0 is a verdict's alone; it checks no model",
            "robustcheck check --show-settings",
        )
    if not models and not line.show_settings:
        raise UsageError("MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help")
    if line.isolated:
        os.environ.pop(MAX_MODEL_SIZE, None)  # the child would heed it
    with isolation.Wall() if models else contextlib.nullcontext() as wall:
        # while the child process starts
        from .. import models as places
        from .. import settings

        typed = call.typed
        if models:
            models, place = places.split_images(models, images_typed=line.images is not None, strict=line.strict)
            typed |= {"images": place} if place else {}
        named = typed.pop("waivers", None)
        resolved = settings.resolve(typed, os.environ, file=line.config, isolated=line.isolated, waivers_file=named)
        if wall is None:
            return _show_settings(resolved, line.output[-1:])
        if line.strict:
            settings.refuse_loosening(resolved, call.invocation.line)
        return _run(resolved, models or [], call.invocation, wall)


def _show_settings(resolved: Resolved, output: Sequence[str]) -> int:
    """Write each setting with value and source to stdout."""
    from rich.console import Group

    from robustcheck_onnx.checker.report import Pen, Trimmed, columns
    from robustcheck_onnx.checker.text import as_json

    from .. import settings

    form = output[-1] if output else "terminal"
    one_of("--output", form, ("terminal", "json"))
    document = settings.settings_json(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = columns(pen, "=setting", "value", "source")
    for key, entry in document["settings"].items():
        value, source = entry["value"], entry["source"]
        text = settings.value_text(key, value)
        table.add_row(pen.say(key), pen.name(text), pen.name(source, "dim" if source == settings.DEFAULT else "bold"))
    where = f"file: {resolved.file}" if resolved.file else "file: none"
    console.print(Trimmed(Group(table, pen.name(where))))
    return 0


def _run(
    resolved: Resolved,
    words: Sequence[str],
    invocation: Invocation,
    wall: Wall,
) -> int:
    """Check the named models and deliver reports. Returns the exit code of the worst.

    Of one model, an error ends the run. Of several, a model that can't be assessed gets its error on stderr and counts,
    and the next one is checked; only what is wrong with the call itself ends the run, before anything is measured.

    invocation: is told where documents go, since the settings may come from a file, and each model may have its own.
    wall: has the child processes that read models and images.
    """
    from ..models import check_all, expand, refuse_missing, stem, worst

    settings = resolved.settings
    invocation.annotates = not settings.no_ci
    folder = output.folder_of(resolved, "output")
    typed = documents_of(settings.output, invocation.line.stems())
    invocation.documents = command_line.safe_documents(typed, folder, strict=settings.strict)
    models = expand(words)
    filled = documents_of(settings.output, [stem(model) for model in models])
    invocation.documents = command_line.safe_documents(filled, folder, strict=settings.strict)

    # only now: these imports take long, and a signal may end them
    from robustcheck_onnx.checker.report import Failed, one_model
    from robustcheck_onnx.checker.storage.places import redact
    from robustcheck_onnx.checker.verdict import load_profile

    from .. import process

    wall.limits = settings.limits
    several = len(models) > 1
    reads = _files_read(resolved, models)
    reads += map(Path, output.template_files(resolved))
    destinations = _destinations(resolved, models, reads)
    output.check_templates(destinations)
    saved = output.files_of_representations(settings.save_representations, models, reads, destinations)
    signatures = output.plan_signatures(settings.sign, destinations, models, reads)
    output.check_bundles(resolved, [each.bundle for each in signatures])
    output.check_log(resolved)
    for each in destinations:
        one_model(each.form, 1 if each.model else len(models))
    refuse_missing(models)
    with output.signatures_removed_on_error(signatures), log_written(settings, reads):
        # the old signatures are gone by now: a kill leaves none next to a document that it is not about
        mark_unfinished(destinations, "" if several else models[0])
        if settings.sign is not None:  # its import takes long: the documents are marked by now
            from robustcheck_onnx.checker.verify import check_key

            check_key(Path(settings.sign))
        profile = load_profile(None if settings.thresholds is None else Path(settings.thresholds))
        _refuse_earlier_reasons(resolved, profile)
        if several:  # an image set that can't be opened is the call's fault, not each model's
            about = redact(settings.images or "bundled photos")
            asked = {"images": settings.images, "seed": settings.seed, "limit": settings.max_images}
            wall.run("images.source:count_images", asked, int, about=about, is_last=False)

        def failed(model: str, fault: Exception) -> Failed:
            if settings.debug:
                process.write_traceback(fault)
            code, message, hint = process.explain(fault, invocation.line)
            message = message or f"{redact(model)}: the check ended without a message; a verdict is needed"
            process.say(message, hint)
            return Failed(model=redact(model), message=message, hint=hint, exit_code=code)

        in_html = any(each.form == "html" for each in destinations)

        def check(model: str) -> Report:
            is_last = model == models[-1] and not in_html
            return _check(resolved, model, profile, wall, saved=saved.get(model), is_last=is_last)

        outcomes = check_all(models, check, failed) if several else [check(models[0])]
        if settings.no_time:
            outcomes = [o if isinstance(o, Failed) else o.model_copy(update={"time": None}) for o in outcomes]
        _deliver(settings, models, outcomes, destinations, signatures, saved, wall)
        invocation.judged = True
    return worst(outcomes)


def _refuse_earlier_reasons(resolved: Resolved, profile: Profile) -> None:
    """Refuse waivers of reasons that the profile can't give. They would wait in vain; raises UsageError."""
    from robustcheck_onnx.checker.verdict import RENAMED

    if profile.is_earlier:
        return
    for waiver in resolved.settings.waivers:
        if waiver.reason in RENAMED:
            raise UsageError(
                f"{resolved.source('waivers')}: waiver of {waiver.reason}: profile {profile.id} has no such reason; "
                f"it is now {RENAMED[waiver.reason]}",
                f"robustcheck explain {RENAMED[waiver.reason].partition(' ')[0]}",
            )


def _check(resolved: Resolved, model: str, profile: Profile, wall: Wall, *, saved: str | None, is_last: bool) -> Report:
    """Check one model. The gate decides on its exit code."""
    from datetime import UTC, datetime

    from robustcheck_onnx.checker.isolation import LOG
    from robustcheck_onnx.checker.report import Report, sealed
    from robustcheck_onnx.checker.storage.places import redact
    from robustcheck_onnx.checker.verdict import gate

    settings = resolved.settings
    with progress_line(settings.quiet, redact(model)) as progress:
        asked = {"model": model, "thresholds": profile, "save_representations": saved, **settings.options.given}
        about = redact(model)
        result = wall.run("pipeline:check_stored", asked, Report, about=about, is_last=is_last, tell=progress)
    decision = gate.decide(
        result.verdict,
        model,
        waivers=settings.waivers,
        waived_in=resolved.source("waivers"),
        fail_on=settings.fail_on,
        fail_on_from=resolved.source("fail-on"),
        accept=settings.accept,
        accept_from=resolved.source("accept"),
        loosening=resolved.loosening(),
        today=datetime.now(UTC).date(),
    )
    LOG.info("%s: %s; exit code %d: %s", model, result.verdict.verdict, decision.exit_code, decision.rule)
    return sealed(result.model_copy(update={"gate": decision, "notes": (*result.notes, *resolved.notes())}))


def _files_read(resolved: Resolved, models: Sequence[str]) -> list[Place]:
    """Return the files that the run reads. No report may replace one of them. Raises as `storage.parse_place`."""
    from robustcheck_onnx.checker.storage.places import parse_place

    settings = resolved.settings
    names = [resolved.file, settings.thresholds, settings.preprocess, settings.images, settings.sign]
    names += [resolved.source("waivers")] if resolved.is_from("typed", "waivers") else []
    reads = [parse_place(name) for name in names if name]
    for model in models:
        with contextlib.suppress(UsageError):  # a URL that is refused: this model's own error, when its turn comes
            reads.append(parse_place(model))
    return reads


def _destinations(resolved: Resolved, models: Sequence[str], reads: Sequence[Place]) -> list[Destination]:
    """Return where the documents of `-o` go. Raises as `destinations_of`, `models.fill` and `check_outputs`."""
    from robustcheck_onnx.checker.report import forms

    from ..models import fill

    outputs: list[str] = []  # as if each file were typed
    about: list[str] = []  # the model that each is about; "" for all
    for text in resolved.settings.output:
        form, sign, path = split(text)
        own = PLACEHOLDER in path
        outputs += [f"{form}{sign}{name}" for name in fill(path, models)] if own else [text]
        about += models if own else [""]
    output.check_outputs(resolved, outputs)
    destinations = zip(destinations_of(outputs, reads, forms.OUTPUTS), about, strict=True)
    return sorted((each._replace(model=model) for each, model in destinations), key=lambda each: each.model != "")


def _deliver(
    settings: Settings,
    models: Sequence[str],
    outcomes: Sequence[Outcome],
    destinations: Sequence[Destination],
    signatures: Sequence[Signature],
    saved: Mapping[str, str],
    wall: Wall,
) -> None:
    """Write every report and signature, all at the end. So a run that ends early leaves no part of them."""
    from rich.console import Group
    from rich.text import Text

    from robustcheck_onnx.checker.report import Failed, forms, summary
    from robustcheck_onnx.checker.storage.places import redact

    from .. import process
    from ..models import worst

    by_model = dict(zip(models, outcomes, strict=True))
    measured = [model for model, outcome in by_model.items() if not isinstance(outcome, Failed)]
    options = _form_options(settings, outcomes, [each.form for each in destinations], wall)
    faults: dict[Destination, BaseException] = {}

    def vouched() -> list[Signature]:
        failed = {each.path for each in faults}
        return [each for each in signatures if each.model in measured and each.report not in failed]

    def terminal(*, ascii_only: bool) -> RenderableType:
        beside = [f"signature: {each.bundle}" for each in vouched()]
        beside += [f"representations: {path}" for model, path in saved.items() if model in measured]
        if len(outcomes) == 1:
            written = [Text(printable(each)) for each in beside]
            return Group(*written, _full(outcomes[0], settings, ascii_only))
        files = [f"{each.form}: {each.path}" for each in destinations if each.path and each not in faults]
        table = summary.render(
            outcomes,
            models=list(map(redact, models)),
            code=worst(outcomes),
            places=files + beside,
            ascii_only=ascii_only,
        )
        reports = [_full(outcome, settings, ascii_only) for outcome in outcomes] if settings.verbose else []
        return Group(*reports, table)

    def rendered(some: Sequence[Outcome], form: str, *, into_file: bool = False) -> str:
        if (file := template_of(form)) is not None:
            from robustcheck_onnx.checker.report import template

            return template.render_apart(Path(file), some, into_file=into_file)
        if form == "terminal":
            return plain(terminal(ascii_only=False) if some is outcomes else _full(some[0], settings))
        return forms.render(form, some, options)

    about = {each: [by_model[each.model]] if each.model else outcomes for each in destinations}
    write_files({each: partial(rendered, some, each.form, into_file=True) for each, some in about.items()}, faults)
    output.sign_reports(settings, vouched(), by_model, options)
    process.announce(outcomes, destinations, enabled=not settings.no_ci)
    lines = "\n".join(summary.one_line(outcome) for outcome in outcomes)
    on_stdout = [each for each in destinations if each.path is None]
    text = partial(rendered, outcomes)
    deliver(on_stdout, text, terminal, settings.color, quiet=settings.quiet, line=lines, faults=faults)


def _full(outcome: Outcome, settings: Settings, ascii_only: bool = False) -> RenderableType:
    """Return the terminal report about one model, or its error."""
    from rich.text import Text

    from robustcheck_onnx.checker.report import Failed, terminal

    if isinstance(outcome, Failed):
        return Text(f"{outcome.model}\nerror: {outcome.message}\n" + (f"hint: {outcome.hint}" if outcome.hint else ""))
    return terminal.render(outcome, ascii_only=ascii_only, verbose=settings.verbose > 0)


def _form_options(settings: Settings, outcomes: Sequence[Outcome], forms: Sequence[str], wall: Wall) -> FormOptions:
    """Return what forms need besides outcomes. An HTML form needs thumbnails."""
    from robustcheck_onnx.checker.report import Failed, FormOptions
    from robustcheck_onnx.checker.storage.places import redact

    if "html" not in forms or settings.no_thumbnails:
        return FormOptions()
    reports = [outcome for outcome in outcomes if not isinstance(outcome, Failed)]
    asked = {"outcomes": reports, "images": settings.images, "seed": settings.seed, "limit": settings.max_images}
    about, answer = redact(settings.images or "bundled photos"), dict[str, dict[str, str]]
    try:
        made = wall.run("report.html.thumbnails:make", asked, answer, about=about)
    except RobustcheckError as fault:  # it costs the thumbnails alone
        galleries = [report.evidence.gallery for report in reports if report.evidence.gallery]
        seen = [image for gallery in galleries for image in (*gallery.most, *gallery.least)]
        return FormOptions(missing={image.digest: fault.message for image in seen})
    return FormOptions(thumbnails=made["uris"], missing=made["missing"])


class _LogLines(logging.Formatter):
    """A formatter of log records in UTC, one line each. A file's name can forge no line, and no URL shows a key."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        from robustcheck_onnx.checker.storage.places import redact_text

        return printable(redact_text(super().format(record)))


@contextlib.contextmanager
def log_written(settings: Settings, reads: Sequence[Place]) -> Iterator[None]:
    """Write the package's log while the block runs. It goes to stderr (-vv) and to a file."""
    from robustcheck_onnx.checker.isolation import LOG

    handlers: list[logging.Handler] = []
    if settings.verbose > 1:
        handlers.append(logging.StreamHandler(sys.stderr))
    if settings.log_file is not None:
        path = Path(settings.log_file)
        check_target(path, reads)
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
            LOG.info("robustcheck %s", VERSION)  # `check_log` knows it by this
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)
