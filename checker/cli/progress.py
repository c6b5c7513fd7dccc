"""Show on stderr what a run is doing. It is a line that moves on a terminal, else a plain line every ten seconds.

Every module of verbs may import this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from robustcheck_onnx.checker.text import printable

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from robustcheck_onnx.checker.isolation import Progress, Tell

EVERY_S = 10.0  # seconds between two plain lines, and before the first one
WITH_BAR = 110  # columns from which a bar and the time left fit next to the words
STARTING = "starting"


@contextlib.contextmanager
def progress_line(quiet: int, name: str = "") -> Iterator[Tell | None]:
    """Show progress on stderr while the block runs. It has stages, images, rate, and how close the decision is.

    On a terminal a line that moves and goes away at the end. Elsewhere, as in the log of a pipeline, a plain line at
    most every `EVERY_S` seconds, also while a stage takes long; a run that is shorter than that says nothing.

    quiet: 1 or more: nothing is shown, and None is given out. name: of the model, for the plain lines.
    """
    if quiet:
        yield None
    else:
        with _moving(sys.stderr) if sys.stderr.isatty() else _plain(sys.stderr, name) as tell:
            yield tell


def _stage(now: Progress) -> str:
    return now.stage or "measuring"


def _rate(now: Progress) -> str:
    return f"{now.images_per_s:.1f} images/s" if now.images_per_s else ""


@contextlib.contextmanager
def _moving(stream: TextIO) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    # the stream itself: while a library works, sys.stderr may be another one
    console = Console(file=stream, highlight=False)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), TextColumn("{task.fields[count]}")]
    columns.append(TextColumn("{task.fields[rate]}"))
    if console.width >= WITH_BAR:
        columns = [columns[0], BarColumn(bar_width=24), *columns[1:], TimeRemainingColumn()]
    with Bars(*columns, TextColumn("{task.fields[interval]}"), console=console, transient=True) as bars:
        task = bars.add_task(STARTING, total=None, count="", rate="", interval="")

        def show(now: Progress) -> None:
            words = printable(_stage(now))
            is_new = words != bars.tasks[task].description
            bars.update(
                task,
                description=words,
                total=now.n_total or None,
                completed=now.n_done,
                count=f"{now.n_done}/{now.n_total}" if now.n_total else "",
                rate=_rate(now),
                interval=now.interval,
                refresh=is_new,  # however short the stage is
            )

        yield show


@contextlib.contextmanager
def _plain(stream: TextIO, name: str) -> Iterator[Tell]:
    from robustcheck_onnx.checker.isolation import Progress

    latest, ended, clock = deque([Progress(0, 0, 0.0, "", STARTING)], maxlen=1), threading.Event(), time.monotonic()

    def speak() -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr is full or closed: the run itself goes on
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
