"""Check models and deliver their reports. Several are checked side by side; the exit code is that of the worst.

It imports what is heavy at the top: a run imports it while the child process starts.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...thresholds.profile import Profile
from ..core.progress import LOG
from ..core.verdict.gate import decide, load_profile
from ..errors import EnvironmentFaultError, RobustcheckError, UsageError
from ..outside.isolation import NotReadError, Wall
from ..outside.storage import stores
from ..outside.storage.places import Url, redact, redact_text
from ..report import forms
from ..report.check import Report
from ..report.forms import one_model
from ..report.model_names import FormOptions
from ..report.record import Failed, Outcome, sealed
from ..report.words import exit_code_of, line_of
from ..text import VERSION, printable, quoted, sha256_of
from . import command_line, output, process
from .command_line import Invocation, Words, expand, fill, split, split_images, template_of
from .options import PLACEHOLDER, Settings, Values
from .output import Destination, Destinations, check_target, deliver, destinations_of, progress_lines, write_files
from .settings import Resolved, of_check, refuse_loosening

if TYPE_CHECKING:
    from rich.console import RenderableType

GPUS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")
"""one of these is there on a system with an NVIDIA GPU: a server, a Jetson, Windows' Linux"""
CHILD_BYTES = 1 << 29
"""memory of a child besides its model"""


def check_models(line: Settings, typed: Values, places: Words, invocation: Invocation, wall: Wall) -> int:
    """Check the named models and deliver reports. Returns the exit code of the worst.

    Of one model, an error ends the run. Of several, a model that can't be assessed gets its error on stderr and counts,
    and the next one is checked; only what is wrong with the call itself ends the run, before anything is measured.

    Args:
        line: the options of the command line.
        typed: those of them that were typed.
        places: the models, perhaps with their photos.
        invocation: is told whether the run annotates, and whether it judged.
        wall: has the child processes that read models and images.
    """
    words, photos = split_images(places, images_typed=line.images is not None, strict=line.strict)
    resolved = of_check(line, typed | ({"images": photos} if photos else {}))
    if line.strict:
        refuse_loosening(resolved, invocation.line)
    settings = resolved.settings
    invocation.annotates = not settings.no_ci
    models = expand(words)
    wall.limits = settings.limits
    outputs = _outputs_of(resolved, models)
    output.remove_earlier(outputs.documents)
    command_line.refuse_missing(models)
    with log_written(settings):
        if settings.sign is not None:  # its import takes long: the earlier documents are gone by now
            from ..trust.verify.signature import check_key

            check_key(Path(settings.sign))
        profile = load_profile(None if settings.thresholds is None else Path(settings.thresholds))
        if len(models) > 1:  # an image set that can't be opened is the call's fault, not each model's
            about = redact(settings.images or "bundled photos")
            asked = {"images": settings.images, "seed": settings.seed, "limit": settings.max_images}
            wall.run("outside.image_sets.open:count_images", asked, int, about=about, is_last=False)
        if not settings.quiet and all(d.path or d.form == "terminal" for d in outputs.documents):
            from ..report import terminal  # noqa: F401 # while the child still imports
        outcomes = _outcomes(resolved, models, profile, outputs, invocation, wall)
        _deliver(settings, outcomes, outputs, wall)
        invocation.judged = True
    return max(map(exit_code_of, outcomes.values()))


class _Outputs(NamedTuple):
    """The documents and files of a run. Its log is not among them."""

    documents: list[Destination]
    representations: dict[str, str]
    """by model"""
    signed: list[Destination]
    """the reports with a signature next to them"""


def _outputs_of(resolved: Resolved, models: Words) -> _Outputs:
    """Return what a run writes. All of it is checked before anything is measured; raises as the checks do."""
    settings = resolved.settings
    _refuse_templates(resolved)
    documents = _destinations(resolved, models)
    for form, path, _ in documents:
        if (file := template_of(form)) is not None:
            from ..report import template

            template.check(Path(file), into_file=path is not None)
    saved = files_of_representations(settings.save_representations, models, documents)
    signed = signed_reports(settings.sign, documents, models)
    output.check_bundles(resolved, signed, documents)
    output.check_log(resolved, documents)
    for document in documents:
        one_model(document.form, 1 if document.model else len(models))
    return _Outputs(documents, saved, signed)


