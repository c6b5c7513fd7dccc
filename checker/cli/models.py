"""Check models: find which ones, check one after the other, deliver reports, and give the exit code of all.

It imports what is heavy at the top: a run imports it while the child process starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.isolation import LOG, Wall
from robustcheck_onnx.checker.report import Failed, FormOptions, Outcome, Report, exit_code_of, forms, one_model, sealed
from robustcheck_onnx.checker.storage import places
from robustcheck_onnx.checker.storage.places import Place, redact
from robustcheck_onnx.checker.text import VERSION, form_of, printable, quoted
from robustcheck_onnx.checker.verdict import RENAMED, gate, load_profile
from robustcheck_onnx.thresholds.profile import Profile

from . import output, process
from .command_line import Invocation, documents_of, safe_documents, split, template_of
from .options import PLACEHOLDER, Settings
from .output import Destination, check_target, deliver, destinations_of, plain, write_files
from .question import progress_line
from .settings import Resolved

if TYPE_CHECKING:
    from rich.console import RenderableType

SUFFIX = ".onnx"
_ADDRESS = re.compile(r"(models|runs):/[^/]")


def expand(words: Sequence[str]) -> list[str]:
    """Return the models that words name.

    A word is a file itself, a folder with all .onnx files below it, or a glob with what it matches.

    A folder that a glob matches may hold no model. The models come in the order of the words, those of one word sorted,
    each file once. The name of a file is that file, even with `*` or `[` in it. The name of no file stays in the list:
    opening it says what is wrong.
    Raises UsageError: a folder or a glob without a model, a folder that can't be read.
    """
    models: dict[str, str] = {}
    for word in words:
        for path in _models_of(word):
            models.setdefault(path if is_address(path) else _resolved(path), path)
    return list(models.values())


def split_images(words: Sequence[str], *, images_typed: bool, strict: bool) -> tuple[list[str], str | None]:
    """Split the image set off the typed places: `robustcheck model.onnx photos/`.

    It is the last place, with images and no ONNX file. `--strict` takes photos from `--images` alone.

    Raises:
        UsageError: no model comes first, more than one image set, a folder with both images and ONNX files; a report.
    """
    holds = {word: _holds(word) for word in words}
    images = [word for word in words if holds[word] == {"images"}]
    models = [word for word in words if word not in images]
    if not images and len(words) > 1 and len(holds[words[-1]]) > 1 and not (images_typed or strict):
        raise UsageError(
            f"{words[-1]}: folder holds images and ONNX files; which are meant is not clear",
            f"{shlex.join(['robustcheck', *models[:-1]])} --images {quoted(words[-1])}",
        )
    is_first = words[0] in images
    if is_first and images_typed:  # a folder without a model
        return list(words), None
    if not images or (len(images) == 1 and not (images_typed or strict or is_first)):
        return models, images[0] if images else None
    parents = {str(Path(image).parent) for image in images}
    place = quoted(images[0] if len(images) == 1 or len(parents) > 1 or parents == {"."} else min(parents))
    named = shlex.join(models or ["model.onnx"])
    if strict:
        why, again = "--strict takes images from --images alone", f"check --strict --images {place} -- {named}"
    else:
        why = (
            "no ONNX file is in it; the model comes first"
            if is_first
            else "one image set is taken; a glob needs quotes"
        )
        again = f"{named} --images {place}"
    raise UsageError(f"{images[0]}: {why}", f"robustcheck {again}")


def _holds(word: str) -> set[str]:
    """Return whether a typed place has images or models. It may have both; an empty folder counts as a model."""
    if not is_address(word) and os.path.isdir(word):  # noqa: PTH112 # a Path would change the word
        images = any(name.lower().endswith(places.SET_SUFFIXES) for name in places.folder_files(Path(word)))
        return {"models"} if not images else {"images", "models"} if any(_below(word)) else {"images"}
    if form_of(word) not in ("", "terminal") and not is_address(word):
        raise UsageError(f"{word}: this is the name of a report, not of a model", f"-o {quoted(word)}")
    return {"images" if word.lower().endswith(places.SET_SUFFIXES) else "models"}


def is_address(word: str) -> bool:
    """Return whether a word is an address. It is a URL, or one such as `models:/name/3`, and not a file."""
    return "://" in word or (_ADDRESS.match(word) is not None and not os.path.lexists(word))


def refuse_missing(models: Sequence[str]) -> None:
    """Refuse a missing model before others are measured. Raises UsageError."""
    for model in models:
        if not is_address(model) and not os.path.lexists(model):
            from robustcheck_onnx.checker.model import (  # not where the files are there: ONNX Runtime
                missing,
                parse_model,
            )

            parse_model(model)
            raise missing(Path(model))


def _resolved(path: str) -> str:
    """Return the path with its folder resolved. A link to a file stays, since it has sidecars of its own."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 # a Path would change the name


