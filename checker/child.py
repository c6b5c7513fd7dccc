"""Run the child process of the wall (`isolation`), which calls one function after the other and answers in JSON.

Requests come as lines on stdin, messages go as lines to what was stdout: {"progress": …}, {"log": …}, and last
{"answer": …} or {"error": …}. Whatever else writes to stdout goes to stderr.
"""

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import asdict
from importlib import import_module
from logging import LogRecord
from pathlib import Path
from queue import SimpleQueue
from signal import SIG_IGN, SIGINT, SIGTERM
from typing import Any, BinaryIO, get_args, get_type_hints

from .core.progress import LOG, Progress, Tell
from .errors import CannotAssessError, RobustcheckError, as_error
from .outside.isolation import PACKAGE
from .text import Fields

FOLDER = Path(__file__).parent
LIFETIME = 1  # PR_SET_PDEATHSIG of prctl(2)
TASKS = (
    "outside.image_sets.open:count_images",
    "outside.image_sets.thumbnails:make_thumbnails",
    "outside.workers:measure_all",
    "questions.check:check_stored",
    "questions.compare.run:compare",
    "questions.concepts.run:concepts",
    "questions.directions.run:directions",
    "questions.inspection.run:inspected",
    "questions.scan.run:scan",
    "questions.shift.run:measure_shift",
    "report.check:read_one",
    "report.template:render",
    "trust.verify.run:read_report",
    "trust.verify.run:report_about",
    "trust.verify.run:verify",
)
"""every function that a child calls: its module in this package, and its name"""


def main() -> int:
    """Serve until stdin ends, because the parent has closed it or is gone."""
    if sys.stderr is None:  # it was closed (`2>&-`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(SIGINT, SIG_IGN)  # Ctrl-C reaches the parent, too, and that one decides
    signal.signal(SIGTERM, _end)
    _end_with_parent()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGINT, SIGTERM})
    folders: list[str] = []
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests, folders), daemon=True).start()
    fault = _import_all()
    while True:
        request = json.loads(requests.get())
        if folder := request["folder"]:
            folders.append(folder)
            tempfile.tempdir = folder
        os.environ.clear()
        os.environ.update(request["variables"])
        _answer(request, fault, answers)


def _import_all() -> Exception | None:
    """Import what every task needs, before one comes; return what can't be imported, which is the task's error.

    Nothing of it becomes garbage: looking for some meanwhile took a sixth of the time.
    """
    gc.disable()
    try:
        import onnxruntime  # noqa: F401, PLC0415

        from .questions import check as pipeline  # noqa: F401, PLC0415
    except Exception as fault:  # noqa: BLE001 # a broken installation is told as the task's error
        return fault
    finally:
        gc.freeze()
        gc.enable()
    return None


def _read(requests: SimpleQueue[bytes], folders: list[str]) -> None:
    with os.fdopen(os.dup(0), "rb") as lines:  # of its own: Python can't end while a thread holds that of sys.stdin
        while line := lines.readline():
            requests.put(line)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # at once, whatever the main thread is at: nobody waits for its answer


def _end(number: int, _frame: object) -> None:
    signal.signal(number, SIG_IGN)
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Let Linux kill this process with its parent, even where native code never releases Python's lock."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 # on Linux only

        ctypes.CDLL(None).prctl(LIFETIME, signal.SIGKILL)


def _answer(request: Fields, fault: Exception | None, answers: BinaryIO) -> None:
    lock = threading.Lock()

    def send(kind: str, content: object) -> None:
        line = json.dumps({kind: content}, allow_nan=False).encode("ascii")
        with lock:
            answers.write(line + b"\n")
            answers.flush()

    def tell(now: Progress) -> None:
        send("progress", asdict(now))

    def log(record: LogRecord) -> bool:
        send("log", {"level": record.levelno, "text": record.getMessage()})
        return False

    LOG.setLevel(request["log"])
    LOG.addFilter(log)
    try:
        if fault is not None:
            raise fault
        send("answer", call(request["task"], request["arguments"], tell))
    except Exception as error:  # noqa: BLE001 # told as the task's error
        shown = as_error(error)
        if shown.exit_code == RobustcheckError.exit_code and request["about"]:
            shown = _broken_by(request["about"], error)
        content = {"exit_code": shown.exit_code, "message": shown.message, "hint": shown.hint}
        send("error", content | {"traceback": traceback.format_exc()})
    finally:
        LOG.removeFilter(log)


def _broken_by(about: str, error: Exception) -> CannotAssessError:
    """Return the error of a file that broke the reader, where an exception in our code is a property of that file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if FOLDER in Path(frame.filename).parents]
    place = Path(frames[-1].filename).relative_to(FOLDER) if frames else "the child process"
    return CannotAssessError(
        f"{about}: this file broke the reader ({type(error).__name__} in {place})",
        "run again with --debug, and report the traceback",
    )


def call(task: str, arguments: Fields, tell: Tell) -> Any:
    """Call one of TASKS, whose annotations turn JSON values into records; return its answer as JSON values."""
    from pydantic import TypeAdapter  # noqa: PLC0415 # imported with the task

    module, _, name = TASKS[TASKS.index(task)].partition(":")
    function = getattr(import_module(PACKAGE + module), name)
    hints = get_type_hints(function)
    values = {name: _as_annotated(hints.get(name), value) for name, value in arguments.items()}
    for name, value in (("isolate", False), ("progress", tell)):
        if name in hints:
            values[name] = value
    answer = function(**values)
    return TypeAdapter(hints["return"]).dump_python(answer, mode="json")


def _as_annotated(hint: Any, value: Any) -> Any:
    """Turn a JSON value into the annotated type, unless it is of that type already, such as a text."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    if hint is None or value is None or type(value) in get_args(hint):
        return value
    return TypeAdapter(hint).validate_python(value)
