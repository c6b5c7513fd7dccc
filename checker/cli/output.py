"""Where results go: the places of `-o`, checked before the work starts; consoles; the progress line.

Light to import: a module of verbs needs this one, and makes its other imports inside its functions."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.storage import Place, Url, is_ours, local_path, open_url, parse_place, redact

from .options import FORMATS, one_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from robustcheck_onnx.checker.measure import Progress


def check_target(place: Place, reads: Iterable[Place] = ()) -> None:
    """Refuse a report's path that can't serve, before the work starts.

    reads: what the run reads; a report must not replace one of these files,
    nor the weights and sidecars that lie beside a model of them, nor any image or ONNX file that is there. Devices,
    pipes and links are fine.
    Raises UsageError (a folder, no such folder, a file that is read, an image), EnvironmentFaultError (a folder that
    can't be written). A URL: see `check_url`.
    """
    if isinstance(place, Url):
        check_url(place, reads)
        return
    path = local_path(place, "report path")
    files = [read for read in reads if isinstance(read, Path)]
    where = shlex.quote(str(path.parent))
    try:
        if path.is_dir():
            raise UsageError(
                f"{path}: report path is a folder; it must be a file",
                f"-o json={shlex.quote(str(path / 'report.json'))}",
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
                    f"{path}: report path is a file that is read; a report must not replace it",
                    f"-o json={shlex.quote(str(other))}",
                )
        if _is_image_or_model(path):
            raise UsageError(
                f"{path}: report path is an image or a model that is there; a report must not replace it",
                f"-o json={shlex.quote(str(other))}",
            )
    except OSError as fault:
        raise UsageError(
            f"{path}: report path is not usable ({fault.strerror}); it must be a file", f"ls -ld {where}"
        ) from fault
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise EnvironmentFaultError(
            f"{path}: folder {path.parent} is not writable; reports are written into it", f"ls -ld {where}"
        )


def _is_image_or_model(path: Path) -> bool:
    """Whether a file lies there that is no document of this tool and has the suffix of an image or a model."""
    if not path.is_file() or is_ours(path):
        return False
    from robustcheck_onnx.checker.images import SUFFIXES  # needed only where a report replaces a file

    return path.suffix.lower() in {*SUFFIXES, ".onnx"}


def _beside(path: Path, reads: Iterable[Path]) -> Iterator[Path]:
    """Weights and sidecars of the models among `reads`; none where `path` holds no file that could be one."""
    if not path.is_file() or is_ours(path):
        return
    from robustcheck_onnx.checker.model import (  # needed only where a report replaces a file
        configs,
        external_locations,
        may_be_model,
    )

    for read in reads:
        with contextlib.suppress(RobustcheckError, OSError):  # opening the model says what is wrong with it
            if read.is_file() and may_be_model(read):
                yield read.with_suffix(configs.OWN)
                yield from (read.with_name(name) for name in configs.NAMES)
                for name in external_locations(read)[1]:
                    # a model reached through a link may keep its weights beside the target
                    yield from (folder / name for folder in (read.parent, read.resolve().parent))


def check_url(url: Url, reads: Iterable[Place]) -> None:
    """Refuse a URL that can't take a report, before the work starts; nothing is connected to.

    reads: what the run reads; a report must not replace one of them.
    Raises UsageError (a web server, a file that is read), EnvironmentFaultError (a package is missing).
    """
    if url.is_http:
        raise UsageError(
            f"{url}: report's URL is of a web server; reports are put into object stores or files",
            "-o json=report.json, and upload it",
        )
    if url in reads:
        raise UsageError(
            f"{url}: report's URL is a file that is read; a report must not replace it", f"-o json={url}.json"
        )
    open_url(url)


PROGRESS_WITH_BAR = 110  # columns from which a bar and the time left fit beside the words
Target = tuple[str, Place | None]


def console_for(color: str = "auto", *, stderr: bool = False) -> Console:
    """The console of stdout or stderr, as wide as it is shown."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    # no TTY: rich would fall back to 80 columns; COLUMNS, else 120, so that paths and digests stay whole
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else (120 if piped else None)
    return Console(
        stderr=stderr,
        width=width,
        highlight=False,
        soft_wrap=False,
        force_terminal=True if color == "always" else None,
        no_color={"never": True, "always": False}.get(color),  # what is typed beats NO_COLOR
    )


def ascii_only(console: Console) -> bool:
    """Whether the console's encoding has no signs but ASCII's."""
    encoding = (console.file.encoding or "ascii") if hasattr(console.file, "encoding") else "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


def targets(outputs: Iterable[str], reads: Sequence[Place], formats: Sequence[str] = FORMATS) -> list[Target]:
    """Where each `-o FORMAT[=PATH]` goes: (format, path), path None for stdout.

    reads: files that the run reads; a report must not replace one of them.
    Raises UsageError (no such format, no path after the sign, one place named twice, a path that can't serve),
    EnvironmentFaultError (a folder that can't be written).
    """
    found: list[Target] = []
    for text in outputs:
        form, separator, path = text.partition("=")
        one_of("--output", form, formats)
        if separator and not path:
            raise UsageError(f"--output is {text!r}; a path must follow the equals sign", f"-o {form}=report.{form}")
        target = None if path in {"", "-"} else parse_place(path)
        if isinstance(target, Url) and (path.endswith("/") or "//" in path.partition("://")[2]):
            raise UsageError(
                f"--output is {form}={redact(path)}; a report's URL must name a file, with no empty part before",
                f"-o {form}=s3://bucket/report.{form}",
            )
        if target is not None:
            check_target(target, reads)
        if any(target == other for _, other in found):
            raise UsageError(
                f"--output names {redact(path) or 'stdout'} twice; only one document fits there",
                "-o json=report.json",
            )
        found.append((form, target))
    return found


def deliver(
    places: Sequence[Target],
    text: Callable[[str], str],
    render: Callable[[bool], RenderableType],
    color: str,
    *,
    quiet: bool,
) -> None:
    """Write a verb's result to every place, files first; without a format on stdout the terminal report goes there.

    text: the result in a form that is not the terminal's, by its name.
    render: the terminal's; it is told whether there are only ASCII's signs.
    Raises EnvironmentFaultError where a file can't be written.
    """
    from robustcheck_onnx.checker.storage import write

    for form, path in places:
        if path is not None:
            write.write_whole(path, plain(render(False)) if form == "terminal" else text(form))
    on_stdout = [form for form, path in places if path is None]
    if on_stdout and on_stdout != ["terminal"]:
        sys.stdout.write(text(on_stdout[0]))
    elif on_stdout or not quiet:
        print_report(render, color)


def print_report(render: Callable[[bool], RenderableType], color: str) -> None:
    """Write a report to stdout; render is told whether there are only ASCII's signs."""
    console = console_for(color)
    console.print(render(ascii_only(console)))


def check_extra(option: str, path: Path, reads: Sequence[Place], places: Sequence[Target], example: str) -> None:
    """Refuse a path of a file beside the reports that can't serve, before the work starts.

    Raises as `delivery.check_target`, and UsageError where one of the reports goes there.
    """

    check_target(path, reads)
    if any(isinstance(place, Path) and place.resolve() == path.resolve() for _, place in places):
        raise UsageError(f"{option} is {path}, where a report goes too; it must be another file", f"{option} {example}")


def plain(report: RenderableType) -> str:
    """A report as text for a file: 100 columns, no colour."""
    import io

    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=100, no_color=True).print(report)
    return buffer.getvalue()


@contextlib.contextmanager
def progress_line(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A progress line on stderr, only on a terminal: images, rate, and how close the decision is."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = console_for(stderr=True)
    columns = [TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    if console.width >= PROGRESS_WITH_BAR:
        columns = [columns[0], BarColumn(bar_width=24), *columns[1:], TimeRemainingColumn()]
    with Bars(*columns, TextColumn("{task.fields[interval]}"), console=console, transient=True) as bars:
        task = bars.add_task("loading model", total=None, rate="", interval="")

        def show(now: Progress) -> None:
            bars.update(
                task,
                description="checking",
                total=now.n_total,
                completed=now.n_done,
                rate=f"{now.images_per_s:.1f} images/s",
                interval=now.interval,
            )

        yield show
