"""The process around the command line: streams, signals, and the run of a verb of a typer app."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import typer
from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError

from . import usage
from .command_line import DEFAULT_VERB, CommandLine, Invocation, read
from .ending import Interrupted, Terminated, explain, leave_documents, say, write_traceback
from .output import UndeliveredError

P = ParamSpec("P")
COMPLETION = "_ROBUSTCHECK_COMPLETE"  # variable by which a shell asks for completions
KEYBOARD_INTERRUPT = 130  # what typer returns for one


def run(app: typer.Typer, words: list[str]) -> int:
    """Run a command line and return the exit code (see `EXIT_CODES`); never raises, never returns 1 but for WARN.

    An error that ends the run is written wherever a report was to go, too (`ending.leave_documents`). A verdict that
    can't be delivered is none: the exit code is 4, never 0. Only a reader of stdout that went away (`| head`) gets no
    message.

    app: with the verb `check`. words: those after the program's name; a first word that is no verb, group or option of
    the app is a model to check.
    """
    if not {"--offline", "--strict"} & set(words):
        return _run(app, words)
    from robustcheck_onnx.checker.storage.places import LOCAL_ROWS, OFFLINE  # keeps `--help` fast

    named = {variable for option, variable in (("--offline", OFFLINE), ("--strict", LOCAL_ROWS)) if option in words}
    before = {variable: os.environ.pop(variable) for variable in named & os.environ.keys()}
    os.environ |= dict.fromkeys(named, "1")  # for worker processes, and for what is written after an error
    try:
        return _run(app, words)
    finally:
        for variable in named:
            os.environ.pop(variable, None)
        os.environ |= before


def _run(app: typer.Typer, words: list[str]) -> int:
    stop = _Stop()
    invocation = Invocation(CommandLine())
    try:
        group = get_command(app)
        assert isinstance(group, TyperGroup)
        verbs = list(group.commands)
        invocation.line = read(words, group)  # first: whatever ends the run must find the documents of an earlier one
        _mend_streams()
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and `&` have it ignored
            signal.signal(signal.SIGINT, stop)
        try:
            if words:
                os.environ.pop(COMPLETION, None)  # it would end any command with 0, which reads as PASS
                words = with_default_command(words, verbs)
                invocation.line = read(words, group)
                words = list(invocation.line.words)
        finally:
            if hasattr(signal, "pthread_sigmask"):  # those that came since the start (`__main__`) are answered now
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        if not words and COMPLETION not in os.environ:
            with contextlib.redirect_stdout(sys.stderr):
                group(args=["--help"], prog_name="robustcheck", standalone_mode=False)
            raise UsageError(
                "MODEL.onnx is missing; robustcheck needs a model or a command",
                "robustcheck model.onnx --images photos/",
            )
        if not words:
            usage.complete_as_check(os.environ, verbs)
        usage.refuse_twice(invocation.line)
        _say("", usage.verb_over_models(invocation.line, verbs))
        if usage.for_shell(words, "robustcheck", COMPLETION):
            return 0
        code = group(args=words, prog_name="robustcheck", standalone_mode=False, obj=invocation)
        if code == 1 and invocation.line.verb in usage.COMPLETION_OPTIONS:
            raise usage.unknown_shell(invocation.line.verb)
        if code == KEYBOARD_INTERRUPT:
            raise KeyboardInterrupt
        if stop.came is not None:  # swallowed on its way, as Python swallows what a destructor raises
            raise stop.came
        sys.stdout.flush()
        if not code and "strict" in invocation.line.options and not invocation.judged:
            raise usage.nothing_judged()
        return int(code or 0)
    except BaseException as fault:  # noqa: BLE001 # the one place where errors become words and exit codes
        if isinstance(fault, SystemExit) and fault.code == 0 and (not words or words[0].startswith("--")):
            return 0  # shell completion ends this way; a verb never does
        try:
            return _end(stop.reason(fault), invocation)
        except BaseException:  # noqa: BLE001 # stderr is full, or a second signal: only the exit code is left
            return 70


def with_default_command(words: list[str], verbs: list[str]) -> list[str]:
    """`MODEL …` → `check MODEL …`: anything that starts with no verb and no option of the app is a check.

    verbs: the names of commands and of groups of commands.
    Raises UsageError where the first word is almost a verb, and no file, or where something follows `--version`.
    """
    if words[0] in usage.VERSION_OPTIONS and words[1:]:  # it would end with 0, which reads as PASS
        raise UsageError(f"argument is {words[1]}; {words[0]} takes none", f"robustcheck {words[0]}")
    if words[0] in verbs or words[0].split("=")[0] in usage.GROUP_OPTIONS:
        return words
    usage.refuse_unknown_verb(words, verbs)
    return [DEFAULT_VERB, *words]


def _end(fault: BaseException, invocation: Invocation) -> int:
    """Say what ended the run, in words and in documents, and return its exit code."""
    code, message, hint = explain(fault, invocation.line)
    faults = fault.faults if isinstance(fault, UndeliveredError) else {}
    if faults:  # the other documents hold the result
        from robustcheck_onnx.checker.storage.places import as_typed

        invocation.documents = [(form, as_typed(path) if path else "") for form, path in faults]
    seen = [each for each in (fault, *faults.values()) if not isinstance(each, RobustcheckError)]
    if any(isinstance(each, OSError | SystemExit) for each in seen):
        # stdout itself may be the fault: nothing more goes there
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "debug" in invocation.line.options:
        write_traceback(fault)
    if message:
        _say(message, hint)
        leave_documents(invocation, message, hint, code)
    return code


def importing_native(verb: Callable[P, int]) -> Callable[P, int]:
    """The verb, with onnx and onnxruntime imported first, while signals wait.

    A signal during their import would abort the process (nanobind), and the reports of an earlier run would stand. What
    can't be imported is an error where it is needed.
    """

    @functools.wraps(verb)
    def run_verb(*args: P.args, **kwargs: P.kwargs) -> int:
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                with contextlib.suppress(Exception):
                    import onnx  # noqa: F401
                    import onnxruntime  # noqa: F401
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return verb(*args, **kwargs)

    return run_verb


def _mend_streams() -> None:
    """Make stdout raise where it can't write all, and stderr exist.

    An unbuffered stdout (PYTHONUNBUFFERED, usual in containers) writes a part to a full disk and drops the rest; a
    closed one (`>&-`) is None. Names that are no valid text are written escaped.
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
    """Handles SIGINT and SIGTERM: raises at the first one, and has later ones ignored.

    `timeout` and shells send a signal twice, and the second must not disturb the cleaning up."""

    def __init__(self) -> None:
        self.came: type[Interrupted | Terminated] | None = None
        """never the exception itself: its frames would keep alive what they hold, such as threads that decode"""

    def __call__(self, number: int, _frame: object) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        self.came = Interrupted if number == signal.SIGINT else Terminated
        raise self.came

    def reason(self, fault: BaseException) -> BaseException:
        """Return the signal, if one came, else the fault: a compiled module turns a signal into an error of its own."""
        return fault if self.came is None or isinstance(fault, self.came) else self.came()


def _say(message: str, hint: str) -> None:
    """`say`; a full disk behind stderr must not change the exit code, now or when Python ends."""
    try:
        say(message, hint)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
