"""The child process behind the wall (`isolation`): does one task after the other and answers in JSON.

Requests come as lines on stdin, messages go as lines to what was stdout: {"progress": …}, {"log": …}, and last
{"answer": …} or {"error": …}. Whatever else writes to stdout goes to stderr.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import CannotAssessError, RobustcheckError, as_error
from .isolation import LOG

if TYPE_CHECKING:
    from robustcheck_onnx.checker.progress import Progress, Tell

INTERNAL = RobustcheckError.exit_code
PACKAGE = Path(__file__).parent
LIFETIME = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> int:
    """Serve until stdin ends: the parent closed it, or is gone."""
    if sys.stderr is None:  # it was closed (`2>&-`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, and that one decides
    signal.signal(signal.SIGTERM, _end)
    _end_with_parent()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    folders: list[str] = []
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, folders), daemon=True).start()
    fault = _import_all()
    while True:
        request = json.loads(requests.get())
        if folder := request["folder"]:
            folders.append(folder)
            tempfile.tempdir = folder
        os.environ.update(request["variables"])
        _answer(request, fault, answers)


def _import_all() -> Exception | None:
    """Import what every task needs, before one comes. What can't be imported is the task's error.

    Nothing of it becomes garbage: looking for some meanwhile took a sixth of the time.
    """
    gc.disable()
    try:
        import onnxruntime  # noqa: F401, PLC0415

        from robustcheck_onnx.checker import pipeline  # noqa: F401, PLC0415
    except Exception as fault:  # noqa: BLE001 # a broken installation is told as the task's error
        return fault
    finally:
        gc.freeze()
        gc.enable()
    return None


def _read(requests: queue.SimpleQueue[bytes], folders: list[str]) -> None:
    with os.fdopen(os.dup(0), "rb") as lines:  # of its own: Python can't end while a thread holds that of sys.stdin
        while line := lines.readline():
            requests.put(line)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # at once, whatever the main thread is at: nobody waits for its answer


def _end(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent ends, even where native code holds Python's lock for ever."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 # on Linux only

        ctypes.CDLL(None).prctl(LIFETIME, signal.SIGKILL)


def _answer(request: Mapping[str, Any], fault: Exception | None, answers: BinaryIO) -> None:
    lock = threading.Lock()

    def send(kind: str, content: object) -> None:
        line = json.dumps({kind: content}, allow_nan=False).encode("ascii")
        with lock:
            answers.write(line + b"\n")
            answers.flush()

    def tell(now: Progress) -> None:
        send("progress", asdict(now))

    handler = _Sender(lambda record: send("log", {"level": record.levelno, "text": record.getMessage()}))
    LOG.setLevel(request["log"])
    LOG.addHandler(handler)
    try:
        if fault is not None:
            raise fault
        send("answer", TASKS[request["task"]](request["arguments"], tell))
    except Exception as error:  # noqa: BLE001 # told as the task's error
        told = as_error(error)
        if told.exit_code == INTERNAL and request["about"]:
            told = _broken_by(request["about"], error)
        text = traceback.format_exc()
        kind, content = "error", {"exit_code": told.exit_code, "message": told.message, "hint": told.hint}
        send(kind, {**content, "traceback": text})
    finally:
        LOG.removeHandler(handler)


def _broken_by(about: str, error: Exception) -> CannotAssessError:
    """Return the error of a file that an exception of ours came up in: a property of that file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(frame.filename).parents]
    place = Path(frames[-1].filename).relative_to(PACKAGE) if frames else "the child process"
    return CannotAssessError(
        f"{about}: this file broke the reader ({type(error).__name__} in {place})",
        "run again with --debug, and report the traceback",
    )