def _models_of(word: str) -> list[str]:
    if is_address(word) or os.path.isfile(word):  # noqa: PTH113 # a Path would change the word
        return [word]
    if os.path.isdir(word):  # noqa: PTH112
        models = sorted(_below(word))
        if not models:
            raise UsageError(
                f"{word}: number of {SUFFIX} files in the folder is 0; at least one is needed",
                f"find {quoted(word)} -name '*{SUFFIX}'",
            )
        return models
    if re.search(r"[*?]|\[.+\]", word):  # a lone bracket is part of a name
        matches = places.expand(Path(word).parts, _unreadable, lambda folder: list(_below(folder)))
        models = [
            model
            for path in matches
            for model in (_below(path) if os.path.isdir(path) else [path])  # noqa: PTH112
        ]
        if not models:
            raise UsageError(f"{word}: number of files that match is 0; at least one is needed", f"ls {word}")
        return sorted(models)
    return [word]


def _unreadable(fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename}: folder cannot be read ({fault.strerror}); all models below a folder are checked",
        f"ls -ld {quoted(fault.filename)}",
    )


def _below(folder: str) -> Iterator[str]:
    """Yield all .onnx files below a folder.

    Links to folders are followed once. Raises UsageError for an unreadable folder.
    """
    for top, folders, names in places.walk([folder], _unreadable):
        folders.sort()
        yield from (str(Path(top) / name) for name in names if name.lower().endswith(SUFFIX))


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return the largest exit code of all outcomes. Raises ValueError for no outcome, which is not a PASS."""
    if not outcomes:
        raise ValueError("no model was checked")
    return max(map(exit_code_of, outcomes))


def stem(model: str) -> str:
    """Return what replaces `{model}` in a report's path. It is the name of the model's file without its suffix.

    Of an address it is what names the model: `repo@v1`, `encoder-3`. Of a name of dots alone it is `model`: `..` would
    lead out of the folder.
    """
    name = _stem(model)
    return name if name.strip(".") else "model"


def _stem(model: str) -> str:
    if not is_address(model):
        return Path(model).stem
    if model.startswith("hf://") or "://" not in model:
        words = redact(model).partition(":")[2].strip("/")
        name = words.rpartition("/")[2] if model.startswith("hf://") else words.replace("/", "-")
        return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else name
    return PurePosixPath(redact(model).rstrip("/")).stem


def fill(path: str, models: Sequence[str], option: str = "--output") -> list[str]:
    """Fill in `{model}` in a path, per model. `option` names the path in errors.

    Raises UsageError where two models would share one file, also on a file system that ignores case.
    """
    model_by_name: dict[str, str] = {}
    for model in models:
        name = stem(model)
        other = model_by_name.setdefault(name.casefold(), model)
        if other != model:
            raise UsageError(
                f"{option} is {path}; {other} and {model} would both be {name}, and each needs its own file",
                "check them in two runs, or leave out {model} for one document",
            )
    return [path.replace(PLACEHOLDER, stem(model)) for model in models]


def stems_of(words: Sequence[str]) -> list[str]:
    """Return what can replace `{model}`, as far as the models of these words can be found."""
    stems: list[str] = []
    for word in words:
        with contextlib.suppress(RobustcheckError, OSError, ValueError):
            stems += map(stem, expand([word]))
    return stems


def run(resolved: Resolved, words: Sequence[str], invocation: Invocation, wall: Wall) -> int:
    """Check the named models and deliver reports. Returns the exit code of the worst.

    Of one model, an error ends the run. Of several, a model that can't be assessed gets its error on stderr and counts,
    and the next one is checked; only what is wrong with the call itself ends the run, before anything is measured.

    invocation: is told where documents go, since the settings may come from a file, and each model may have its own.
    wall: has the child processes that read models and images.
    """
    settings = resolved.settings
    invocation.annotates = not settings.no_ci
    invocation.documents = safe_documents(
        documents_of(settings.output, stems_of(words)), output.folder_of(resolved, "output"), strict=settings.strict
    )
    models = expand(words)
    wall.limits = settings.limits
    several = len(models) > 1
    reads = _files_read(resolved, models)
    destinations = _destinations(resolved, models, reads)
    output.check_templates(destinations)
    saved = output.files_of_representations(settings.save_representations, models, reads, destinations)
    signed = output.signed_reports(settings.sign, destinations, models, reads)
    output.check_bundles(resolved, signed)
    output.check_log(resolved)
    for each in destinations:
        one_model(each.form, 1 if each.model else len(models))
    refuse_missing(models)
    with log_written(settings, reads):
        output.mark_unfinished(destinations, "" if several else models[0], signed)
        if settings.sign is not None:  # its import takes long: the documents are marked by now
            from robustcheck_onnx.checker.verify import check_key

            check_key(Path(settings.sign))
        profile = load_profile(None if settings.thresholds is None else Path(settings.thresholds))
        _refuse_earlier_reasons(resolved, profile)
        if several:  # an image set that can't be opened is the call's fault, not each model's
            about = redact(settings.images or "bundled photos")
            asked = {"images": settings.images, "seed": settings.seed, "limit": settings.max_images}
            wall.run("images.source:count_images", asked, int, about=about, is_last=False)
        in_html = any(each.form == "html" for each in destinations)
        outcomes: list[Outcome] = []
        for model in models:
            try:
                is_last = model == models[-1] and not in_html
                outcomes.append(_check(resolved, model, profile, wall, saved=saved.get(model), is_last=is_last))
            except Exception as fault:  # whatever it is, the other models get their verdicts; a signal is not one
                if not several:
                    raise
                outcomes.append(_failed(model, fault, invocation))
        _deliver(settings, models, outcomes, destinations, signed, saved, wall)
        invocation.judged = True
    return worst(outcomes)


def _failed(model: str, fault: Exception, invocation: Invocation) -> Failed:
    """Report on stderr why one of several models has no verdict; return that."""
    if "debug" in invocation.line.options:
        process.write_traceback(fault)
    code, message, hint = process.explain(fault, invocation.line)
    message = message or f"{redact(model)}: the check ended without a message; a verdict is needed"
    process.say(message, hint)
    return Failed(model=redact(model), message=message, hint=hint, exit_code=code)


def _refuse_earlier_reasons(resolved: Resolved, profile: Profile) -> None:
    """Refuse waivers of reasons that the profile can't give. They would wait in vain; raises UsageError."""
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
    changed = {"gate": decision, "notes": (*result.notes, *resolved.notes())} | (
        {"time": None} if settings.no_time else {}
    )
    return sealed(result.model_copy(update=changed))


