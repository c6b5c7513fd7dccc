"""Reports are written whole or not at all, and only over documents of this tool; in files and in object stores."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shlex
from pathlib import Path

from robustcheck_onnx.checker.errors import EnvironmentFaultError

from . import urls
from .remote import open_url
from .urls import Url

OURS = re.compile(
    rb"""
      \{.{0,180}"tool":\ "robustcheck"                                  # json, of every verb
    | .{0,60}<testsuites\ name="robustcheck"                             # junit
    | \{\s*"\$schema":.{0,250}"driver":\ \{\s*"name":\ "robustcheck"       # sarif
    | <!--\ robustcheck\ report                                         # markdown
    | ---\n\#\ robustcheck:                                             # modelcard
    | \#\ TYPE\ robustcheck\ info                                       # openmetrics
    | robustcheck_version,                                             # csv
    | \[\s*\{\s*"check_name":\ "robustcheck:                             # gitlab
    | \[\]\s*\Z                                                         # gitlab: nothing found, whoever wrote it
    | <!DOCTYPE\ html>.{0,800}<meta\ name="generator"\ content="robustcheck  # html
    | \s*(?:\xe2\x94\x81\xe2\x94\x81|==)\ \S+\ (?:PASS|WARN)\ (?:\xe2\x94\x81|=)  # terminal
    | robustcheck:\ no\ verdict                                         # terminal: an error
    """,
    re.VERBOSE | re.DOTALL,
)
"""How a document of this tool starts, by its form; nothing else is ever replaced by an error."""
OURS_WITHIN_BYTES = 1500
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_ours(path: Path) -> bool:
    """Whether a document of this tool lies there; False for what can't be read."""
    place = urls.parse(path)
    with contextlib.suppress(OSError):
        if isinstance(place, urls.Url):
            return OURS.match(start_of(place, OURS_WITHIN_BYTES)) is not None
        if Path(place).is_file():
            with Path(place).open("rb") as file:
                return OURS.match(file.read(OURS_WITHIN_BYTES)) is not None
    return False


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: another name in the same folder, then rename.

    A link keeps pointing to the file, which is replaced. A device or a pipe is written to; renaming would put a
    file in its place. Raises EnvironmentFaultError (no space, no right to write); what was there stays then.
    A URL's store gets it in one piece.
    """
    place = urls.parse(path)
    if isinstance(place, urls.Url):
        write_to_store(place, text)
        return
    path = Path(place)
    content = text.encode()
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as device:
                device.write(content)
            return
        final = path.resolve()
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
            f"{path}: report is not written ({fault.strerror}); it must be written whole",
            f"{look} {shlex.quote(str(path.parent))}",
        ) from fault


def replace_with_error(path: Path, document: str) -> None:
    """Put an error document where a report was to go, so that no report of an earlier run stands for this one.

    Only in place of nothing, of a document of this tool, or into a device or pipe: a run that failed may have
    been given a wrong path. Raises EnvironmentFaultError as write_whole does; a document of this tool is gone then.
    """
    place = urls.parse(path)
    if isinstance(place, urls.Url):
        replace_in_store(place, document, OURS, OURS_WITHIN_BYTES)
        return
    path = Path(place)
    if path.is_dir() or not path.parent.is_dir():
        return
    if path.is_file() and not is_ours(path):
        return
    try:
        write_whole(path, document)
    except EnvironmentFaultError:
        if path.is_file():  # no room for the error: better no document than the PASS of an earlier run
            path.resolve().unlink(missing_ok=True)
        raise


def write_to_store(url: Url, text: str) -> None:
    """Put a report there in one piece. Raises StoreError, an EnvironmentFaultError."""
    open_url(url).write_whole(text.encode())


def replace_in_store(url: Url, document: str, ours: re.Pattern[bytes], head_bytes: int) -> None:
    """Put an error document there, in place of nothing or of a document of this tool.

    ours: what the first `head_bytes` of such a document match. Raises StoreError.
    """
    try:
        if not ours.match(start_of(url, head_bytes)):
            return
    except FileNotFoundError:
        pass
    write_to_store(url, document)


def start_of(url: Url, n_bytes: int) -> bytes:
    """The first bytes of what is there. Raises FileNotFoundError, StoreError."""
    return open_url(url).read_bytes(n_bytes)[:n_bytes]
