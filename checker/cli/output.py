"""Refuse places for documents, show progress, and write results.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ..errors import EnvironmentFaultError, UsageError, as_error
from ..text import VERSION, error_json, error_text, printable, quoted
from .command_line import follows_link, may_write, split, template_of
from .options import FORMATS, one_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import ProgressColumn

    from ..core.progress import Progress, Tell
    from ..outside.storage.places import Place
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
    from ..outside.storage.places import Url, parse_place, redact

    destinations: list[Destination] = []
    targets: list[Place | str | None] = []
    for text in outputs:
        form, separator, path = split(text)
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
        real = os.path.realpath(place) if isinstance(place, Path) and (place.is_file() or not place.exists()) else place
        if real in targets:
            raise UsageError(
                f"--output names {redact(path) or 'stdout'} twice; only one document fits there", "-o json=report.json"
            )
        targets.append(real)
        destinations.append(Destination(form, place))
    return destinations


def check_target(
    place: Place,
    reads: Iterable[Place] = (),
    label: str = "report path",
    option: str = "-o json=",
    is_own: Callable[[Path], bool | None] | None = None,
) -> None:
    """Check early that a place can get a report. That is before the work starts, and no connection is made.

    A report replaces an empty file or an earlier report, and no file that the run reads. Devices, pipes and links are
    fine.

    Args:
        place: where the report goes.
        reads: what the run reads.
        label: names the place in errors.
        option: writes it in hints.
        is_own: returns whether a file may be replaced; None: a document of this tool, or an empty file.

    Raises:
        UsageError: a folder, no such folder, links in a circle, a web server, a file that is read, another file.
        EnvironmentFaultError: a folder that can't be written, a package that is missing.
    """
    from ..outside.storage.places import Url, local_path
    from ..outside.storage.stores import is_ours, open_url

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
    path = local_path(place, label)
    folder, look = path.parent, f"ls -ld {quoted(path.parent)}"
    try:
        if Path(os.path.realpath(path)).is_symlink():
            raise UsageError(f"{path}: {label} is a link that leads in a circle; it must be a file", look)
        if path.is_dir():
            raise UsageError(
                f"{path}: {label} is a folder; it must be a file", f"{option}{quoted(path / 'report.json')}"
            )
        if not folder.is_dir():
            raise UsageError(
                f"{path}: folder {folder} is missing; reports are written into existing folders",
                f"mkdir -p {quoted(folder)}",
            )
        if path.exists() and (conflict := _conflict(path, reads, is_own or is_ours)):
            other = path.with_name("report.json") if path.suffix == ".json" else path.with_suffix(".json")
            if not option.endswith("json="):
                other = path.with_name(f"new-{path.name}")
            raise UsageError(f"{path}: {label} is {conflict}", f"{option}{quoted(other)}")
    except OSError as fault:
        raise UsageError(f"{path}: {label} is not usable ({fault.strerror}); it must be a file", look) from fault
    if not path.exists() and not os.access(folder, os.W_OK):
        raise EnvironmentFaultError(f"{path}: folder {folder} is not writable; reports are written into it", look)


def _conflict(path: Path, reads: Iterable[Place], is_own: Callable[[Path], bool | None]) -> str:
    """Return why a document must not replace what is at a path; "" where it may. The file is not parsed."""
    if any(isinstance(read, Path) and read.exists() and path.samefile(read) for read in reads):
        return "a file that this run reads; a report must not replace it"
    if path.is_file() and path.stat().st_size > 0 and not is_own(path):
        return "a file that is there already; only an empty file, or one that robustcheck wrote there, is replaced"
    return ""


def check_extra(option: str, path: Path, reads: Sequence[Place], destinations: Destinations, example: str) -> None:
    """Check early the path of a further file. A verb writes it with its reports; the work has not started.

    example: a path for the hint. Raises as `check_target`, and UsageError where one of the reports goes there.
    """
    from ..outside.storage.stores import FILES, is_ours

    check_target(path, reads, f"path of {option}", f"{option} ", partial(is_ours, pattern=FILES[option]))
    if path.resolve() in [d.path.resolve() for d in destinations if isinstance(d.path, Path)]:
        raise UsageError(f"{option} is {path}, which a report uses too; it must be another file", f"{option} {example}")


def remove_earlier(destinations: Destinations) -> None:
    """Remove the documents of an earlier run, and their signatures, before anything is measured.

    So a run leaves none of them, even if it is killed. All signatures go first: none is ever next to another document.
    Raises EnvironmentFaultError where an earlier document or signature would stay.
    """
    from ..outside.storage import stores

    files = [(form, path) for form, path, _ in destinations if path is not None]
    for form, path in files:
        remove_signature(form, path)
    for _, path in files:
        stores.remove_earlier(path)


def remove_signature(form: str, report: Place) -> None:
    """Remove a replaced report's signed verdict. The report may also be missing; in a store there is none.

    Raises EnvironmentFaultError where it can't be removed.
    """
    if form != "json" or not isinstance(report, Path):
        return
    from ..outside.storage.stores import is_ours
    from ..report.attestation import bundle_of, remove_verdict

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
        from ..report import forms

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
    from ..outside.storage.stores import write_atomically

    for destination, text in texts.items():
        try:
            if destination.path is not None:
                write_atomically(destination.path, text())
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

    def file_text(form: str) -> str:
        return plain(render(ascii_only=False)) if form == "terminal" else text(form)

    undelivered = dict(faults or {})
    write_files({d: partial(file_text, d.form) for d in destinations}, undelivered)
    on_stdout = next((d for d in destinations if d.path is None), None)
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
    """Return a report as text for a file. It has 100 columns, no colour, and a first line that shows whose it is."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=100, no_color=True).print(report, crop=False)
    text = buffer.getvalue()
    return text if text.startswith("robustcheck ") else f"robustcheck {VERSION}\n{text}"


