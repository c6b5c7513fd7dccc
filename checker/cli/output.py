"""Say what a run may write and where, and write its results.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError, as_error
from robustcheck_onnx.checker.text import error_json, error_text, quoted, sha256_of

from .command_line import follows_link, is_inside, split, template_of
from .options import FORMATS, REMOVED_FORMS, one_of, refuse_removed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from robustcheck_onnx.checker.report.forms import FormOptions
    from robustcheck_onnx.checker.report.record import Outcome
    from robustcheck_onnx.checker.storage.places import Place

    from .options import Settings
    from .settings import Resolved


class Destination(NamedTuple):
    """One document that a run writes."""

    form: str
    """such as json"""
    path: Place | None
    """None: stdout"""
    model: str = ""
    """the one that it is about; empty for all of the run"""


Destinations = Sequence[Destination]


def destinations_of(
    outputs: Iterable[str], reads: Sequence[Place], formats: Sequence[str] = FORMATS
) -> list[Destination]:
    """Return the destination of each `-o FORMAT[=PATH]`.

    reads: what the run reads; a report must not replace one of these files.
    Raises UsageError (no such format, no path after the equals sign, one file or stdout named twice, a path that no
    report can be written to), EnvironmentFaultError (a folder that can't be written).
    """
    from robustcheck_onnx.checker.storage.places import Url, parse_place, redact

    destinations: list[Destination] = []
    for text in outputs:
        form, separator, path = split(text)
        refuse_removed("form", form, REMOVED_FORMS)
        one_of("--output", form.partition("=")[0], formats)
        if separator and not path:
            raise UsageError(f"--output is {text!r}; a path must follow the equals sign", f"-o {form}=report.{form}")
        place = None if path in {"", "-"} else parse_place(path)
        if isinstance(place, Url) and (path.endswith("/") or "//" in path.partition("://")[2]):
            raise UsageError(
                f"--output is {form}={redact(path)}; a report's URL must name a file, and have no empty part (//)",
                f"-o {form}=s3://bucket/report.{form}",
            )
        if place is not None:
            check_target(place, reads)
        if any(place == other.path for other in destinations):
            raise UsageError(
                f"--output names {redact(path) or 'stdout'} twice; only one document fits there", "-o json=report.json"
            )
        destinations.append(Destination(form, place))
    return destinations


def check_target(
    place: Place, reads: Iterable[Place] = (), what: str = "report path", option: str = "-o json="
) -> None:
    """Check early that a place can get a report. That is before the work starts, and no connection is made.

    A report must not replace a file that the run reads, nor the weights and sidecars next to a model that it reads, nor
    any image or ONNX file. Devices, pipes and links are fine.

    reads: what the run reads. what, option: name the place in errors, and write it in hints.
    Raises UsageError (a folder, no such folder, a web server, a file that is read, an image), EnvironmentFaultError (a
    folder that can't be written, a package that is missing).
    """
    from robustcheck_onnx.checker.storage.places import Url, local_path
    from robustcheck_onnx.checker.storage.stores import open_url

    if isinstance(place, Url):
        if place.is_http:
            raise UsageError(
                f"{place}: report's URL is on a web server; a report can only be written to an object store or a file",
                "-o json=report.json, and upload it",
            )
        if place in reads:
            raise UsageError(
                f"{place}: report's URL is a file that this run reads; a report must not replace it",
                f"-o json={place}.json",
            )
        open_url(place)
        return
    path = local_path(place, what)
    folder, look = path.parent, f"ls -ld {quoted(path.parent)}"
    try:
        if path.is_dir():
            raise UsageError(
                f"{path}: {what} is a folder; it must be a file", f"{option}{quoted(path / 'report.json')}"
            )
        if not folder.is_dir():
            raise UsageError(
                f"{path}: folder {folder} is missing; reports are written into existing folders",
                f"mkdir -p {quoted(folder)}",
            )
        if path.exists() and (taken := _replaced(path, reads)):
            other = path.with_name("report.json") if path.suffix == ".json" else path.with_suffix(".json")
            raise UsageError(f"{path}: {what} is {taken}; a report must not replace it", f"{option}{quoted(other)}")
    except OSError as fault:
        raise UsageError(f"{path}: {what} is not usable ({fault.strerror}); it must be a file", look) from fault
    if not path.exists() and not os.access(folder, os.W_OK):
        raise EnvironmentFaultError(f"{path}: folder {folder} is not writable; reports are written into it", look)


def _replaced(path: Path, reads: Iterable[Place]) -> str:
    """Return what a report must not replace at an existing path. "" where it may.

    A report or a signature of this tool is not an image, and not part of a model; no model has to be read to know that.
    """
    from robustcheck_onnx.checker.report.record import is_verdict
    from robustcheck_onnx.checker.storage.places import SUFFIXES
    from robustcheck_onnx.checker.storage.stores import is_ours

    is_other = path.is_file() and not (is_ours(path) or is_verdict(path))
    files = [read for read in reads if isinstance(read, Path)]
    if is_other:
        from robustcheck_onnx.checker.model.file import external_locations, may_be_model
        from robustcheck_onnx.checker.model.sidecar import sidecar_paths

        for read in files[:]:
            with suppress(RobustcheckError, OSError):  # opening the model says what is wrong with it
                if read.is_file() and may_be_model(read):
                    files += sidecar_paths(read)
                    # a model reached through a link may keep its weights next to the target
                    folders = (read.parent, read.resolve().parent)
                    files += [folder / name for name in external_locations(read)[1] for folder in folders]
    if any(read.exists() and path.samefile(read) for read in files):
        return "a file that this run reads"
    return "an existing image or model" if is_other and path.suffix.lower() in {*SUFFIXES, ".onnx"} else ""


def check_extra(option: str, path: Path, reads: Sequence[Place], destinations: Destinations, example: str) -> None:
    """Check early the path of a further file. A verb writes it with its reports; the work has not started.

    example: a path for the hint. Raises as `check_target`, and UsageError where one of the reports goes there.
    """
    check_target(path, reads, f"path of {option}", f"{option} ")
    if path.resolve() in [each.path.resolve() for each in destinations if isinstance(each.path, Path)]:
        raise UsageError(f"{option} is {path}, which a report uses too; it must be another file", f"{option} {example}")


UNFINISHED = ("the run was killed, or has not ended yet; there is no verdict", "run it again", 137)
"""Message, hint and exit code (a shell's for SIGKILL) of the document that stands until the run has a result."""


def mark_unfinished(destinations: Destinations, model: str, signed: Destinations = ()) -> None:
    """Replace earlier documents by one that says "not finished". A process that is killed can't do it.

    Called when the work starts. A file that is missing, or not a document of this tool, stays as it is. Before
    the first document, the signatures next to all of them go: whenever a kill comes, none is next to an error.

    model: what the documents are about, as it was typed; empty for several. signed: reports that get a signature.
    Raises EnvironmentFaultError where an earlier document or signature would stay.
    """
    from robustcheck_onnx.checker.report.record import remove_verdict
    from robustcheck_onnx.checker.storage.places import redact
    from robustcheck_onnx.checker.storage.stores import is_ours, replace_with_error

    for each in signed:
        remove_verdict(bundle_at(each))
    ours = [(form, path, about) for form, path, about in destinations if path is not None and is_ours(path)]
    for form, path, _ in ours:
        remove_signature(form, path)
    for form, path, about in ours:
        try:
            replace_with_error(path, error_document(form, *UNFINISHED, redact(about or model)))
        except EnvironmentFaultError:
            if is_ours(path):  # else there is no room, and the earlier document is gone at least
                raise


def remove_signature(form: str, report: Place) -> None:
    """Remove a replaced report's signed verdict. The report may also be missing; in a store there is none.

    Raises EnvironmentFaultError where it can't be removed.
    """
    if form != "json" or not isinstance(report, Path):
        return
    from robustcheck_onnx.checker.report.record import bundle_of, remove_verdict
    from robustcheck_onnx.checker.storage.stores import is_ours

    if is_ours(report) or not report.exists():  # else nothing is replaced
        remove_verdict(bundle_of(report))


def error_document(form: str, message: str, hint: str, code: int, model: str) -> str:
    """Return the error in a report's form.

    It is "" for an unknown form, and plain text where the form can't be made.
    """
    if template_of(form) is not None:  # it may be the template that is at fault
        return error_text(message, hint, code)
    if form == "json":  # needs nothing that a broken installation may lack
        return error_json(message, hint, code)
    try:
        from robustcheck_onnx.checker.report import forms

        return forms.render_error(form, message, hint, code, model) if form in forms.FORMS else ""
    except Exception:  # noqa: BLE001 # better a document that no reader takes than the PASS of an earlier run
        return error_text(message, hint, code)


class UndeliveredError(EnvironmentFaultError):
    """The error for documents that were not written. Each has a fault of its own; the others hold the result.

    A reader of stdout that went away gets no message.
    """

    def __init__(self, faults: Mapping[Destination, BaseException]) -> None:
        errors = [as_error(fault) for fault in faults.values() if not is_broken_pipe(fault)]
        super().__init__("; ".join(error.message for error in errors), errors[0].hint if errors else "")
        self.faults = faults


def is_broken_pipe(fault: BaseException) -> bool:
    """Return whether stdout's reader went away. Rich makes SystemExit of that."""
    return isinstance(fault, BrokenPipeError) or isinstance(fault.__context__, BrokenPipeError)


def write_files(texts: Mapping[Destination, Callable[[], str]], faults: dict[Destination, BaseException]) -> None:
    """Write each document that goes to a file. A fault takes one document only, and goes to `faults`."""
    from robustcheck_onnx.checker.storage.stores import write_whole

    for destination, text in texts.items():
        try:
            if destination.path is not None:
                write_whole(destination.path, text())
        except Exception as fault:  # noqa: BLE001 # whatever one form is at fault for, the others tell the verdict
            faults[destination] = fault


def deliver(
    destinations: Destinations,
    text: Callable[[str], str],
    render: Callable[..., RenderableType],
    color: str,
    *,
    quiet: int,
    line: Callable[[], str],
    faults: Mapping[Destination, BaseException] | None = None,
) -> None:
    """Write a verb's result to every destination.

    Files come first; the terminal report goes to stdout if nothing else does.

    text: gives the result as a document of the form that it is called with; not called for `terminal`.
    render: gives the terminal report; called with `ascii_only`.
    quiet: 1: what `line` gives instead of the report, unless a destination says so; 2: nothing.
    faults: of documents that were to be written before.
    Raises UndeliveredError where a document can't be made or written; all the others are then.
    """

    def whole(form: str) -> str:
        return plain(render(ascii_only=False)) if form == "terminal" else text(form)

    undelivered = dict(faults or {})
    write_files({each: partial(whole, each.form) for each in destinations}, undelivered)
    on_stdout = next((each for each in destinations if each.path is None), None)
    try:
        if on_stdout is not None and on_stdout.form != "terminal":
            sys.stdout.write(text(on_stdout.form))
        elif on_stdout is not None or not quiet:
            print_report(render, color)
        elif quiet == 1:
            sys.stdout.write(f"{line()}\n")
        sys.stdout.flush()
    except (Exception, SystemExit) as fault:  # noqa: BLE001 # as in `write_files`
        undelivered[on_stdout or Destination("terminal", None)] = fault
    if undelivered:
        raise UndeliveredError(undelivered) from next(iter(undelivered.values()))


def print_report(render: Callable[..., RenderableType], color: str) -> None:
    """Write a report to stdout. `render` is called with `ascii_only`."""
    console = console_for(color)
    console.print(render(ascii_only=ascii_only(console)), crop=False)


def plain(report: RenderableType) -> str:
    """Return a report as text for a file. It has 100 columns and no colour."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=100, no_color=True).print(report, crop=False)
    return buffer.getvalue()


def console_for(color: str = "auto") -> Console:
    """Return a rich console for stdout. Its width is the terminal's; without a terminal COLUMNS, else 120."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    # rich would fall back to 80 columns, too few for paths and digests
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else (120 if piped else None)
    return Console(
        width=width,
        highlight=False,
        soft_wrap=False,
        force_terminal=True if color == "always" else None,
        no_color={"never": True, "always": False}.get(color),  # --color counts before NO_COLOR
    )


def ascii_only(console: Console) -> bool:
    """Return whether the console shows only ASCII."""
    encoding = (console.file.encoding or "ascii") if hasattr(console.file, "encoding") else "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


_LOG: Final = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z INFO robustcheck \d")
"""how a log of ours starts: `log_written` writes this line first"""


def folder_of(resolved: Resolved, key: str) -> Path | None:
    """Return the folder that outputs must stay in.

    The log must, too. It is the settings file's folder, where that file names them.

    With --strict, where a variable names them, the current folder.
    """
    if resolved.file is not None and resolved.is_from("file", key):
        return Path(resolved.file).parent
    return Path() if resolved.settings.strict and resolved.is_from("variable", key) else None


def check_outputs(resolved: Resolved, outputs: Iterable[str]) -> None:
    """Refuse places for documents before anything is opened. Each is FORM[=PATH]. Raises UsageError."""
    from robustcheck_onnx.checker.storage.places import redact

    for text in outputs:
        form, _, path = split(text)
        if path not in ("", "-"):
            shown = redact(path)
            _refuse_unsafe(resolved, "report", f"output is {form}={shown}", f"-o {form}={quoted(shown)}", path)


def check_written(resolved: Resolved, option: str, path: Path) -> None:
    """Refuse the place of a further file of a verb, as `check_outputs`."""
    _refuse_unsafe(resolved, "file", f"{option} is {path}", f"{option} {quoted(path)}", str(path))


def check_bundles(resolved: Resolved, signed: Iterable[Destination]) -> None:
    """Refuse places of signatures, as `check_outputs`. Their names follow from those of the reports."""
    for bundle in map(bundle_at, signed):
        words = (f"signature is {bundle}", "-o json=report.json --sign KEY")
        _refuse_unsafe(resolved, "signature", *words, str(bundle), "output", "sign")


def check_log(resolved: Resolved) -> None:
    """Refuse the place of the log, as `check_outputs`."""
    if (name := resolved.settings.log_file) is not None:
        _refuse_unsafe(resolved, "log", f"log-file is {name}", f"--log-file {quoted(name)}", name, "log-file")


def _refuse_unsafe(resolved: Resolved, kind: str, what: str, again: str, path: str, *keys: str) -> None:
    """Refuse an unsafe place for an output. A settings file may not name it, or a run must not replace what is there.

    keys: of the settings that name it; it must stay in the folder of the first one. None: `output`.
    """
    from robustcheck_onnx.checker.report.record import is_verdict
    from robustcheck_onnx.checker.storage.stores import is_ours

    keys = keys or ("output",)
    folder, where = folder_of(resolved, keys[0]), resolved.file or "environment"
    is_named = folder is not None or resolved.is_from("file", *keys)
    if folder is not None and not is_inside(path, folder):
        raise UsageError(
            f"{where}: {what}; a settings file may only name files in its folder, without links that leave it",
            f"{again}  # the command line may name any place",
        )
    if folder is None and (is_named or resolved.settings.strict) and follows_link(path):
        raise UsageError(
            f"{what}, which follows a link; a link in a checkout can lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )
    is_known = {"report": is_ours, "signature": is_verdict, "log": _is_log}
    if is_named and Path(path).exists() and not is_known[kind](Path(path)):
        raise UsageError(
            f"{where}: {what}; the file that is there is not a {kind} of robustcheck, and a settings file replaces no "
            "other",
            f"{again}  # the command line may replace it",
        )


def _is_log(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return _LOG.match(file.read(80)) is not None
    return False


def signed_reports(
    key: str | None, destinations: Destinations, models: Sequence[str], reads: Sequence[Place]
) -> list[Destination]:
    """Return the reports that a run signs, each with its model. They are JSON in a file; none without a key.

    Args:
        key: the private key's file.
        destinations: of the documents.
        models: those that are checked.
        reads: files that the run reads; no signature may replace one of them.

    Raises:
        UsageError: no JSON report goes to a file, a JSON report is about several models, or a signature would go to a
            file that the run writes or reads.
        EnvironmentFaultError: the folder can't be written.
    """
    if key is None:
        return []
    from robustcheck_onnx.checker.storage.places import Url

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
    places = [*map(bundle_at, signed), *(each.path for each in destinations if isinstance(each.path, Path))]
    written = [place.resolve() for place in places]
    for each in signed:
        check_target(bundle := bundle_at(each), reads)
        if written.count(bundle.resolve()) > 1:
            raise UsageError(
                f"{bundle}: signature of {each.path} can't be written here; another document of this run has this path",
                f"-o json=report.json {again}",
            )
    return signed


def bundle_at(signed: Destination) -> Path:
    """Return the file of a signed report's signature."""
    from robustcheck_onnx.checker.report.record import bundle_of

    assert isinstance(signed.path, Path)
    return bundle_of(signed.path)


def sign_reports(
    settings: Settings, signed: Iterable[Destination], outcomes: Mapping[str, Outcome], options: FormOptions
) -> None:
    """Write the signature of each report. A model without a verdict has none.

    Args:
        settings: `sign` is the private key's file.
        signed: of `signed_reports`.
        outcomes: by model.
        options: what the reports are rendered with.

    Raises as `signature.sign`.
    """
    from robustcheck_onnx.checker.report import forms
    from robustcheck_onnx.checker.report.record import Report, sealed
    from robustcheck_onnx.checker.storage.stores import write_whole

    texts: dict[Path, str] = {}
    for each in signed:
        outcome = outcomes[each.model]
        if isinstance(outcome, Report) and settings.sign is not None:
            from robustcheck_onnx.checker.verify import signature

            digest = sha256_of(forms.render("json", [outcome], options).encode())
            texts[bundle_at(each)] = signature.sign(signature.statement(sealed(outcome), digest), Path(settings.sign))
    if texts:
        say_home(settings.quiet)
    for bundle, text in texts.items():
        write_whole(bundle, text)


def say_home(quiet: int) -> None:
    """Note on stderr that the project has no address yet. The kind of statement is named by it."""
    from robustcheck_onnx.checker.report.record import HOME_NOTE

    if HOME_NOTE and quiet < 2:
        sys.stderr.write(f"note: {HOME_NOTE}\n")


def template_files(resolved: Resolved) -> list[str]:
    """Return the templates that the settings name.

    Raises UsageError: a settings file or a variable names one, or one is a URL, or `template` stands alone.
    """
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
    return named


def check_templates(destinations: Iterable[Destination]) -> None:
    """Refuse templates before anything is measured. Raises as `template.check`."""
    for form, path, _ in destinations:
        if (file := template_of(form)) is not None:
            from robustcheck_onnx.checker.report import template

            template.check(Path(file), into_file=path is not None)