def _outcomes(
    resolved: Resolved, models: Words, profile: Profile, outputs: _Outputs, invocation: Invocation, wall: Wall
) -> dict[str, Outcome]:
    """Check the models, side by side where that is possible. Those that lacked memory or time are checked again."""
    settings = resolved.settings
    n = _n_side_by_side(settings, models, wall)
    in_html = any(d.form == "html" for d in outputs.documents)

    def judged(model: str) -> Report | Exception:
        # a child ends with the thread that starts it: those side by side start none for later
        is_last = n > 1 or (model == models[-1] and not in_html)
        about = redact(model)
        try:
            with progress_of(about) as tell:
                asked = {
                    "model": model,
                    "thresholds": profile,
                    "save_representations": outputs.representations.get(model),
                    **settings.options.keywords,
                }
                report = wall.run(
                    "questions.check:check_stored", asked, Report, about=about, is_last=is_last, tell=tell
                )
            return _gated(resolved, model, report)
        except Exception as fault:  # whatever it is, the other models get their verdicts; a signal is not one
            if len(models) == 1 or invocation.interrupted():
                raise
            return fault

    outcomes: dict[str, Outcome] = {}
    with progress_lines(settings.quiet, several=len(models) > 1) as progress_of:
        with wall.threads(n) as pool:
            for model, result in zip(models, (pool.map if n > 1 else map)(judged, models), strict=True):
                if n == 1 or not isinstance(result, NotReadError | EnvironmentFaultError):
                    outcomes[model] = _outcome(model, result, invocation)
        for model in [model for model in models if model not in outcomes]:
            outcomes[model] = _outcome(model, judged(model), invocation)  # alone: with memory and time to itself
    return {model: outcomes[model] for model in models}


def _n_side_by_side(settings: Settings, models: Words, wall: Wall) -> int:
    """Return how many models are checked at a time. It is 1 on a GPU, with --timeout, and for models elsewhere."""
    on_gpu = settings.device != "cpu" and (settings.device != "auto" or any(map(os.path.exists, GPUS)))
    if len(models) == 1 or on_gpu or settings.timeout or not all(map(os.path.isfile, models)):
        return 1
    with suppress(OSError, ValueError):  # no size is known of a broken link, or in a folder that can't be listed
        weights_too = (file for path in map(Path, models) for file in path.parent.glob(f"{escape(path.name)}*"))
        return min(len(models), wall.n_side_by_side(3 * max(file.stat().st_size for file in weights_too) + CHILD_BYTES))
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


