"""Write complete documents to files and stores, and replace those of this tool only."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from ....thresholds import read_start
from ...errors import EnvironmentFaultError, UsageError
from ...text import quoted
from .places import Place, Url
from .stores import open_url

OURS = re.compile(
    rb"""
      \{.{0,180}"tool":\ ?"robustcheck"(?!,\s*"document":\s*"baseline")  # json, of every verb
    | \{\s*"schema":\ "robustcheck\.                                    # json of inspect
    | \{\s*"tool":\ \{\s*"name":\ "robustcheck"                          # predicate
    | .{0,60}<testsuites\ name="robustcheck"                             # junit
    | \{\s*"\$schema":.{0,250}"driver":\ \{\s*"name":\ "robustcheck"       # sarif
    | <!--\ robustcheck\ report                                         # markdown
    | ---\n\#\ robustcheck:                                             # modelcard
    | \#\ TYPE\ robustcheck\ info                                       # openmetrics
    | \{\s*"\$schema":\ "http://cyclonedx\.org/.{0,400}"name":\ "robustcheck"   # cyclonedx
    | .{0,1400}\brobustcheck\ \d+\.\d[^\s]{0,40}\ report\b                # a template's text
    | \[\s*\{\s*"check_name":\ "robustcheck:                             # gitlab
    | \[\]\s*\Z                                                         # gitlab: nothing found, whoever wrote it
    | <!DOCTYPE\ html>.{0,800}<meta\ name="generator"\ content="robustcheck  # html
    | \s*robustcheck\ \d[^\n]{0,30}\n                                  # terminal
    | robustcheck:\ no\ verdict                                         # terminal: an error
    """,
    re.VERBOSE | re.DOTALL,
)
"""How a document of this tool starts, by its form; nothing else is ever replaced by an error."""
OURS_WITHIN_BYTES = 1500
LOG = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z INFO robustcheck \d")
"""How a log of this tool starts."""
_MADE_BY = "robustcheck".encode("utf-32-le")  # NumPy's text in an archive
FILES = {
    "--write-baseline": re.compile(
        rb"""\{\s*"schema_version":\ \d+,\s*"tool":\ "robustcheck",\s*"document":\ "baseline"
        | PK\x03\x04.{26}baseline\.npy.{0,600}"\0\0\0%b"""
        % _MADE_BY,
        re.VERBOSE | re.DOTALL,
    ),
    "--out": re.compile(
        rb"""\{\s*"schema_version":\ \d+,\s*"id":\ "[^"]{1,400}",\s*"statistic_version":""", re.VERBOSE | re.DOTALL
    ),
    "--save-representations": re.compile(rb"""PK\x03\x04.{26}made_with\.npy.{0,600}"\0\0\0%b""" % _MADE_BY, re.DOTALL),
    "--suite-entry": re.compile(rb"# accuracies measured by robustcheck "),
}
"""How the files of this tool start that hold its numbers and are not reports, by the option that writes them."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_ours(place: Place, pattern: re.Pattern[bytes] = OURS) -> bool | None:
    """Return whether a document of this tool, or an empty file, is there; None for nothing, and what can't be read.

    Only the first bytes are read, and nothing is parsed. pattern: how such documents start.
    """
    with suppress(OSError):
        if isinstance(place, Url) or place.is_file():
            start = _start_of(place)
            return not start or pattern.match(start) is not None
    return None


def remove_earlier(place: Place) -> None:
    """Remove a document of an earlier run, or empty it in a store and where it can't be removed.

    Another file stays. Raises UsageError for one in a store, EnvironmentFaultError where the document would stay.
    """
    is_earlier = is_ours(place)
    if is_earlier is False and isinstance(place, Url):
        raise UsageError(
            f"{place}: report's URL is a file that is there already; only an empty file, or one that robustcheck wrote "
            "there, is replaced",
            f"-o json={place}.json",
        )
    if not is_earlier:
        return
    if isinstance(place, Url):
        open_url(place).write_bytes(b"")
        return
    with suppress(OSError):
        place.resolve().unlink()
        return
    try:
        os.truncate(place, 0)  # a file that is mounted, as into a container, can't be removed
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{place}: report of an earlier run is not removed ({fault.strerror}); it is not of this run",
            f"ls -ld {quoted(place.parent)} {quoted(place)}",
        ) from fault


def write_atomically(place: Place, text: str | bytes) -> None:
    """Write a file completely or not at all, as one of another name that is renamed at the end.

    A link keeps pointing to the file, which is replaced. A device or a pipe is written to; renaming would put a
    file in its place. A URL's store gets the text in one request.
    Raises EnvironmentFaultError (no space, no right to write, StoreError); what was there stays then.
    """
    content = text if isinstance(text, bytes) else text.encode()
    if isinstance(place, Url):
        open_url(place).write_bytes(content)
        return
    try:
        if place.exists() and not place.is_file():
            with place.open("wb") as device:
                device.write(content)
            return
        final = Path(os.path.realpath(place))
        if final.is_symlink():  # in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with replacing(final) as file:
            file.write(content)
    except OSError as fault:
        look = "df -h" if fault.errno in FULL else "ls -ld"
        raise EnvironmentFaultError(
            f"{place}: report is not written ({fault.strerror}); it must be written whole",
            f"{look} {quoted(place.parent)}",
        ) from fault


@contextmanager
def replacing(final: Path) -> Iterator[BinaryIO]:
    """Open a file of another name, which takes the place of `final` where the block ends without an error."""
    # nobody can lay a link under a name that is not known; two containers can have one process number
    temporary = final.with_name(f".{final.name}.{token_hex(8)}.tmp")
    file = temporary.open("xb")
    try:
        with file:
            yield file
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def replace_with_error(place: Place, document: str) -> None:
    """Replace a report with an error document, so that no report of an earlier run passes for this one's.

    Only in place of nothing, of a document of this tool, or into a device or pipe: a run that failed may have been
    given a wrong path. The document goes first: better none than the PASS of an earlier run.
    Raises EnvironmentFaultError as `remove_earlier` and `write_atomically`.
    """
    remove_earlier(place)
    if isinstance(place, Url):
        with suppress(FileNotFoundError):
            if _start_of(place):
                return
    elif place.is_dir() or not place.parent.is_dir() or (place.is_file() and place.stat().st_size > 0):
        return
    write_atomically(place, document)


def _start_of(place: Place) -> bytes:
    """Read enough of a document to show whose it is. Raises FileNotFoundError, StoreError, OSError."""
    if isinstance(place, Url):
        return open_url(place).read_bytes(OURS_WITHIN_BYTES)
    return read_start(place, OURS_WITHIN_BYTES)
