"""The process around the command line: streams, signals, and what ends a run as words and an exit code.

`run` is all of it. It knows no verb: the verbs and groups come from the typer app that it is given.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.escape import printable
from robustcheck_onnx.checker.remote import OFFLINE

if TYPE_CHECKING:
    from robustcheck_onnx.checker.cli_parts import Target

EXIT_CODES = {
    0: "PASS: the indication is present",
    1: "WARN: absent or not established; the report says why",
    2: "usage: an argument or a configuration file is wrong",
    3: "could not assess: no readable model, no usable image, no finite representation",
    4: "environment: an execution provider, memory, disk space or an extra is missing",
    70: "internal error: please report it",
    130: "interrupted (SIGINT)",
    143: "terminated (SIGTERM)",
}
COMPLETION = "_ROBUSTCHECK_COMPLETE"  # how a shell asks for completions
SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS)
"""What the system says when it, and not the call, is the fault: disk, file, quota or file table full, no rights."""
UNFINISHED = ("the run was killed, or has not ended yet; there is no verdict", "run it again", 137)
"""Message, hint and exit code (a shell's for SIGKILL) of the document that stands until a run has its result."""


class _Interrupted(BaseException):
    """SIGINT: no KeyboardInterrupt, which typer would swallow with what the verb said about its documents."""


class _Terminated(BaseException):
    """SIGTERM: unwinds like _Interrupted, so that temporary files go away."""


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run a command line and return the exit code (see EXIT_CODES); never raises, never returns 1 but for WARN.

    arguments: the words after the program's name. Anything but a verb or a group of the app is a model to check.
    With `-o json` an error is a JSON document too, there where the report was to go; after a signal in files only, for
    whoever stops a run waits for no store and reads no stdout. A reader of stdout that went
    away (`| head`) is told nothing, but a verdict that can't be delivered is none: exit 4, never 0.
    """
    if "--offline" not in arguments:
        return _run(app, arguments)
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
            from robustcheck_onnx.checker import usage

            _tell("", usage.verb_over_models(arguments, list(command.commands)))
        from robustcheck_onnx.checker import cli_completion

        if cli_completion.for_shell(arguments, "robustcheck", COMPLETION):
            return 0
        if not arguments:
            cli_completion.complete_as_check(os.environ, list(command.commands))
        code = command(args=arguments, prog_name="robustcheck", standalone_mode=False)
        if code == 1 and arguments and arguments[0] in cli_completion.OPTIONS:
            raise cli_completion.unknown_shell(arguments[0])
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
    from robustcheck_onnx.checker import usage

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
        from robustcheck_onnx.checker.remote import redact_text

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


def mark_unfinished(places: Sequence[Target], model: str) -> None:
    """Put a document that says so in place of what an earlier run left: who is killed can't say it any more.

    Called when the work starts. Only documents of this tool are replaced; where nothing is, nothing is written before
    there is a result.

    places: from `cli_parts.targets`. model: what they are about, as it was given; empty for several.
    Raises EnvironmentFaultError where an earlier document would stay.
    """
    from robustcheck_onnx.checker import delivery, remote

    for form, path in places:
        if path is not None and delivery.is_ours(path):
            try:
                delivery.replace_with_error(path, _error_document(form, *UNFINISHED, remote.redact(model)))
            except EnvironmentFaultError:
                if delivery.is_ours(path):  # else there is no room, and the earlier document is gone at least
                    raise


def _leave_documents(fault: BaseException, arguments: list[str], message: str, hint: str, code: int) -> None:
    """An error document wherever a report was to go, in its form: no report of an earlier run stands for this one.

    The signature of such a report goes with it.
    A verb that takes settings from elsewhere, too, leaves `document_targets` and `no_ci` with the fault.
    """
    from robustcheck_onnx.checker import delivery, remote, usage

    told = stopped = code >= 128
    known = vars(fault)
    for form, path in known.get("document_targets", usage.document_targets(arguments)):
        document = _error_document(form, message, hint, code, usage.model_of(arguments))
        with contextlib.suppress(RobustcheckError, OSError):  # the error itself has been told
            if stopped and isinstance(remote.parse(path), remote.Url):
                continue
            # a terminal report is for people, whom stderr has told: only a stale one is replaced
            if path and document and (form != "terminal" or Path(path).is_file()):
                if form == "json":
                    _remove_signature(Path(path))
                delivery.replace_with_error(Path(path), document)
            elif not path and document and form != "terminal" and not told:  # stdout holds one document
                sys.stdout.write(document)
                sys.stdout.flush()
                told = True
    if arguments[:1] == ["check"] and not stopped:
        from robustcheck_onnx.checker import cli_ci

        with contextlib.suppress(Exception):
            enabled = not known.get("no_ci", "--no-ci" in arguments)
            cli_ci.announce_error(message, hint, code, usage.model_of(arguments), enabled=enabled)


def _remove_signature(report: Path) -> None:
    """Remove the signed verdict beside a report that an error replaces."""
    from robustcheck_onnx.checker import delivery, remote, signing

    with contextlib.suppress(RobustcheckError, OSError):  # the error itself has been told
        if isinstance(remote.parse(report), remote.Url):  # none is signed there
            return
        if delivery.is_ours(report) or not report.exists():  # else nothing is replaced
            signing.remove_verdict(signing.bundle_of(report))


def _error_document(form: str, message: str, hint: str, code: int, model: str) -> str:
    """The error in a report's form; "" for what is no form; plain words where the form itself can't be made."""
    from robustcheck_onnx.checker import delivery

    if form == "json":  # needs nothing that a broken installation may lack
        return delivery.error_json(message, hint, code)
    try:
        from robustcheck_onnx.checker import formats

        return formats.render_error(form, message, hint, code, model) if form in formats.NAMES else ""
    except Exception:  # noqa: BLE001 # better a document that no reader takes than the PASS of an earlier run
        return delivery.error_text(message, hint, code)


def words(fault: BaseException, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, message and hint of whatever ended a run; no URL in them shows a key."""
    from robustcheck_onnx.checker.remote import redact_text

    code, message, hint = _words(fault, arguments)
    return code, redact_text(message), redact_text(hint)


def _words(fault: BaseException, arguments: list[str]) -> tuple[int, str, str]:
    if isinstance(fault, TyperException):
        from robustcheck_onnx.checker import usage

        return 2, *usage.explain(fault, arguments)
    if isinstance(fault, KeyboardInterrupt | _Interrupted):
        return 130, "interrupted (SIGINT); there is no verdict, and nothing half-written is left", ""
    if isinstance(fault, _Terminated):
        return 143, "terminated (SIGTERM); there is no verdict, and nothing half-written is left", ""
    if isinstance(fault, BrokenPipeError) or isinstance(fault.__context__, BrokenPipeError):
        return 4, "", ""  # rich and typer make SystemExit(1) of it, which would read as WARN
    code = getattr(fault, "exit_code", None)
    if isinstance(code, int) and code > 1:
        return code, getattr(fault, "message", str(fault)), getattr(fault, "hint", "")
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno == errno.ENOMEM):
        return 4, "memory: the process ran out of it; model and batch must fit", "free -h"
    if isinstance(fault, RuntimeError) and str(fault) == "can't start new thread":  # CPython has no class for it
        return 4, "threads: no more can be started; memory and the number of processes must allow some", "ulimit -v -u"
    if isinstance(fault, ImportError):
        name = fault.name or "a package"
        return 4, f"{name}: package is not importable ({fault}); the installation must be whole", "pip check"
    if isinstance(fault, OSError) and fault.errno == errno.EBADF:
        return (
            4,
            "stdout is closed; a report must have somewhere to go",
            "robustcheck model.onnx -o json=report.json -q",
        )
    if isinstance(fault, OSError) and fault.errno in SCARCE:
        where, rule = fault.filename or "stdout", "space, quota, open files and rights must suffice"
        return 4, f"{where}: system says {fault.strerror}; {rule}", "df -h; ulimit -a"
    text = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
    return 70, f"internal error: {text}", "run again with --debug and report the traceback"


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


def say(message: str, hint: str) -> None:
    """One line each, on stderr."""
    for label, text in (("error", " ".join(message.split())), ("hint", hint)):
        if text:
            sys.stderr.write(f"{label}: {printable(text)}\n")
    sys.stderr.flush()