def console_for(color: str = "auto") -> Console:
    """Return a rich console for stdout. Its width is the terminal's; without a terminal COLUMNS, else 120."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    # rich would fall back to 80 columns, too few for paths and digests
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdecimal() else (120 if piped else None)
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
    from ..outside.storage.places import redact

    for text in outputs:
        form, _, path = split(text)
        if path not in ("", "-"):
            shown = redact(path)
            _refuse_unsafe(resolved, f"output is {form}={shown}", f"-o {form}={quoted(shown)}", path)


def check_written(resolved: Resolved, option: str, path: Path) -> None:
    """Refuse the place of a further file of a verb, as `check_outputs`."""
    _refuse_unsafe(resolved, f"{option} is {path}", f"{option} {quoted(path)}", str(path))


def check_bundles(resolved: Resolved, signed: Destinations, destinations: Destinations) -> None:
    """Refuse places of signatures, as `check_outputs` and `check_target`, also those of documents of this run.

    Their names follow from those of the reports.
    """
    from ..report.attestation import is_verdict

    again = "-o json=report.json --sign KEY"
    bundles = [bundle_at(report) for report in signed]
    documents = [document.path for document in destinations if isinstance(document.path, Path)]
    written = [os.path.realpath(path) for path in (*bundles, *documents)]
    for bundle in bundles:
        _refuse_unsafe(resolved, f"signature is {bundle}", again, str(bundle), "output", "sign")
        if written.count(os.path.realpath(bundle)) > 1:
            raise UsageError(
                f"{bundle}: signature can't be written here; another document of this run has this path", again
            )
        check_target(bundle, (), "signature", "--sign KEY -o json=", is_verdict)


def check_log(resolved: Resolved, destinations: Destinations) -> None:
    """Refuse the place of the log, as `check_outputs`, and that of a report."""
    name = resolved.settings.log_file
    if name is None:
        return
    _refuse_unsafe(resolved, f"log-file is {name}", f"--log-file {quoted(name)}", name, "log-file")
    if os.path.realpath(name) in [os.path.realpath(d.path) for d in destinations if isinstance(d.path, Path)]:
        raise UsageError(
            f"--log-file is {name}, which a report uses too; it must be another file", "--log-file robustcheck.log"
        )


def _refuse_unsafe(resolved: Resolved, label: str, again: str, path: str, *keys: str) -> None:
    """Refuse a place for an output that a settings file may not name, or that a link leads to.

    keys: of the settings that name it; it must stay in the folder of the first one. None: `output`.
    """
    keys = keys or ("output",)
    folder, where = folder_of(resolved, keys[0]), resolved.file or "environment"
    is_named = folder is not None or resolved.is_from("file", *keys)
    if folder is not None and not may_write(path, folder):
        raise UsageError(
            f"{where}: {label}; a settings file may only name files in its folder, without links that leave it",
            f"{again}  # the command line may name any place",
        )
    if folder is None and (is_named or resolved.settings.strict) and follows_link(path):
        raise UsageError(
            f"{label}, which follows a link; a link in a checkout can lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )


def bundle_at(signed: Destination) -> Path:
    """Return the file of a signed report's signature."""
    from ..report.attestation import bundle_of

    assert isinstance(signed.path, Path)
    return bundle_of(signed.path)


