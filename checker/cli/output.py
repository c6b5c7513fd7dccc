"""Write results to files and to stdout, and errors in their place.

Every module of verbs imports this one, so it imports nothing heavy at the top.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import EnvironmentFaultError, as_error
from ..text import VERSION, error_json, error_text
from .destinations import Destination, Destinations, template_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Faults = dict[Destination, BaseException]
"""by document that was not written, why"""


def error_document(form: str, message: str, hint: str, code: int, model: str) -> str:
    """Return the error in a report's form, or as text where that form can't be made; "" for an unknown form."""
    if template_of(form) is not None:  # it may be the template that is at fault
        return error_text(message, hint, code)
    if form == "json":  # needs nothing that a broken installation may lack
        return error_json(message, hint, code)
    try:
        from ..report import forms

        if form not in forms.FORMS:
            return ""
        return forms.render_error(form, message, hint, code, model)
    except Exception:  # noqa: BLE001 # better a document that no reader takes than the PASS of an earlier run
        return error_text(message, hint, code)


class UndeliveredError(EnvironmentFaultError):
    """The error for documents that were not written, each with its own fault. The others hold the result.

    A reader of stdout that went away gets no message.
    """

    def __init__(self, faults: Faults) -> None:
        errors = [as_error(fault) for fault in faults.values() if not is_broken_pipe(fault)]
        hint = errors[0].hint if errors else ""
        super().__init__("; ".join(error.message for error in errors), hint)
        self.faults = faults


def is_broken_pipe(fault: BaseException) -> bool:
    """Return whether stdout's reader went away. Rich makes SystemExit of that."""
    return isinstance(fault, BrokenPipeError) or isinstance(fault.__context__, BrokenPipeError)


def write_files(texts: Mapping[Destination, Callable[[], str]], faults: Faults) -> None:
    """Write each document that goes to a file. A fault takes one document only, and goes to `faults`."""
    from ..outside.storage.documents import write_atomically

    for destination, text in texts.items():
        try:
            if destination.path is not None:
                write_atomically(destination.path, text())
        except Exception as fault:  # noqa: BLE001 # whatever one form is at fault for, the others tell the verdict
            faults[destination] = fault


def print_result(
    destinations: Destinations,
    text: Callable[[str], str],
    render: Callable[..., RenderableType],
    line: Callable[[], str],
    *,
    color: str,
    quiet: int,
    faults: Faults,
) -> None:
    """Write a verb's result to stdout, after its files. Without another form that is the terminal report.

    Args:
        destinations: of all documents.
        text: gives the result as a document of the form that it is called with; not called for `terminal`.
        render: gives the terminal report; called with `ascii_only`.
        line: gives the line of `--quiet`.
        color: of the terminal report.
        quiet: 1: the line instead of the report, unless a destination asks for it; 2: nothing.
        faults: of the files; that of stdout is added.

    Raises UndeliveredError where a document can't be made or written; all the others are then.
    """
    on_stdout = next((d for d in destinations if d.path is None), None)
    try:
        if on_stdout is not None and on_stdout.form != "terminal":
            sys.stdout.write(text(on_stdout.form))
        elif on_stdout is not None or not quiet:
            print_report(render, color)
        elif quiet == 1:
            sys.stdout.write(f"{line()}\n")
        sys.stdout.flush()
    except (Exception, SystemExit) as fault:  # noqa: BLE001 # as in `write_files`
        faults[on_stdout or Destination("terminal", None)] = fault
    if faults:
        raise UndeliveredError(faults) from next(iter(faults.values()))


def print_report(render: Callable[..., RenderableType], color: str) -> None:
    """Write a report to stdout. `render` is called with `ascii_only`."""
    console = console_for(color)
    console.print(render(ascii_only=ascii_only(console)), crop=False)


def plain(report: RenderableType) -> str:
    """Return a report as text for a file, without colour, in 100 columns, with the tool's name on top."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=100, no_color=True).print(report, crop=False)
    text = buffer.getvalue()
    return text if text.startswith("robustcheck ") else f"robustcheck {VERSION}\n{text}"


def console_for(color: str = "auto") -> Console:
    """Return a rich console for stdout, as wide as the terminal; without a terminal as COLUMNS, else 120."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    # rich would fall back to 80 columns, too few for paths and digests
    width = 120 if piped else None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal():
        width = int(columns)
    return Console(
        width=width,
        highlight=False,
        soft_wrap=False,
        force_terminal=color == "always" or None,
        no_color={"never": True, "always": False}.get(color),  # --color counts before NO_COLOR
    )


def ascii_only(console: Console) -> bool:
    """Return whether the console shows only ASCII."""
    encoding = (console.file.encoding or "ascii") if hasattr(console.file, "encoding") else "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


def say_home(quiet: int) -> None:
    """Note on stderr that the project has no address yet. The kind of statement is named by it."""
    from ..report.attestation import HOME_NOTE

    if HOME_NOTE and quiet < 2:
        sys.stderr.write(f"note: {HOME_NOTE}\n")
