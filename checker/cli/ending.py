"""The end of a run: its exit code, the error on stderr, error documents in place of reports, GitHub's annotations."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typer.exceptions import TyperException

from robustcheck_onnx.checker.errors import RobustcheckError, as_error
from robustcheck_onnx.checker.text import printable

from .command_line import DEFAULT_VERB, CommandLine, Invocation
from .output import Destination, error_document, is_broken_pipe, remove_signature

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import Outcome


FIRST_SIGNAL_CODE = 128  # of a shell's exit codes: 128 + the signal's number


class Interrupted(BaseException):
    """SIGINT came. No KeyboardInterrupt: typer would turn that into an exit code."""


class Terminated(BaseException):
    """SIGTERM came. Raised so that the run unwinds and removes its temporary files."""


def explain(fault: BaseException, line: CommandLine) -> tuple[int, str, str]:
    """The exit code, message and hint for whatever ended a run; no URL in them shows a key."""
    from robustcheck_onnx.checker.storage.places import redact_text

    code, message, hint = _explain(fault, line)
    return code, redact_text(message), redact_text(hint)


def _explain(fault: BaseException, line: CommandLine) -> tuple[int, str, str]:
    if isinstance(fault, TyperException):
        from . import usage

        return 2, *usage.explain(fault, line)
    if isinstance(fault, KeyboardInterrupt | Interrupted):
        return 130, "interrupted (SIGINT); there is no verdict, and nothing half-written is left", ""
    if isinstance(fault, Terminated):
        return 143, "terminated (SIGTERM); there is no verdict, and nothing half-written is left", ""
    if is_broken_pipe(fault):
        # rich and typer make SystemExit(1) of it, which would read as WARN; what holds no verdict may be cut short
        return 0 if line.only_informs else 4, "", ""
    code = getattr(fault, "exit_code", None)
    if isinstance(code, int) and code > 1:
        return code, getattr(fault, "message", str(fault)), getattr(fault, "hint", "")
    error = as_error(fault)
    return error.exit_code, error.message, error.hint


def say(message: str, hint: str) -> None:
    """Write message and hint to stderr, one line each; an empty one is left out."""
    for label, text in (("error", " ".join(message.split())), ("hint", hint)):
        if text:
            sys.stderr.write(f"{label}: {printable(text)}\n")
    sys.stderr.flush()


def write_traceback(fault: BaseException) -> None:
    """Write a fault's traceback to stderr, for --debug; no URL in it shows a key."""
    from robustcheck_onnx.checker.storage.places import redact_text

    text = redact_text("".join(traceback.format_exception(fault)))
    sys.stderr.write("\n".join(map(printable, text.split("\n"))))


def leave_documents(invocation: Invocation, message: str, hint: str, code: int) -> None:
    """Put an error document wherever a report was to go, in its form: no report of an earlier run stands for this one.

    The signature of such a report goes with it. After a signal nothing goes to stdout or to a URL.
    """
    from robustcheck_onnx.checker.storage.places import Url, parse_place
    from robustcheck_onnx.checker.storage.write import replace_with_error

    line = invocation.line
    stopped = code >= FIRST_SIGNAL_CODE
    stdout_is_free = not stopped
    for form, path in line.documents() if invocation.documents is None else invocation.documents:
        document = error_document(form, message, hint, code, line.model)
        with contextlib.suppress(RobustcheckError, OSError):  # the error itself is on stderr
            place = parse_place(path) if path else None
            if not document or (stopped and isinstance(place, Url)):
                continue
            # a terminal report is for people, who have read stderr: only one of an earlier run is replaced
            if place and (form != "terminal" or (isinstance(place, Path) and place.is_file())):
                with contextlib.suppress(RobustcheckError, OSError):  # the error itself is on stderr
                    remove_signature(form, place)
                replace_with_error(place, document)
            elif not place and form != "terminal" and stdout_is_free:  # it holds one document
                sys.stdout.write(document)
                sys.stdout.flush()
                stdout_is_free = False
    if line.verb == DEFAULT_VERB and not stopped:
        with contextlib.suppress(Exception):
            from robustcheck_onnx.checker.report import Failed

            failed = Failed(model=line.model, message=message, hint=hint, exit_code=code)
            enabled = "no_ci" not in line.options if invocation.annotates is None else invocation.annotates
            announce([failed], [Destination("json", None)], enabled=enabled)  # to stderr, like the error itself


def announce(outcomes: Sequence[Outcome], destinations: Sequence[Destination], *, enabled: bool = True) -> None:
    """On GitHub Actions, annotate the models and append to the step summary; elsewhere do nothing.

    Annotations go to stdout unless a document goes there; then to stderr, which GitHub reads as well. A summary
    that can't be written gives a note on stderr and changes no exit code.

    Args:
        outcomes: what the run reports.
        destinations: where its reports went.
        enabled: False for `--no-ci`.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustcheck_onnx.checker.report import SUMMARY_BYTES, forms, github

    options = forms.FormOptions()
    document_on_stdout = any(path is None and form != "terminal" for form, path in destinations)
    stream = sys.stderr if document_on_stdout else sys.stdout
    for line in github.commands(outcomes, options):
        stream.write(line + "\n")
    stream.flush()
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            path = Path(file)
            used_bytes = path.stat().st_size if path.exists() else 0
            text = github.summary(outcomes, options, SUMMARY_BYTES - used_bytes)
            with path.open("a", encoding="utf-8") as summary:
                summary.write(text)
            if not text:
                sys.stderr.write("note: GITHUB_STEP_SUMMARY is full (1 MiB); the summary is left out\n")
        except OSError as fault:
            sys.stderr.write(f"note: GITHUB_STEP_SUMMARY is not written ({fault.strerror})\n")