class _Sender(logging.Handler):
    def __init__(self, send: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(record)


# ------------------------------------------------------------------------------------------------ tasks


def _check(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.pipeline import check  # noqa: PLC0415 # a task imports what it needs
    from robustcheck_onnx.thresholds.profile import Profile  # noqa: PLC0415

    profile = Profile.model_validate(arguments.pop("thresholds"))
    options, model = arguments.pop("options"), _model(arguments.pop("model"), arguments.pop("from_memory"))
    report = check(model, **arguments, thresholds=profile, isolate=False, progress=tell, **options)
    return report.model_dump(mode="json")


def _model(name: str, from_memory: str) -> Any:
    """The model as the caller gave it: bytes and a ModelProto came in a file."""
    if not from_memory:
        return name
    import onnx  # noqa: PLC0415

    content = Path(name).read_bytes()
    return content if from_memory == "bytes" else onnx.ModelProto.FromString(content)


def _compare(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.compare import Baseline, FirstBaseline, compare  # noqa: PLC0415
    from robustcheck_onnx.thresholds.profile import Profile  # noqa: PLC0415

    baseline = arguments.pop("baseline")
    if isinstance(baseline, dict):
        baseline = Baseline.model_validate(baseline)
    profile, options = Profile.model_validate(arguments.pop("thresholds")), arguments.pop("options")
    report = compare(**arguments, baseline=baseline, thresholds=profile, isolate=False, progress=tell, **options)
    if isinstance(report, FirstBaseline):
        return report.model_dump(mode="json")
    return {"report": report.model_dump(mode="json"), "next_baseline": report.next_baseline.model_dump(mode="json")}


def _question(name: str, arguments: dict[str, Any], tell: Tell) -> Any:
    """The room and its function have one name."""
    function, options = getattr(import_module(f"robustcheck_onnx.checker.{name}"), name), arguments.pop("options")
    return function(**arguments, isolate=False, progress=tell, **options).model_dump(mode="json")


def _shift(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.report import Report  # noqa: PLC0415
    from robustcheck_onnx.checker.shift import measure_shift  # noqa: PLC0415

    report, options = arguments.pop("report"), arguments.pop("options")
    if isinstance(report, dict):
        report = Report.model_validate(report)
    return measure_shift(**arguments, report=report, isolate=False, progress=tell, **options).model_dump(mode="json")


def _inspect(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.inspection.run import inspect_json, inspect_model  # noqa: PLC0415
    from robustcheck_onnx.thresholds.profile import Profile  # noqa: PLC0415

    del tell
    path, profile = Path(arguments.pop("path")), Profile.model_validate(arguments.pop("profile"))
    return inspect_json(inspect_model(path, profile, **arguments))


def _verify(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.verify import verify  # noqa: PLC0415

    today = date.fromisoformat(arguments.pop("today"))
    return verify(**arguments, today=today, isolate=False, progress=tell).model_dump(mode="json")


def _report_about(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.verify import report_about  # noqa: PLC0415

    del tell
    report = report_about(Path(arguments["report_file"]), Path(arguments["model"]), isolate=False)
    return report.model_dump(mode="json")


def _measure_all(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.evidence import Options  # noqa: PLC0415
    from robustcheck_onnx.checker.measure import Job, measure_all  # noqa: PLC0415
    from robustcheck_onnx.thresholds.profile import Profile  # noqa: PLC0415

    del tell
    named = arguments["named"]
    job = Job(Path(arguments["model"]), Options(**arguments["options"]), named if named is None else tuple(named))
    evidence = measure_all(job, Profile.model_validate(arguments["thresholds"]), threads=arguments["threads"])
    return [each.model_dump(mode="json") for each in evidence]


def _open_images(arguments: dict[str, Any], tell: Tell) -> None:
    from robustcheck_onnx.checker.images.source import open_images  # noqa: PLC0415

    del tell
    open_images(arguments["images"], seed=arguments["seed"], limit=arguments["limit"])


def _thumbnails(arguments: dict[str, Any], tell: Tell) -> Any:
    from robustcheck_onnx.checker.report import Report  # noqa: PLC0415
    from robustcheck_onnx.checker.report.html import thumbnails  # noqa: PLC0415

    del tell
    reports = [Report.model_validate(each) for each in arguments["reports"]]
    return asdict(thumbnails.make(reports, arguments["images"], seed=arguments["seed"], limit=arguments["limit"]))


def _template(arguments: dict[str, Any], tell: Tell) -> str:
    from robustcheck_onnx.checker.report import template  # noqa: PLC0415

    del tell
    return template.render(arguments["documents"], Path(arguments["file"]), into_file=arguments["into_file"])


TASKS: Mapping[str, Callable[[dict[str, Any], Tell], Any]] = {
    "check": _check,
    "compare": _compare,
    "concepts": partial(_question, "concepts"),
    "directions": partial(_question, "directions"),
    "inspect": _inspect,
    "measure_all": _measure_all,
    "report_about": _report_about,
    "scan": partial(_question, "scan"),
    "shift": _shift,
    "verify": _verify,
    "open_images": _open_images,
    "template": _template,
    "thumbnails": _thumbnails,
}
"""What a child can do, by name."""
