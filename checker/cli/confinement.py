"""Keep what a settings file or a checkout names for writing in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import quoted

if TYPE_CHECKING:
    from .settings import Resolved
from .destinations import Destinations, follows_link, may_write, refuse_report, split


def folder_of(resolved: Resolved, key: str) -> Path | None:
    """Return the folder that outputs and the log must stay in: that of the settings file which names them.

    With --strict it is the current folder, where a variable names them.
    """
    if resolved.file is not None and resolved.is_from("file", key):
        return Path(resolved.file).parent
    return Path() if resolved.settings.strict and resolved.is_from("variable", key) else None


def check_outputs(resolved: Resolved, outputs: Iterable[str]) -> None:
    """Refuse places for documents, each FORM[=PATH], before anything is opened. Raises UsageError."""
    from ..outside.storage.places import redact

    for text in outputs:
        form, _, path = split(text)
        if path not in ("", "-"):
            shown = redact(path)
            again = f"-o {form}={quoted(shown)}"
            refuse_unsafe(resolved, path, f"output is {form}={shown}", again, "output")


def check_log(resolved: Resolved, destinations: Destinations) -> None:
    """Refuse the place of the log, as `check_outputs`, and that of a report."""
    name = resolved.settings.log_file
    if name is None:
        return
    again = f"--log-file {quoted(name)}"
    refuse_unsafe(resolved, name, f"log-file is {name}", again, "log-file")
    refuse_report("--log-file", name, destinations, "robustcheck.log")


def refuse_unsafe(resolved: Resolved, path: str, label: str, again: str, *keys: str) -> None:
    """Refuse a place for an output that a settings file may not name, or that a link leads to.

    Args:
        resolved: the settings.
        path: the place.
        label: names the place in errors.
        again: names it on the command line, which may name any place.
        keys: of the settings that name the place; it must stay in the folder of the first one.
    """
    folder = folder_of(resolved, keys[0])
    if folder is not None and not may_write(path, folder):
        raise UsageError(
            f"{resolved.file or 'environment'}: {label}; a settings file may only name files in its folder, without "
            "links that leave it",
            f"{again}  # the command line may name any place",
        )
    is_untrusted = resolved.settings.strict or resolved.is_from("file", *keys)
    if folder is None and is_untrusted and follows_link(path):
        raise UsageError(
            f"{label}, which follows a link; a link in a checkout can lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )
