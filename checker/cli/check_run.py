"""What the verb `check` does once its settings are known: one model or several, reports, exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.text import printable

from .options import one_of
from .output import Target, ascii_only, console_for, deliver, plain, progress_line, targets

if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustcheck_onnx.checker.report import Options, Outcome, Report
    from robustcheck_onnx.checker.storage import Place
    from robustcheck_onnx.thresholds.profile import Profile

    from .check_sign import Signature
    from .settings import Resolved, Settings


def run(resolved: Resolved, words: Sequence[str], *, debug: bool) -> int:
    """Check the models that the words mean and deliver the reports; the exit code of the worst.

    One model: what it raises ends the run. Several: a model that can't be assessed is told and counted, and the next
    one's turn comes; only what is wrong with the call itself ends the run, before anything is measured.
    """
    from . import models as many

    settings = resolved.settings
    models: list[str] = []
    try:
        models = many.expand(words)
        return _checked(resolved, models, debug=debug)
    except BaseException as fault:  # signals, too
        # where error documents go: the file of settings may have said it, and each model may have its own
        parts = [text.partition("=") for text in settings.output]
        vars(fault)["document_targets"] = [
            (form, "" if filled == "-" else filled)
            for form, _, path in parts
            for filled in (
                dict.fromkeys(path.replace(many.HOLE, many.stem(m)) for m in models) if many.HOLE in path else [path]
            )
        ]
        vars(fault)["no_ci"] = settings.no_ci
        raise


def _checked(resolved: Resolved, models: list[str], *, debug: bool) -> int:
    from robustcheck_onnx.checker.images import open_images
    from robustcheck_onnx.checker.pipeline import load_profile
    from robustcheck_onnx.checker.report import Failed, one_model
    from robustcheck_onnx.checker.storage import redact, redact_text, urls
    from robustcheck_onnx.checker.verify import check_key

    from . import check_sign, ending
    from . import models as many

    settings, several = resolved.settings, len(models) > 1
    reads = _reads(resolved, models)
    shared, own = _places(settings, models, reads)
    signatures = check_sign.planned(settings.sign, shared, own, reads)
    if settings.sign is not None:
        check_key(Path(settings.sign))
    for form, _ in shared:
        one_model(form, len(models))
    ending.mark_unfinished(shared, "" if several else models[0])
    for model, places in own.items():
        ending.mark_unfinished(places, model)
    with check_sign.ended_whole(signatures), _logging(settings, reads):
        profile = load_profile(None if settings.thresholds is None else Path(settings.thresholds))
        if several:  # an image set that can't be opened is the call's fault, not each model's
            open_images(settings.images, seed=settings.seed, limit=settings.max_images)

        def one(model: str) -> Report:
            return _one(resolved, model, profile)

        def failure(model: str, fault: Exception) -> Failed:
            if debug:
                text = redact_text("".join(traceback.format_exception(fault)))
                sys.stderr.write("\n".join(map(printable, text.split("\n"))))
            code, *said = ending.words(fault, ["check", model])
            message, hint = map(urls.redact_text, said)
            message = message or f"{model}: the check ended without a message; a verdict is needed"
            ending.say(message, hint)
            return Failed(model=redact(model), message=message, hint=hint, exit_code=code)

        outcomes = many.check_all(models, one, failure) if several else [one(models[0])]
        if settings.no_time:
            outcomes = [o if isinstance(o, Failed) else o.model_copy(update={"time": None}) for o in outcomes]
        _deliver(settings, models, outcomes, shared, own, signatures)
        ending.announce(outcomes, shared, enabled=not settings.no_ci)
    return many.worst(outcomes)


def _one(resolved: Resolved, model: str, profile: Profile) -> Report:
    """Check one model, and what the gate makes of it."""
    from datetime import UTC, datetime

    from robustcheck_onnx.checker import pipeline
    from robustcheck_onnx.checker.pipeline import LOG
    from robustcheck_onnx.checker.report import sealed
    from robustcheck_onnx.checker.verdict import gate

    settings = resolved.settings
    with progress_line(settings.quiet) as progress:
        result = pipeline.check(
            model,
            images=settings.images,
            max_images=settings.max_images,
            max_bad=settings.max_bad,
            seed=settings.seed,
            preprocess=settings.preprocess,
            tensor=settings.tensor,
            pool=settings.pool,
            device=settings.device,
            batch_size=settings.batch_size,
            thresholds=profile,
            engine=settings.engine,
            workers=settings.workers,
            ray_address=settings.ray_address,
            cache=not settings.no_cache,
            detectors=settings.detector,
            progress=progress,
        )
    answer = gate.decide(
        result.verdict,
        model,
        waivers=settings.waivers,
        waived_in=resolved.source("waivers"),
        fail_on=settings.fail_on,
        fail_on_from=resolved.source("fail-on"),
        today=datetime.now(UTC).date(),
    )
    LOG.info("%s: %s; exit code %d: %s", model, result.verdict.verdict, answer.exit_code, answer.rule)
    return sealed(result.model_copy(update={"gate": answer, "notes": (*result.notes, *resolved.notes())}))


def _reads(resolved: Resolved, models: Sequence[str]) -> list[Place]:
    """Files that the run reads: no report may replace one of them. Raises as `storage.parse_place`."""
    from robustcheck_onnx.checker.storage import parse_place

    settings = resolved.settings
    names = [*models, resolved.file, settings.thresholds, settings.preprocess, settings.images, settings.sign]
    return [parse_place(name) for name in names if name]


def _places(
    settings: Settings, models: Sequence[str], reads: Sequence[Place]
) -> tuple[list[Target], dict[str, list[Target]]]:
    """Where documents about all models go, and those about one, by model. Raises as `targets`."""
    from robustcheck_onnx.checker.report import forms as formats

    from . import models as many

    expanded: list[tuple[str, str]] = []  # -o as if it were typed, the model that it is about or ""
    for text in settings.output:
        form, sign, path = text.partition("=")
        if many.HOLE in path:
            filled = zip(many.fill(path, models), models, strict=True)
            expanded += [(f"{form}{sign}{place}", model) for place, model in filled]
        else:
            expanded.append((text, ""))
    found = targets([text for text, _ in expanded], reads, formats.NAMES)
    own: dict[str, list[Target]] = {model: [] for model in models}
    shared: list[Target] = []
    for place, (_, about) in zip(found, expanded, strict=True):
        (own[about] if about else shared).append(place)
    return shared, own


def _deliver(
    settings: Settings,
    models: Sequence[str],
    outcomes: Sequence[Outcome],
    shared: Sequence[Target],
    own: dict[str, list[Target]],
    signatures: Sequence[Signature],
) -> None:
    """Write every report and signature; only now, so that a run that ends early leaves none that tells a part."""
    from rich.console import Group
    from rich.text import Text

    from robustcheck_onnx.checker.report import forms as formats
    from robustcheck_onnx.checker.report import summary
    from robustcheck_onnx.checker.storage import redact, write_whole

    from . import check_sign, ending
    from . import models as many

    extra = _extra(settings, outcomes, [form for form, _ in (*shared, *(t for places in own.values() for t in places))])
    bundles = check_sign.signed(settings.sign, signatures, dict(zip(models, outcomes, strict=True)), extra)
    for model, outcome in zip(models, outcomes, strict=True):
        for form, path in own[model]:
            assert path is not None
            text = plain(_full(outcome, settings)) if form == "terminal" else formats.render(form, [outcome], extra)
            write_whole(path, text)
    code = many.worst(outcomes)
    meaning = f"exit code {code}: {_meaning(code, len(outcomes), ending.EXIT_CODES)}"
    files = [f"{form}: {path}" for form, path in (*shared, *(t for places in own.values() for t in places)) if path]
    files += [f"signature: {bundle}" for bundle in bundles]

    def terminal(signs: bool) -> RenderableType:
        if len(outcomes) == 1:
            made = [Text(f"  signature: {printable(str(bundle))}") for bundle in bundles]
            return Group(_full(outcomes[0], settings, signs), *made)
        table = summary.render(
            outcomes, models=list(map(redact, models)), meaning=meaning, places=files, ascii_only=signs
        )
        whole = [_full(outcome, settings, signs) for outcome in outcomes] if settings.verbose else []
        return Group(*whole, table)

    def rendered(form: str) -> str:
        return formats.render(form, outcomes, extra)

    in_files = [place for place in shared if place[1] is not None]
    on_stdout = [place for place in shared if place[1] is None]
    deliver(in_files, rendered, terminal, settings.color, quiet=True)
    for bundle, content in bundles.items():
        write_whole(bundle, content)
    deliver(on_stdout, rendered, terminal, settings.color, quiet=settings.quiet)


def _meaning(code: int, n: int, meanings: dict[int, str]) -> str:
    if code == 0:
        return f"each of the {n} models is let through"
    return f"the worst of {n} models. {meanings.get(code, 'an error')}"


def _full(outcome: Outcome, settings: Settings, signs: bool = False) -> RenderableType:
    """One model's report for people."""
    from rich.text import Text

    from robustcheck_onnx.checker.report import Failed
    from robustcheck_onnx.checker.report import terminal as report_terminal

    if isinstance(outcome, Failed):
        return Text(f"{outcome.model}\nerror: {outcome.message}\n" + (f"hint: {outcome.hint}" if outcome.hint else ""))
    return report_terminal.render(outcome, ascii_only=signs, verbose=settings.verbose > 0)