def _gated(resolved: Resolved, model: str, result: Report) -> Report:
    """Let the gate decide on the exit code of a report."""
    settings = resolved.settings
    decision = decide(
        result.verdict,
        model,
        leads_to=command_line.target_of(model),
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
    changed = {"notes": (*result.notes, *resolved.notes()), "time": None if settings.no_time else result.time}
    return sealed(result.model_copy(update={"gate": decision, **changed}))


def _destinations(resolved: Resolved, models: Words) -> list[Destination]:
    """Return where the documents of `-o` go. Raises as `destinations_of`, `models.fill` and `check_outputs`."""
    outputs: list[str] = []  # as if each file were typed
    about: list[str] = []  # the model that each is about; "" for all
    for text in resolved.settings.output:
        form, sign, path = split(text)
        own = PLACEHOLDER in path
        outputs += [f"{form}{sign}{name}" for name in fill(path, models)] if own else [text]
        about += models if own else [""]
    output.check_outputs(resolved, outputs)
    photos = resolved.settings.images
    reads = [Path(photos)] if photos else []
    destinations = zip(destinations_of(outputs, reads, forms.OUTPUTS), about, strict=True)
    return sorted((d._replace(model=model) for d, model in destinations), key=lambda d: d.model != "")


def _deliver(settings: Settings, by_model: Mapping[str, Outcome], outputs: _Outputs, wall: Wall) -> None:
    """Write every report and signature, all at the end. So a run that ends early leaves no part of them."""
    destinations, saved, signed = outputs
    outcomes = list(by_model.values())
    measured = [model for model, outcome in by_model.items() if isinstance(outcome, Report)]
    options = form_options(settings, outcomes, [d.form for d in destinations], wall)
    faults: dict[Destination, BaseException] = {}

    def vouched() -> list[Destination]:
        return [d for d in signed if d.model in measured and d.path not in [fault.path for fault in faults]]

    def terminal(*, ascii_only: bool) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from ..report.overview import render_several

        notes = [f"signature: {output.bundle_at(d)}" for d in vouched()]
        notes += [f"representations: {path}" for model, path in saved.items() if model in measured]
        if len(outcomes) == 1:
            return Group(*[Text(printable(note)) for note in notes], _full(outcomes[0], settings, ascii_only))
        files = [f"{d.form}: {d.path}" for d in destinations if d.path and d not in faults]
        reports = [_full(outcome, settings, ascii_only) for outcome in outcomes if settings.verbose]
        names, code = list(map(redact, by_model)), max(map(exit_code_of, outcomes))
        table = render_several(outcomes, models=names, code=code, places=files + notes, ascii_only=ascii_only)
        return Group(*reports, table)

    def rendered(some: Sequence[Outcome], form: str, *, into_file: bool = False) -> str:
        if (file := template_of(form)) is not None:
            from ..report import template

            return template.render_apart(Path(file), some, into_file=into_file)
        if form == "terminal":
            return output.plain(terminal(ascii_only=False) if some is outcomes else _full(some[0], settings))
        return forms.render(form, some, options)

    about = {d: [by_model[d.model]] if d.model else outcomes for d in destinations}
    write_files({d: partial(rendered, some, d.form, into_file=True) for d, some in about.items()}, faults)
    sign_reports(settings, vouched(), by_model, options)
    process.announce(outcomes, destinations, enabled=not settings.no_ci)
    deliver(
        [d for d in destinations if d.path is None],
        partial(rendered, outcomes),
        terminal,
        settings.color,
        quiet=settings.quiet,
        line=lambda: "\n".join(map(line_of, outcomes)),
        faults=faults,
    )


def _full(outcome: Outcome, settings: Settings, ascii_only: bool = False) -> RenderableType:
    """Return the terminal report about one model, or its error."""
    from rich.text import Text

    from ..report.document import document_of
    from ..report.terminal import render_document

    if isinstance(outcome, Failed):
        return Text(f"{outcome.model}\nerror: {outcome.message}\n" + (f"hint: {outcome.hint}" if outcome.hint else ""))
    return render_document(document_of(outcome), ascii_only=ascii_only, verbose=settings.verbose > 0)


def form_options(settings: Settings, outcomes: Sequence[Outcome], forms: Words, wall: Wall) -> FormOptions:
    """Return what forms need besides outcomes. An HTML form needs thumbnails."""
    galleries = [o.evidence.gallery for o in outcomes if not isinstance(o, Failed) and o.evidence.gallery]
    wanted = {image.digest: image for gallery in galleries for image in (*gallery.most, *gallery.least)}
    if not wanted or "html" not in forms or settings.no_thumbnails:
        return FormOptions()
    try:
        thumbnails = wall.run(
            "outside.image_sets.thumbnails:make_thumbnails",
            {
                "wanted": list(wanted.values()),
                "images": settings.images,
                "seed": settings.seed,
                "limit": settings.max_images,
            },
            dict[str, dict[str, str]],
            about=redact(settings.images or "bundled photos"),
        )
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
def log_written(settings: Settings) -> Iterator[None]:
    """Write the package's log while the block runs. It goes to stderr (-vv) and to a file."""
    handlers: list[logging.Handler] = []
    if settings.verbose > 1:
        handlers.append(logging.StreamHandler(sys.stderr))
    if settings.log_file is not None:
        path = Path(settings.log_file)
        check_target(path, (), "log", "--log-file ", partial(stores.is_ours, pattern=stores.LOG))
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
            LOG.info("robustcheck %s", VERSION)  # `stores.LOG` knows it by this
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)


