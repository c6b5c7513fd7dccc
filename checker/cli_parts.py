"""What the verbs share beside their options: where output goes, consoles, the progress line.

Light to import: a module of verbs needs this one, and makes its other imports inside its functions.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from robustcheck_onnx.checker.pipeline import Progress

FORMATS = ("terminal", "json")
PROGRESS_WITH_BAR = 110  # columns from which a bar and the time left fit beside the words
Target = tuple[str, Path | None]


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


def one_of(option: str, value: str, valid: Sequence[str]) -> None:
    """Raise UsageError with the closest choice unless the value is one of the valid ones."""
    if value not in valid:
        import difflib

        near = difflib.get_close_matches(value, valid, 1)
        raise UsageError(
            f"{option} is {value!r}; it must be one of {', '.join(valid)}",
            f"{option} {near[0] if near else valid[0]}",
        )


def targets(outputs: Iterable[str], reads: Iterable[Path], formats: Sequence[str] = FORMATS) -> list[Target]:
    """Where each `-o FORMAT[=PATH]` goes: (format, path), path None for stdout.

    reads: files that the run reads; a report must not replace one of them.
    Raises UsageError (no such format, no path after the sign, one place named twice, a path that can't serve),
    EnvironmentFaultError (a folder that can't be written).
    """
    from robustcheck_onnx.checker import delivery, remote

    found: list[Target] = []
    for text in outputs:
        form, separator, path = text.partition("=")
        one_of("--output", form, formats)
        if separator and not path:
            raise UsageError(f"--output is {text!r}; a path must follow the equals sign", f"-o {form}=report.{form}")
        target = None if path in {"", "-"} else Path(path)  # of a URL, too: remote.parse knows what a Path makes of it
        if isinstance(remote.parse(path), remote.Url) and (path.endswith("/") or "//" in path.partition("://")[2]):
            raise UsageError(
                f"--output is {form}={remote.redact(path)}; a report's URL must name a file, with no empty part before",
                f"-o {form}=s3://bucket/report.{form}",
            )
        if target is not None:
            delivery.check_target(target, reads)
        if any(target == other for _, other in found):
            raise UsageError(
                f"--output names {remote.redact(path) or 'stdout'} twice; only one document fits there",
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
    from robustcheck_onnx.checker import delivery

    for form, path in places:
        if path is not None:
            delivery.write_whole(path, plain(render(False)) if form == "terminal" else text(form))
    on_stdout = [form for form, path in places if path is None]
    if on_stdout and on_stdout != ["terminal"]:
        sys.stdout.write(text(on_stdout[0]))
    elif on_stdout or not quiet:
        print_report(render, color)


def print_report(render: Callable[[bool], RenderableType], color: str) -> None:
    """Write a report to stdout; render is told whether there are only ASCII's signs."""
    console = console_for(color)
    console.print(render(ascii_only(console)))


def check_extra(option: str, path: Path, reads: Iterable[Path], places: Sequence[Target], example: str) -> None:
    """Refuse a path of a file beside the reports that can't serve, before the work starts.

    Raises as `delivery.check_target`, and UsageError where one of the reports goes there.
    """
    from robustcheck_onnx.checker import delivery

    delivery.check_target(path, reads)
    if any(place is not None and place.resolve() == path.resolve() for _, place in places):
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