def say_home(quiet: int) -> None:
    """Note on stderr that the project has no address yet. The kind of statement is named by it."""
    from ..report.attestation import HOME_NOTE

    if HOME_NOTE and quiet < 2:
        sys.stderr.write(f"note: {HOME_NOTE}\n")


EVERY_S = 10.0  # seconds between two plain lines, and before the first one
WITH_BAR = 110  # columns from which a bar and the time left fit next to the words
STARTING = "starting"


@contextmanager
def progress_line(quiet: int, name: str = "") -> Iterator[Tell | None]:
    """Show a run's progress while the block runs. It is as in `progress_lines`; name: for the plain lines."""
    with progress_lines(quiet, several=False) as begin, begin(name) as tell:
        yield tell


@contextmanager
def progress_lines(quiet: int, *, several: bool) -> Iterator[Callable[[str], AbstractContextManager[Tell | None]]]:
    """Show progress on stderr while the block runs. It has stages, images, rate, and how close the decision is.

    On a terminal a line per run that moves and goes away at the end. Elsewhere, as in the log of a pipeline, a plain
    line at most every `EVERY_S` seconds, also while a stage takes long; a run that is shorter than that says nothing.

    quiet: 1 or more: nothing is shown, and None is given out. several: lines on a terminal begin with a name, too.
    """
    if quiet:
        yield lambda _: nullcontext()
    elif sys.stderr.isatty():
        with _moving(sys.stderr, several) as begin:
            yield begin
    else:
        yield partial(_plain, sys.stderr)


def _stage(now: Progress) -> str:
    return now.stage or "measuring"


def _rate(now: Progress) -> str:
    return f"{now.images_per_s:.1f} images/s" if now.images_per_s else ""


@contextmanager
def _moving(stream: TextIO, several: bool) -> Iterator[Callable[[str], AbstractContextManager[Tell]]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    # the stream itself: while a library works, sys.stderr may be another one; what it gets meanwhile keeps its lines
    console = Console(file=stream, highlight=False, soft_wrap=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), TextColumn("{task.fields[count]}")]
    columns.append(TextColumn("{task.fields[rate]}"))
    if console.width >= WITH_BAR:
        columns = [columns[0], BarColumn(bar_width=24), *columns[1:], TimeRemainingColumn()]
    with Bars(*columns, TextColumn("{task.fields[interval]}"), console=console, transient=True) as bars:

        @contextmanager
        def begin(name: str) -> Iterator[Tell]:
            before = f"{Path(name).name}: " if several else ""
            task = bars.add_task(shown := printable(f"{before}{STARTING}"), total=None, count="", rate="", interval="")

            def show(now: Progress) -> None:
                nonlocal shown
                words = printable(f"{before}{_stage(now)}")
                bars.update(
                    task,
                    description=words,
                    total=now.n_total or None,
                    completed=now.n_done,
                    count=f"{now.n_done}/{now.n_total}" if now.n_total else "",
                    rate=_rate(now),
                    interval=now.interval,
                    refresh=words != shown,  # however short the stage is
                )
                shown = words

            try:
                yield show
            finally:
                bars.refresh()  # its last words, too
                bars.remove_task(task)

        yield begin


@contextmanager
def _plain(stream: TextIO, name: str) -> Iterator[Tell]:
    from ..core.progress import Progress

    latest, ended, clock = deque([Progress(0, 0, 0.0, "", STARTING)], maxlen=1), threading.Event(), time.monotonic()

    def speak() -> None:
        with suppress(OSError, ValueError):  # stderr is full or closed: the run itself goes on
            while not ended.wait(EVERY_S):
                stream.write(f"{plain_line(latest[0], name, time.monotonic() - clock)}\n")
                stream.flush()

    speaker = threading.Thread(target=speak, name="robustcheck-progress", daemon=True)
    speaker.start()
    try:
        yield latest.append
    finally:
        ended.set()
        speaker.join()


def plain_line(now: Progress, name: str, seconds: float) -> str:
    """Return one line of a log. It has the model, how long it has run, and what it does."""
    count = f"{now.n_done} of {now.n_total} images" if now.n_total else ""
    parts = [f"{f'{name}: ' if name else ''}{seconds:.0f} s: {_stage(now)}", count, _rate(now), now.interval]
    return printable(", ".join(filter(None, parts)))
