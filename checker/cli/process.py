"""Run a verb as a process. The module has streams, signals, the run of a verb, and its end.

The end is an exit code, the error on stderr, error documents in place of reports, and GitHub's annotations.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from ..errors import COMMANDS, RobustcheckError, UsageError, as_error
from ..text import printable
from . import help
from .command_line import DEFAULT_VERB, CommandLine, Invocation, read
from .destinations import Destination, Destinations, fill_stdout, remove_signature
from .output import UndeliveredError, error_document, is_broken_pipe

if TYPE_CHECKING:
    from ..report.record import Outcome


FIRST_SIGNAL_CODE = 128  # of a shell's exit codes: 128 + the signal's number


class Stopped(BaseException):
    """The end by a signal, which unwinds the run so that it removes its temporary files.

    A KeyboardInterrupt would be turned into an exit code by typer.
    """


class Interrupted(Stopped):
    """The interruption by SIGINT."""

    exit_code = 130
    message = "interrupted (SIGINT); there is no verdict, and nothing half-written is left"


class Terminated(Stopped):
    """The termination by SIGTERM."""

    exit_code = 143
    message = "terminated (SIGTERM); there is no verdict, and nothing half-written is left"


def explain(fault: BaseException, line: CommandLine) -> tuple[int, str, str]:
    """Return the exit code, message and hint of an end. Whatever ended the run, no URL in them shows a key."""
    from ..outside.storage.places import redact_text

    if isinstance(fault, TyperException):
        code = 2
        texts = help.explain(fault, line)
    elif is_broken_pipe(fault) and not isinstance(fault, KeyboardInterrupt | Stopped):
        # rich and typer make SystemExit(1) of it, which would read as WARN; what holds no verdict may be cut short
        code = 0 if line.only_informs else 4
        texts = ("", "")
    else:
        end: Any = fault
        if isinstance(fault, KeyboardInterrupt):
            end = Interrupted()
        if not (isinstance(getattr(end, "exit_code", None), int) and end.exit_code > 1):  # the exporters' have one
            end = as_error(end)
        code = end.exit_code
        texts = (getattr(end, "message", str(end)), getattr(end, "hint", ""))
    message, hint = map(redact_text, texts)
    return code, message, hint


def say(message: str, hint: str, *, colour: bool = True) -> None:
    """Write message and hint to stderr, each on a line.

    An empty one is left out. On a terminal they wrap between words, the labels have a colour, and a command that does
    not fit has its own line. A full disk changes no exit code, now or when Python ends.
    """
    stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # while progress is shown
    on_terminal = stream.isatty()
    width = shutil.get_terminal_size().columns
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    colour = colour and on_terminal and not is_plain
    try:
        for label, code, text in (("error:", 31, " ".join(message.split())), ("hint:", 36, hint)):
            shown = f"{label} {printable(text)}"
            if on_terminal and not text.startswith(COMMANDS):
                shown = fill(shown, width, break_long_words=False, break_on_hyphens=False)
            elif on_terminal and len(shown) > width:
                shown = shown.replace(" ", "\n", 1)
            if colour:
                shown = shown.replace(label, f"\x1b[{code}m{label}\x1b[0m", 1)
            if text:
                sys.stderr.write(f"{shown}\n")
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Lead a stream nowhere, for all that is written to it later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_traceback(fault: BaseException) -> None:
    """Write a fault's traceback to stderr, for --debug. No URL in it shows a key."""
    from ..outside.storage.places import redact_text

    text = redact_text("".join(traceback.format_exception(fault)))
    lines = map(printable, text.split("\n"))
    sys.stderr.write("\n".join(lines))


def leave_documents(invocation: Invocation, message: str, hint: str, code: int) -> None:
    """Replace each report by an error in its form, so that no report of an earlier run passes for this one's.

    The signature of such a report goes with it. After a signal nothing goes to stdout or to a URL.
    """
    from ..outside.storage.documents import replace_with_error
    from ..outside.storage.places import Url, parse_place

    line = invocation.line
    stopped = code >= FIRST_SIGNAL_CODE
    stdout_is_free = not stopped
    for form, path in line.documents() if invocation.documents is None else invocation.documents:
        document = error_document(form, message, hint, code, line.model)
        with suppress(RobustcheckError, OSError):  # the error itself is on stderr
            place = parse_place(path) if path else None
            if not document or (stopped and isinstance(place, Url)) or line.reads(path):
                continue
            # a terminal report is for people, who have read stderr: only one of an earlier run is replaced
            if place and (form != "terminal" or (isinstance(place, Path) and place.is_file())):
                with suppress(RobustcheckError, OSError):  # the error itself is on stderr
                    remove_signature(form, place)
                replace_with_error(place, document)
            elif not place and form != "terminal" and stdout_is_free:  # it holds one document
                sys.stdout.write(document)
                sys.stdout.flush()
                stdout_is_free = False
    if line.verb == DEFAULT_VERB and not stopped:
        with suppress(Exception):
            from ..report.record import Failed

            failed = Failed(model=line.model, message=message, hint=hint, exit_code=code)
            enabled = invocation.annotates and "no_ci" not in line.options
            announce([failed], [Destination("json", None)], enabled=enabled)  # to stderr, like the error itself


