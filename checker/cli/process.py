"""The process around the command line: streams, signals, and the run of a verb.

It knows no verb: the verbs and groups come from the typer app that it is given."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from pathlib import Path

import typer
from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError
from robustcheck_onnx.checker.text import printable

from .ending import _Interrupted, _leave_documents, _Terminated, say, words

COMPLETION = "_ROBUSTCHECK_COMPLETE"  # how a shell asks for completions


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run a command line and return the exit code (see `EXIT_CODES`); never raises, never returns 1 but for WARN.

    arguments: the words after the program's name. Anything but a verb or a group of the app is a model to check.
    With `-o json` an error is a JSON document too, there where the report was to go; after a signal in files only, for
    whoever stops a run waits for no store and reads no stdout. A reader of stdout that went
    away (`| head`) is told nothing, but a verdict that can't be delivered is none: exit 4, never 0.
    """
    if "--offline" not in arguments:
        return _run(app, arguments)
    from robustcheck_onnx.checker.storage import OFFLINE

    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"  # for worker processes, and for what is written after an error
    try:
        return _run(app, arguments)
    finally:
        if before is None:
            del os.environ[OFFLINE]
        else:
            os.environ[OFFLINE] = before


def _run(app: typer.Typer, arguments: list[str]) -> int:
    stop = _Stop()
    try:
        _mend_streams()
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and `&` have it ignored
            signal.signal(signal.SIGINT, stop)
        command = get_command(app)
        assert isinstance(command, TyperGroup)
        try:
            if arguments:
                os.environ.pop(COMPLETION, None)  # it would end any command with 0, which reads as PASS
                arguments = with_default_command(arguments, list(command.commands))
        finally:
            if hasattr(signal, "pthread_sigmask"):  # those that came since the start (`__main__`) are answered now
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        if not arguments and COMPLETION not in os.environ:
            with contextlib.redirect_stdout(sys.stderr):
                command(args=["--help"], prog_name="robustcheck", standalone_mode=False)
        if arguments or COMPLETION not in os.environ:
            arguments = arguments or with_default_command(arguments, list(command.commands))
            from . import usage

            _tell("", usage.verb_over_models(arguments, list(command.commands)))
        from . import usage

        if usage.for_shell(arguments, "robustcheck", COMPLETION):
            return 0
        if not arguments:
            usage.complete_as_check(os.environ, list(command.commands))
        code = command(args=arguments, prog_name="robustcheck", standalone_mode=False)
        if code == 1 and arguments and arguments[0] in usage.OPTIONS:
            raise usage.unknown_shell(arguments[0])
        if code == 130:  # typer's word for KeyboardInterrupt
            raise KeyboardInterrupt
        if stop.came is not None:  # swallowed on its way, as Python swallows what a destructor raises
            raise stop.came
        sys.stdout.flush()
        return int(code or 0)
    except BaseException as fault:  # noqa: BLE001 # the one place where errors become words and exit codes
        if isinstance(fault, SystemExit) and fault.code == 0 and (not arguments or arguments[0].startswith("--")):
            return 0  # shell completion ends this way; a verb never does
        try:
            return _end(stop.reason(fault), arguments)
        except BaseException:  # noqa: BLE001 # stderr is full, or a second signal: only the exit code is left
            return 70


def with_default_command(arguments: list[str], verbs: list[str]) -> list[str]:
    """`MODEL …` → `check MODEL …`: anything that starts with no verb and no option of the group is a check.

    verbs: the names of commands and of groups of commands.
    Raises UsageError: no word at all; a word that is almost a verb, and no file.
    """
    from . import usage

    if not arguments:
        raise UsageError("MODEL.onnx is missing; robustcheck needs a model or a command", "robustcheck model.onnx")
    if arguments[0] in verbs or arguments[0].split("=")[0] in usage.GROUP_OPTIONS:
        return arguments
    if near := usage.near_verb(arguments, verbs):
        raise UsageError(*near)
    return ["check", *arguments]


def _end(fault: BaseException, arguments: list[str]) -> int:
    """Say what ended the run, and return its exit code."""
    code, message, hint = words(fault, arguments)
    if isinstance(fault, OSError | SystemExit) and not isinstance(fault, RobustcheckError):
        # stdout itself may be the fault: nothing more goes there
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "--debug" in arguments:
        from robustcheck_onnx.checker.storage import redact_text

        said = redact_text("".join(traceback.format_exception(fault)))
        sys.stderr.write("\n".join(map(printable, said.split("\n"))))
    if message:
        _tell(message, hint)
        _leave_documents(fault, arguments, message, hint, code)
    return code


def import_native() -> None:
    """Import what is compiled while signals wait: one that meets its import aborts the process (nanobind).

    Then nobody would replace the reports of an earlier run. Called by a verb of whose report somebody may read a PASS,
    before it imports anything else; what can't be imported is told where it is needed.
    """
    held = {signal.SIGINT, signal.SIGTERM}
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        with contextlib.suppress(Exception):
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mend_streams() -> None:
    """Make stdout and stderr tell what they could not write, whatever they are.

    An unbuffered stdout (PYTHONUNBUFFERED, usual in containers) drops what a full disk takes only a part of; a
    closed one (`>&-`) is None. Names that are no text are written escaped.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # lives as long as the process
    raw: object
    if sys.stdout is None:
        # open for reading: any write fails, as it must where a report is due
        raw, encoding = io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"), "utf-8"
    else:
        raw, encoding = getattr(sys.stdout, "buffer", None), sys.stdout.encoding
    if isinstance(raw, io.FileIO):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
        )
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Stop:
    """Unwind once: `timeout` and shells send a signal twice, and the second must not disturb the cleaning up."""

    def __init__(self) -> None:
        self.came: type[_Interrupted | _Terminated] | None = None
        """never the exception itself: its frames would keep alive what they hold, such as threads that decode"""

    def __call__(self, number: int, _frame: object) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        self.came = _Interrupted if number == signal.SIGINT else _Terminated
        raise self.came

    def reason(self, fault: BaseException) -> BaseException:
        """The signal, if one came, with what the fault carries: a compiled module makes its own error of a signal."""
        if self.came is None or isinstance(fault, self.came):
            return fault
        signalled = self.came()
        vars(signalled).update(vars(fault))
        return signalled


def _tell(message: str, hint: str) -> None:
    """`say`; a full disk behind stderr must not change the exit code, now or when Python ends."""
    try:
        say(message, hint)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
