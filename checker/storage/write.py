"""Write a document whole or not at all.

It goes to a file or an object store; an error replaces documents of this tool only.
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets

from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.text import quoted

from .places import Place, Url
from .stores import open_url

OURS = re.compile(
    rb"""
      \{.{0,180}"tool":\ "robustcheck"                                  # json, of every verb
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
    | \s*(?:\xe2\x94\x81\xe2\x94\x81|==)\ \S+\ (?:PASS|WARN)\ (?:\xe2\x94\x81|=)  # terminal, before 0.2
    | \s*robustcheck\ \d[^\n]{0,30}\n                                  # terminal
    | robustcheck:\ no\ verdict                                         # terminal: an error
    """,
    re.VERBOSE | re.DOTALL,
)
"""How a document of this tool starts, by its form; nothing else is ever replaced by an error."""
OURS_WITHIN_BYTES = 1500
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_ours(place: Place) -> bool:
    """Return whether a document of this tool lies there. False for what can't be read."""
    with contextlib.suppress(OSError):
        if isinstance(place, Url) or place.is_file():
            return OURS.match(_start_of(place)) is not None
    return False


def write_whole(place: Place, text: str) -> None:
    """Write a file whole or not at all. A file of another name in the same folder is renamed at the end.

    A link keeps pointing to the file, which is replaced. A device or a pipe is written to; renaming would put a
    file in its place. A URL's store gets the text in one request.
    Raises EnvironmentFaultError (no space, no right to write, StoreError); what was there stays then.
    """
    content = text.encode()
    if isinstance(place, Url):
        open_url(place).write_whole(content)
        return
    try:
        if place.exists() and not place.is_file():
            with place.open("wb") as device:
                device.write(content)
            return
        final = place.resolve()
        # nobody can lay a link under a name that is not known; two containers can have one process number
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
        file = temporary.open("xb")
        try:
            with file:
                file.write(content)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as fault:
        look = "df -h" if fault.errno in FULL else "ls -ld"
        raise EnvironmentFaultError(
            f"{place}: report is not written ({fault.strerror}); it must be written whole",
            f"{look} {quoted(place.parent)}",
        ) from fault


def replace_with_error(place: Place, document: str) -> None:
    """Replace a report with an error document. So no report of an earlier run passes for this one's.

    Only in place of nothing, of a document of this tool, or into a device or pipe: a run that failed may have
    been given a wrong path. Raises EnvironmentFaultError as write_whole does; in a file, a document of this tool is
    gone then: better none than the PASS of an earlier run.
    """
    if isinstance(place, Url):
        with contextlib.suppress(FileNotFoundError):
            if not OURS.match(_start_of(place)):
                return
        write_whole(place, document)
        return
    if place.is_dir() or not place.parent.is_dir() or (place.is_file() and not is_ours(place)):
        return
    try:
        write_whole(place, document)
    except EnvironmentFaultError:
        if place.is_file():
            place.resolve().unlink(missing_ok=True)
        raise


def _start_of(place: Place) -> bytes:
    """Read enough of a document to show whose it is. Raises FileNotFoundError, StoreError, OSError."""
    if isinstance(place, Url):
        return open_url(place).read_bytes(OURS_WITHIN_BYTES)
    with place.open("rb") as file:
        return file.read(OURS_WITHIN_BYTES)