def _files_read(resolved: Resolved, models: Sequence[str]) -> list[Place]:
    """Return the files that the run reads. No report may replace one of them. Raises as `storage.parse_place`."""
    settings = resolved.settings
    names = [resolved.file, settings.thresholds, settings.preprocess, settings.images, settings.sign]
    names += [resolved.source("waivers")] if resolved.is_from("typed", "waivers") else []
    reads = [places.parse_place(name) for name in names if name]
    for model in models:
        with contextlib.suppress(UsageError):  # a URL that is refused: this model's own error, when its turn comes
            reads.append(places.parse_place(model))
    return reads + [Path(file) for file in output.template_files(resolved)]


def _destinations(resolved: Resolved, models: Sequence[str], reads: Sequence[Place]) -> list[Destination]:
    """Return where the documents of `-o` go. Raises as `destinations_of`, `models.fill` and `check_outputs`."""
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
    signed: Sequence[Destination],
    saved: Mapping[str, str],
    wall: Wall,
) -> None:
    """Write every report and signature, all at the end. So a run that ends early leaves no part of them."""
    from rich.console import Group
    from rich.text import Text

    from robustcheck_onnx.checker.report import summary

    by_model = dict(zip(models, outcomes, strict=True))
    measured = [model for model, outcome in by_model.items() if not isinstance(outcome, Failed)]
    options = _form_options(settings, outcomes, [each.form for each in destinations], wall)
    faults: dict[Destination, BaseException] = {}

    def vouched() -> list[Destination]:
        failed = {each.path for each in faults}
        return [each for each in signed if each.model in measured and each.path not in failed]

    def terminal(*, ascii_only: bool) -> RenderableType:
        beside = [f"signature: {output.bundle_at(each)}" for each in vouched()]
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

    from robustcheck_onnx.checker.report import terminal

    if isinstance(outcome, Failed):
        return Text(f"{outcome.model}\nerror: {outcome.message}\n" + (f"hint: {outcome.hint}" if outcome.hint else ""))
    return terminal.render(outcome, ascii_only=ascii_only, verbose=settings.verbose > 0)


def _form_options(settings: Settings, outcomes: Sequence[Outcome], forms: Sequence[str], wall: Wall) -> FormOptions:
    """Return what forms need besides outcomes. An HTML form needs thumbnails."""
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
        return printable(places.redact_text(super().format(record)))


@contextlib.contextmanager
def log_written(settings: Settings, reads: Sequence[Place]) -> Iterator[None]:
    """Write the package's log while the block runs. It goes to stderr (-vv) and to a file."""
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