def announce(
    outcomes: Sequence[Outcome], destinations: Destinations, *, enabled: bool = True, summary: str = ""
) -> None:
    """Annotate models on GitHub Actions, and append the summary to the step's; elsewhere do nothing.

    Annotations go to stdout unless a document goes there; then to stderr, which GitHub reads as well. A summary
    that can't be written gives a note on stderr and changes no exit code.

    Args:
        outcomes: what the run reports.
        destinations: where its reports went.
        enabled: False for `--no-ci`.
        summary: the Markdown report; empty for that of the outcomes.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from ..report import github
    from ..report.model_names import FormOptions

    options = FormOptions()
    stream = sys.stderr if fill_stdout(destinations) else sys.stdout
    for line in github.commands(outcomes, options):
        stream.write(line + "\n")
    stream.flush()
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            path = Path(file)
            used_bytes = path.stat().st_size if path.exists() else 0
            room = github.SUMMARY_BYTES - used_bytes
            text = github.cut(summary, room)
            if not summary:
                text = github.summary(outcomes, options, room)
            with path.open("a", encoding="utf-8") as appended:
                appended.write(text)
            if not text:
                sys.stderr.write("note: GITHUB_STEP_SUMMARY is full (1 MiB); the summary is left out\n")
        except OSError as fault:
            sys.stderr.write(f"note: GITHUB_STEP_SUMMARY is not written ({fault.strerror})\n")


COMPLETION = "_ROBUSTCHECK_COMPLETE"  # variable by which a shell asks for completions
KEYBOARD_INTERRUPT = 130  # what typer returns for one


def run(app: typer.Typer, words: list[str]) -> int:
    """Run a command line; return the exit code (see `EXIT_CODES`), 1 for WARN alone. Raises nothing.

    An error that ends the run is written wherever a report was to go, too (`process.leave_documents`). A verdict that
    can't be delivered is none: the exit code is 4, never 0. Only a reader of stdout that went away (`| head`) gets no
    message.

    app: with the verb `check`. words: those after the program's name. A first word that is not a verb, group or option
    of the app is a model to check.
    """
    if not {"--offline", "--strict"} & set(words):
        return _run(app, words)
    from ..outside.storage.places import LOCAL_ROWS, OFFLINE  # keeps `--help` fast

    before = {variable: os.environ.get(variable) for variable in (OFFLINE, LOCAL_ROWS)}
    # of the environment: for worker processes, and for what is written after an error
    for option, variable in (("--offline", OFFLINE), ("--strict", LOCAL_ROWS)):
        if option in words:
            os.environ[variable] = "1"
    try:
        return _run(app, words)
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _run(app: typer.Typer, words: list[str]) -> int:
    stop = _Stop()
    invocation = Invocation(CommandLine(), interrupted=lambda: stop.came is not None)
    try:
        group = get_command(app)
        assert isinstance(group, TyperGroup)
        verbs = list(group.commands)
        invocation.line = read(words, group)  # first: whatever ends the run must find the documents of an earlier one
        _mend_streams()
        signal.signal(SIGTERM, stop)
        if signal.getsignal(SIGINT) is signal.default_int_handler:  # nohup and `&` have it ignored
            signal.signal(SIGINT, stop)
        try:
            if words:
                os.environ.pop(COMPLETION, None)  # it would end any command with 0, which reads as PASS
                invocation.line = read(with_default_command(words, verbs), group)
        finally:
            if hasattr(signal, "pthread_sigmask"):  # those that came since the start (`__main__`) are answered now
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGINT, SIGTERM})
        if COMPLETION in os.environ:
            help.complete_as_check(os.environ, verbs)
        elif not words:
            with redirect_stdout(sys.stderr):
                group(args=["--help"], prog_name="robustcheck", standalone_mode=False)
            raise UsageError("MODEL.onnx is missing; robustcheck needs a model or a command", "robustcheck demo")
        if twice := invocation.line.twice:
            raise UsageError(f"{twice} is given twice; it takes one value", f"keep one {twice}")
        say("", help.verb_over_models(invocation.line, verbs))
        return _run_verb(group, invocation, stop)
    except BaseException as fault:  # noqa: BLE001 # the one place where errors become words and exit codes
        if isinstance(fault, SystemExit) and fault.code == 0 and invocation.line.verb[:2] in ("", "--"):
            return 0  # shell completion ends this way; a verb never does
        try:
            return _end(stop.reason(fault), invocation)
        except BaseException:  # noqa: BLE001 # stderr is full, or a second signal: only the exit code is left
            return 70


def _run_verb(group: TyperGroup, invocation: Invocation, stop: _Stop) -> int:
    """Let typer run the words; return the exit code, never 0 where the verb did not come to its end."""
    line = invocation.line
    words = list(line.words)
    help.complete_for_shell(words, group, "robustcheck")
    code = group(args=words, prog_name="robustcheck", standalone_mode=False, obj=invocation)
    if code == 1 and line.verb in help.COMPLETION_OPTIONS:  # typer does not know the shell
        raise UsageError(
            f"{line.verb}: the shell that runs this is not known; completion is for {', '.join(help.SHELLS)}",
            f"robustcheck {line.verb} bash",
        )
    if code == KEYBOARD_INTERRUPT:
        raise KeyboardInterrupt
    if stop.came is not None:  # swallowed on its way, as Python swallows what a destructor raises
        raise stop.came
    sys.stdout.flush()
    if not code and "strict" in line.options and not invocation.judged:
        raise UsageError(  # as for `--help`; it would end with 0, which is not a PASS
            "--strict: no model was checked; with --strict exit code 0 is always a verdict",
            f"robustcheck {line.verb} --help",
        )
    return int(code or 0)


def with_default_command(words: list[str], verbs: list[str]) -> list[str]:
    """Insert `check` where no verb is typed.

    `MODEL …` → `check MODEL …`: anything that starts with no verb and no option of the app is a check.

    verbs: the names of commands and of groups of commands.
    Raises UsageError where the first word is almost a verb, and no file, or where something follows `--version`.
    """
    if words[0] in help.VERSION_OPTIONS and words[1:]:  # it would end with 0, which reads as PASS
        option, more, *_ = words
        raise UsageError(f"argument is {more}; {option} takes none", f"robustcheck {option}")
    if words[0] in verbs or words[0].split("=")[0] in help.GROUP_OPTIONS:
        return words
    help.refuse_unknown_verb(words, verbs)
    return [DEFAULT_VERB, *words]


def _end(fault: BaseException, invocation: Invocation) -> int:
    """Report what ended the run; return its exit code. Words and documents report it."""
    try:
        code, message, hint = explain(fault, invocation.line)
    except Exception as failed:  # noqa: BLE001 # of a hint: the documents of an earlier run are replaced all the same
        code, message, hint = explain(failed, invocation.line)
    seen = [fault]
    if isinstance(fault, UndeliveredError):  # the other documents hold the result
        from ..outside.storage.places import as_typed

        seen += fault.faults.values()
        lost = [(d.form, d.path) for d in fault.faults]
        invocation.documents = [(form, as_typed(path) if path else "") for form, path in lost]
    if any(isinstance(e, OSError | SystemExit) and not isinstance(e, RobustcheckError) for e in seen):
        # stdout itself may be the fault: nothing more goes there
        with suppress(OSError, ValueError):
            _silence(sys.stdout)
    if "debug" in invocation.line.options:
        write_traceback(fault)
    if message:
        say(message, hint, colour=invocation.line.options.get("color") != "never")
        leave_documents(invocation, message, hint, code)
    return code


def _mend_streams() -> None:
    """Repair stdout and stderr. stdout must raise where it can't write all, and stderr must exist.

    An unbuffered stdout (PYTHONUNBUFFERED, usual in containers) writes a part to a full disk and drops the rest; a
    closed one (`>&-`) is None. Names that are not valid text are written escaped.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # lives as long as the process
    raw: object
    if sys.stdout is None:
        # open for reading: any write fails, as it must where a report is due
        raw = io.FileIO(os.open(os.devnull, os.O_RDONLY), "w")
        encoding = "utf-8"
    else:
        raw = getattr(sys.stdout, "buffer", None)
        encoding = sys.stdout.encoding
    if isinstance(raw, io.FileIO):
        buffered = io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(buffered, encoding, errors="backslashreplace", line_buffering=raw.isatty())
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Stop:
    """A handler of SIGINT and SIGTERM that raises at the first one and ignores later ones.

    `timeout` and shells send a signal twice, and the second must not disturb the cleaning up.
    """

    def __init__(self) -> None:
        self.came: type[Stopped] | None = None
        """never the exception itself: its frames would keep alive what they hold, such as threads that decode"""

    def __call__(self, number: int, _frame: object) -> None:
        for name in (SIGINT, SIGTERM):
            signal.signal(name, SIG_IGN)
        self.came = Interrupted if number == SIGINT else Terminated
        raise self.came

    def reason(self, fault: BaseException) -> BaseException:
        """Return the signal if one came, else the fault. A compiled module turns a signal into an error of its own."""
        if self.came is None or isinstance(fault, self.came):
            return fault
        return self.came()
