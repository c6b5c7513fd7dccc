"""Show the progress of a run on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..text import printable

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from ..core.progress import Progress, Tell


EVERY_S = 10.0  # seconds between two plain lines, and before the first one
WITH_BAR = 110  # columns from which a bar and the time left fit next to the words
STARTING = "starting"


@contextmanager
def progress_line(quiet: int, name: str = "") -> Iterator[Tell | None]:
    """Show the progress of one run, as `progress_lines` does. name: for the plain lines."""
    with progress_lines(quiet, several=False) as begin, begin(name) as tell:
        yield tell


@contextmanager
def progress_lines(quiet: int, *, several: bool) -> Iterator[Callable[[str], AbstractContextManager[Tell | None]]]:
    """Show stages, images, rate, and how close the decision is, on stderr while the block runs.

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
                count = f"{now.n_done}/{now.n_total}" if now.n_total else ""
                bars.update(
                    task,
                    description=words,
                    total=now.n_total or None,
                    completed=now.n_done,
                    count=count,
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

    latest = deque([Progress(0, 0, 0.0, "", STARTING)], maxlen=1)
    ended = threading.Event()
    clock = time.monotonic()

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
    """Return a line of a log: the model, how long it has run, and what it does."""
    stage = f"{seconds:.0f} s: {_stage(now)}"
    if name:
        stage = f"{name}: {stage}"
    count = f"{now.n_done} of {now.n_total} images" if now.n_total else ""
    parts = [stage, count, _rate(now), now.interval]
    return printable(", ".join(filter(None, parts)))
