"""Write results where `-o` puts them. The destinations are checked before the work starts; consoles are here, too.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError, as_error
from robustcheck_onnx.checker.text import error_json, error_text

from . import vocabulary
from .options import FORMATS, one_of
from .progress import progress_line
from .settings_file import split, template_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from robustcheck_onnx.checker.isolation import Tell
    from robustcheck_onnx.checker.storage.places import Place, Url


class Destination(NamedTuple):
    """One document that a run writes."""

    form: str
    """such as json"""
    path: Place | None
    """None: stdout"""
    model: str = ""
    """the one that it is about; empty for all of the run"""


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
        vocabulary.refuse_removed("form", form, vocabulary.REMOVED_FORMS)
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
                f"--output names {redact(path) or 'stdout'} twice; only one document fits there",
                "-o json=report.json",
            )
        destinations.append(Destination(form, place))
    return destinations


def check_target(
    place: Place, reads: Iterable[Place] = (), what: str = "report path", option: str = "-o json="
) -> None:
    """Check early that a place can get a report. That is before the work starts.

    A report must not replace a file that the run reads, nor the weights and sidecars next to a model that it reads, nor
    any image or ONNX file. Devices, pipes and links are fine.

    reads: what the run reads. what, option: name the place in errors, and write it in hints.
    Raises UsageError (a folder, no such folder, a file that is read, an image), EnvironmentFaultError (a folder that
    can't be written); for a URL as `check_url`.
    """
    from robustcheck_onnx.checker.storage.places import Url, local_path

    if isinstance(place, Url):
        check_url(place, reads)
        return
    path = local_path(place, what)
    files = [read for read in reads if isinstance(read, Path)]
    where = shlex.quote(str(path.parent))
    try:
        if path.is_dir():
            raise UsageError(
                f"{path}: {what} is a folder; it must be a file",
                f"{option}{shlex.quote(str(path / 'report.json'))}",
            )
        if not path.parent.is_dir():
            raise UsageError(
                f"{path}: folder {path.parent} is missing; reports are written into existing folders",
                f"mkdir -p {where}",
            )
        other = path.with_suffix(".json") if path.suffix != ".json" else path.with_name("report.json")
        for read in (*files, *_beside(path, files)):
            if path.exists() and read.exists() and path.samefile(read):
                raise UsageError(
                    f"{path}: {what} is a file that this run reads; a report must not replace it",
                    f"{option}{shlex.quote(str(other))}",
                )
        if _is_image_or_model(path):
            raise UsageError(
                f"{path}: {what} is an existing image or model; a report must not replace it",
                f"{option}{shlex.quote(str(other))}",
            )
    except OSError as fault:
        raise UsageError(
            f"{path}: {what} is not usable ({fault.strerror}); it must be a file", f"ls -ld {where}"
        ) from fault
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise EnvironmentFaultError(
            f"{path}: folder {path.parent} is not writable; reports are written into it", f"ls -ld {where}"
        )


def _is_document(path: Path) -> bool:
    """Return whether a file is this tool's document.

    It is a report or a signature; no model has to be read to know that.
    """
    from robustcheck_onnx.checker.report.signature_file import is_verdict
    from robustcheck_onnx.checker.storage.write import is_ours

    return is_ours(path) or is_verdict(path)


def _is_image_or_model(path: Path) -> bool:
    """Return whether a path is an image or model. It is a file with such a suffix, and not a document of this tool."""
    from robustcheck_onnx.checker.storage.places import SUFFIXES  # needed only where a report replaces a file

    return path.is_file() and not _is_document(path) and path.suffix.lower() in {*SUFFIXES, ".onnx"}


def _beside(path: Path, reads: Iterable[Path]) -> Iterator[Path]:
    """Return the weights and sidecars of models among `reads`. None where `path` can't be one of them."""
    if not path.is_file() or _is_document(path):
        return
    from robustcheck_onnx.checker.model import (  # needed only where a report replaces a file
        external_locations,
        may_be_model,
        sidecar_paths,
    )

    for read in reads:
        with contextlib.suppress(RobustcheckError, OSError):  # opening the model says what is wrong with it
            if read.is_file() and may_be_model(read):
                yield from sidecar_paths(read)
                for name in external_locations(read)[1]:
                    # a model reached through a link may keep its weights next to the target
                    yield from (folder / name for folder in (read.parent, read.resolve().parent))


def check_url(url: Url, reads: Iterable[Place]) -> None:
    """Check early that a URL can get a report. That is before the work starts; no connection is made.

    reads: what the run reads; a report must not replace one of them.
    Raises UsageError (a web server, a file that is read), EnvironmentFaultError (a package is missing).
    """
    from robustcheck_onnx.checker.storage.stores import open_url

    if url.is_http:
        raise UsageError(
            f"{url}: report's URL is of a web server; a report can only be written to an object store or a file",
            "-o json=report.json, and upload it",
        )
    if url in reads:
        raise UsageError(
            f"{url}: report's URL is a file that this run reads; a report must not replace it", f"-o json={url}.json"
        )
    open_url(url)


def check_extra(
    option: str, path: Path, reads: Sequence[Place], destinations: Sequence[Destination], example: str
) -> None:
    """Check early the path of a further file. A verb writes it with its reports; the work has not started.

    example: a path for the hint. Raises as `check_target`, and UsageError where one of the reports goes there.
    """
    check_target(path, reads, f"path of {option}", f"{option} ")
    if path.resolve() in [each.path.resolve() for each in destinations if isinstance(each.path, Path)]:
        raise UsageError(f"{option} is {path}, where a report goes too; it must be another file", f"{option} {example}")


UNFINISHED = ("the run was killed, or has not ended yet; there is no verdict", "run it again", 137)
"""Message, hint and exit code (a shell's for SIGKILL) of the document that stands until the run has a result."""


def mark_unfinished(destinations: Sequence[Destination], model: str) -> None:
    """Replace earlier documents by one that says "not finished". A process that is killed can't do it.

    Called when the work starts. A file that is missing, or not a document of this tool, stays as it is. Before
    the first document, the signatures next to all of them go: whenever a kill comes, none is next to an error.

    model: what the documents are about, as it was typed; empty for several.
    Raises EnvironmentFaultError where an earlier document or signature would stay.
    """
    from robustcheck_onnx.checker.storage.places import redact
    from robustcheck_onnx.checker.storage.write import is_ours, replace_with_error

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
    from robustcheck_onnx.checker.report.signature_file import bundle_of, remove_verdict
    from robustcheck_onnx.checker.storage.write import is_ours

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

        return forms.render_error(form, message, hint, code, model) if form in forms.NAMES else ""
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
    from robustcheck_onnx.checker.storage.write import write_whole

    for destination, text in texts.items():
        try:
            if destination.path is not None:
                write_whole(destination.path, text())
        except Exception as fault:  # noqa: BLE001 # whatever one form is at fault for, the others tell the verdict
            faults[destination] = fault


def deliver(
    destinations: Sequence[Destination],
    text: Callable[[str], str],
    render: Callable[..., RenderableType],
    color: str,
    *,
    quiet: int,
    line: str,
    faults: Mapping[Destination, BaseException] | None = None,
) -> None:
    """Write a verb's result to every destination.

    Files come first; the terminal report goes to stdout if nothing else does.

    text: gives the result as a document of the form that it is called with; not called for `terminal`.
    render: gives the terminal report; called with `ascii_only`.
    quiet: 1: `line` instead of the report, unless a destination says so; 2: nothing.
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
            sys.stdout.write(f"{line}\n")
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
    import io

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


@contextlib.contextmanager
def measuring(destinations: Sequence[Destination], model: Path, quiet: int) -> Iterator[Tell | None]:
    """Show a verb's progress while the block runs.

    Its documents are marked as unfinished first; progress is as in `progress_line`.
    """
    mark_unfinished(destinations, str(model))
    with progress_line(quiet, str(model)) as progress:
        yield progress