def files_of_representations(path: str | None, models: Words, destinations: Destinations) -> dict[str, str]:
    """Return the file of `--save-representations` per model.

    It is checked before anything is opened; empty where none is set.

    Raises as `models.fill`, `output.check_extra` and `representations.checked_path`; UsageError for one file and
    several models.
    """
    if path is None:
        return {}
    from ..outside.representations import checked_path

    option = "--save-representations"
    if len(models) > 1 and PLACEHOLDER not in path:
        raise UsageError(
            f"{option} is {path}, and {len(models)} models are checked; each needs its own file",
            f"{option} {quoted(Path(path).with_suffix(''))}-{PLACEHOLDER}{Path(path).suffix}",
        )
    files = dict(zip(models, fill(path, models, option), strict=True))
    for file in files.values():
        checked_path(file)
        output.check_extra(option, Path(file), (), destinations, "rows.npz")
    return files


def signed_reports(key: str | None, destinations: Destinations, models: Words) -> list[Destination]:
    """Return the reports that a run signs, each with its model. They are JSON in a file; none without a key.

    Args:
        key: the private key's file.
        destinations: of the documents.
        models: those that are checked.

    Raises:
        UsageError: no JSON report goes to a file, or a JSON report is about several models.
    """
    if key is None:
        return []
    again = f"--sign {quoted(key)}"
    signed: list[Destination] = []
    for form, report, model in destinations:
        if form != "json" or report is None:
            continue
        if len(models) > 1 and not model:
            raise UsageError(
                f"--output is json={report} for {len(models)} models; a signature is about one",
                f"-o 'json={{model}}.json' {again}",
            )
        if isinstance(report, Url) or (report.exists() and not report.is_file()):
            raise UsageError(
                f"--output is json={report}; a report that is signed must go to a file on this machine",
                f"-o json=report.json {again}",
            )
        signed.append(Destination(form, report, model or models[0]))
    if not signed:
        raise UsageError(
            "--sign signs the JSON report in a file; -o json=PATH must name one", f"-o json=report.json {again}"
        )
    return signed


def sign_reports(
    settings: Settings, signed: Destinations, outcomes: Mapping[str, Outcome], options: FormOptions
) -> None:
    """Write the signature of each report. A model without a verdict has none.

    Args:
        settings: `sign` is the private key's file.
        signed: of `signed_reports`.
        outcomes: by model.
        options: what the reports are rendered with.

    Raises as `signature.sign`.
    """
    texts: dict[Path, str] = {}
    for destination in signed:
        outcome = outcomes[destination.model]
        if isinstance(outcome, Report) and settings.sign is not None:
            from ..trust.verify import signature

            digest = sha256_of(forms.render("json", [outcome], options).encode())
            texts[output.bundle_at(destination)] = signature.sign(
                signature.statement(sealed(outcome), digest), Path(settings.sign)
            )
    if texts:
        output.say_home(settings.quiet)
    for bundle, text in texts.items():
        stores.write_atomically(bundle, text)


def _refuse_templates(resolved: Resolved) -> None:
    """Refuse a template that a settings file or a variable names, a URL, and `template` alone. Raises UsageError."""
    named = [file for text in resolved.settings.output if (file := template_of(split(text)[0])) is not None]
    for file in named:
        if not file:
            raise UsageError(
                "--output is template; it needs the template's file", "-o template=slack.json.j2=slack.json"
            )
        if not resolved.is_from("typed", "output"):
            raise UsageError(
                f"{resolved.source('output')}: output is template={file}; a template can write anything, so only the "
                "command line may name one",
                f"remove it there, or type -o template={file}",
            )
        if "://" in file:
            raise UsageError(
                f"--output is template={file}; a template must be a file on this machine", "copy it here first"
            )