def _extra(settings: Settings, outcomes: Sequence[Outcome], forms: Sequence[str]) -> Options:
    """What only one of the forms needs."""
    from robustcheck_onnx.checker.report import forms as formats

    if "html" not in forms or settings.no_thumbnails:
        return formats.Options()
    from robustcheck_onnx.checker.report.html import thumbnails

    made = thumbnails.make(outcomes, settings.images, seed=settings.seed, limit=settings.max_images)
    return formats.Options(thumbnails=made.uris, missing=made.missing)


class _Lines(logging.Formatter):
    """One line a record, in UTC; a name of a file can't forge a line, and no URL shows a key."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        from robustcheck_onnx.checker.storage import redact_text

        return printable(redact_text(super().format(record)))


@contextlib.contextmanager
def _logging(settings: Settings, reads: Sequence[Place]) -> Iterator[None]:
    """The package's log on stderr (-vv) and in a file, for as long as the check runs."""
    from robustcheck_onnx.checker.pipeline import LOG

    from . import output as delivery

    handlers: list[logging.Handler] = []
    if settings.verbose > 1:
        handlers.append(logging.StreamHandler(sys.stderr))
    if settings.log_file is not None:
        path = Path(settings.log_file)
        delivery.check_target(path, reads)
        try:
            handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{path}: log is not writable ({fault.strerror}); it was asked for", f"ls -ld {path}"
            ) from fault
    level = LOG.level
    try:
        for handler in handlers:
            handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
            LOG.addHandler(handler)
        if handlers:
            LOG.setLevel(logging.DEBUG)
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)


def show_settings(resolved: Resolved, output: Sequence[str]) -> int:
    """Write each setting, its value and its source to stdout."""
    from rich.console import Group

    from robustcheck_onnx.checker.report import Pen, Trimmed, columns
    from robustcheck_onnx.checker.text import as_json

    from . import settings as config

    form = output[-1] if output else "terminal"
    one_of("--output", form, ("terminal", "json"))
    document = config.shown(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = columns(pen, "=setting", "value", "source")
    for key, entry in document["settings"].items():
        value, source = entry["value"], entry["source"]
        shown = config.stands_for(key, value)
        table.add_row(pen.say(key), pen.name(shown), pen.name(source, "dim" if source == config.DEFAULT else "bold"))
    where = f"file: {resolved.file}" if resolved.file else "file: none"
    console.print(Trimmed(Group(table, pen.name(where))))
    return 0
