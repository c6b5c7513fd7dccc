"""What ends a run, as words and an exit code, in the terminal and in every document that the run was to write.

On GitHub Actions: annotations and the step summary."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typer.exceptions import TyperException

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError
from robustcheck_onnx.checker.text import printable

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import Outcome

    from .output import Target


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
SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS)
"""What the system says when it, and not the call, is the fault: disk, file, quota or file table full, no rights."""
UNFINISHED = ("the run was killed, or has not ended yet; there is no verdict", "run it again", 137)
"""Message, hint and exit code (a shell's for SIGKILL) of the document that stands until a run has its result."""


class _Interrupted(BaseException):
    """SIGINT: no KeyboardInterrupt, which typer would swallow with what the verb said about its documents."""


class _Terminated(BaseException):
    """SIGTERM: unwinds like _Interrupted, so that temporary files go away."""


def mark_unfinished(places: Sequence[Target], model: str) -> None:
    """Put a document that says so in place of what an earlier run left: who is killed can't say it any more.

    Called when the work starts. Only documents of this tool are replaced; where nothing is, nothing is written before
    there is a result.

    places: from `cli_parts.targets`. model: what they are about, as it was given; empty for several.
    Raises EnvironmentFaultError where an earlier document would stay.
    """
    from robustcheck_onnx.checker.storage import is_ours, replace_with_error, urls

    for form, path in places:
        if path is not None and is_ours(path):
            try:
                replace_with_error(path, _error_document(form, *UNFINISHED, urls.redact(model)))
            except EnvironmentFaultError:
                if is_ours(path):  # else there is no room, and the earlier document is gone at least
                    raise


def _leave_documents(fault: BaseException, arguments: list[str], message: str, hint: str, code: int) -> None:
    """An error document wherever a report was to go, in its form: no report of an earlier run stands for this one.

    The signature of such a report goes with it.
    A verb that takes settings from elsewhere, too, leaves `document_targets` and `no_ci` with the fault.
    """
    from robustcheck_onnx.checker.storage import Url, parse_place, replace_with_error

    from . import usage

    told = stopped = code >= 128
    known = vars(fault)
    for form, path in known.get("document_targets", usage.document_targets(arguments)):
        document = _error_document(form, message, hint, code, usage.model_of(arguments))
        with contextlib.suppress(RobustcheckError, OSError):  # the error itself has been told
            place = parse_place(path) if path else None
            if stopped and isinstance(place, Url):
                continue
            # a terminal report is for people, whom stderr has told: only a stale one is replaced
            if place and document and (form != "terminal" or (isinstance(place, Path) and place.is_file())):
                if form == "json" and isinstance(place, Path):  # none is signed in a store
                    _remove_signature(place)
                replace_with_error(place, document)
            elif not path and document and form != "terminal" and not told:  # stdout holds one document
                sys.stdout.write(document)
                sys.stdout.flush()
                told = True
    if arguments[:1] == ["check"] and not stopped:
        with contextlib.suppress(Exception):
            enabled = not known.get("no_ci", "--no-ci" in arguments)
            announce_error(message, hint, code, usage.model_of(arguments), enabled=enabled)


def _remove_signature(report: Path) -> None:
    """Remove the signed verdict beside a report that an error replaces."""
    from robustcheck_onnx.checker.storage import is_ours
    from robustcheck_onnx.checker.verify import bundle_of, remove_verdict

    with contextlib.suppress(RobustcheckError, OSError):  # the error itself has been told
        if is_ours(report) or not report.exists():  # else nothing is replaced
            remove_verdict(bundle_of(report))


def _error_document(form: str, message: str, hint: str, code: int, model: str) -> str:
    """The error in a report's form; "" for what is no form; plain words where the form itself can't be made."""
    from robustcheck_onnx.checker.text import error_json, error_text

    if form == "json":  # needs nothing that a broken installation may lack
        return error_json(message, hint, code)
    try:
        from robustcheck_onnx.checker.report import forms

        return forms.render_error(form, message, hint, code, model) if form in forms.NAMES else ""
    except Exception:  # noqa: BLE001 # better a document that no reader takes than the PASS of an earlier run
        return error_text(message, hint, code)


def words(fault: BaseException, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, message and hint of whatever ended a run; no URL in them shows a key."""
    from robustcheck_onnx.checker.storage import redact_text

    code, message, hint = _words(fault, arguments)
    return code, redact_text(message), redact_text(hint)


def _words(fault: BaseException, arguments: list[str]) -> tuple[int, str, str]:
    if isinstance(fault, TyperException):
        from . import usage

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


def say(message: str, hint: str) -> None:
    """One line each, on stderr."""
    for label, text in (("error", " ".join(message.split())), ("hint", hint)):
        if text:
            sys.stderr.write(f"{label}: {printable(text)}\n")
    sys.stderr.flush()


def announce(outcomes: Sequence[Outcome], places: Sequence[Target], *, enabled: bool = True) -> None:
    """Annotate the models and append to the step's summary, on GitHub Actions only; it never changes the verdict.

    Annotations go to stdout unless a document goes there; then to stderr, which GitHub reads as well. A summary
    that can't be written is told on stderr.

    Args:
        outcomes: what the run reports.
        places: where its reports went, from `cli_parts.targets`.
        enabled: False for `--no-ci`.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustcheck_onnx.checker.report import SUMMARY_BYTES, forms, github

    options = forms.Options()
    taken = any(path is None and form != "terminal" for form, path in places)
    stream = sys.stderr if taken else sys.stdout
    for line in github.commands(outcomes, options):
        stream.write(line + "\n")
    stream.flush()
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            path = Path(file)
            had = path.stat().st_size if path.exists() else 0
            text = github.summary(outcomes, options, SUMMARY_BYTES - had)
            with path.open("a", encoding="utf-8") as summary:
                summary.write(text)
            if not text:
                sys.stderr.write("note: GITHUB_STEP_SUMMARY is full (1 MiB); the summary is left out\n")
        except OSError as fault:
            sys.stderr.write(f"note: GITHUB_STEP_SUMMARY is not written ({fault.strerror})\n")


def announce_error(message: str, hint: str, exit_code: int, model: str, *, enabled: bool) -> None:
    """The same for a run that ended without a verdict; the annotation goes to stderr, like the error itself.

    model: as it was given; empty where it is not known.
    """
    if not enabled or os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from robustcheck_onnx.checker.report import Failed

    failed = Failed(model=model, message=message, hint=hint, exit_code=exit_code)
    announce([failed], [("json", None)])
