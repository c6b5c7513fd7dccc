"""Keep what a settings file or a checkout names for writing in its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import Texts, quoted

if TYPE_CHECKING:
    from .settings import Resolved
from .destinations import Destinations, follows_link, may_write, split


def folder_of(resolved: Resolved, key: str) -> Path | None:
    """Return the folder that outputs must stay in.

    The log must, too. It is the settings file's folder, where that file names them.

    With --strict, where a variable names them, the current folder.
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
            refuse_unsafe(resolved, ("output",), f"output is {form}={shown}", path, f"-o {form}={quoted(shown)}")


def check_log(resolved: Resolved, destinations: Destinations) -> None:
    """Refuse the place of the log, as `check_outputs`, and that of a report."""
    name = resolved.settings.log_file
    if name is None:
        return
    refuse_unsafe(resolved, ("log-file",), f"log-file is {name}", name, f"--log-file {quoted(name)}")
    if os.path.realpath(name) in [os.path.realpath(d.path) for d in destinations if isinstance(d.path, Path)]:
        raise UsageError(
            f"--log-file is {name}, which a report uses too; it must be another file", "--log-file robustcheck.log"
        )


def refuse_unsafe(resolved: Resolved, keys: Texts, label: str, path: str, again: str) -> None:
    """Refuse a place for an output that a settings file may not name, or that a link leads to.

    Args:
        resolved: the settings.
        keys: of those that name the place; it must stay in the folder of the first one.
        label: names the place in errors.
        path: the place.
        again: names it on the command line, which may name any place.
    """
    folder = folder_of(resolved, keys[0])
    if folder is not None and not may_write(path, folder):
        raise UsageError(
            f"{resolved.file or 'environment'}: {label}; a settings file may only name files in its folder, without "
            "links that leave it",
            f"{again}  # the command line may name any place",
        )
    is_trusted = not (resolved.settings.strict or resolved.is_from("file", *keys))
    if folder is None and not is_trusted and follows_link(path):
        raise UsageError(
            f"{label}, which follows a link; a link in a checkout can lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )
