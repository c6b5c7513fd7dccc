"""Reports handed over to a store: put there whole, and never in place of what is no report when a run fails."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from robustcheck_onnx.checker import remote
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.remote import Url
from robustcheck_onnx.checker.remote_file import open_url


def check_target(url: Url, reads: Iterable[Path | str]) -> None:
    """Refuse a URL that can't take a report, before the work starts; nothing is connected to.

    reads: what the run reads; a report must not replace one of them.
    Raises UsageError (a web server, a file that is read), EnvironmentFaultError (a package is missing).
    """
    if url.is_http:
        raise UsageError(
            f"{url}: report's URL is of a web server; reports are put into object stores or files",
            "-o json=report.json, and upload it",
        )
    for read in reads:
        place = remote.parse(read)
        if isinstance(place, Url) and place.raw == url.raw:
            raise UsageError(
                f"{url}: report's URL is a file that is read; a report must not replace it", f"-o json={url}.json"
            )
    open_url(url)


def write_whole(url: Url, text: str) -> None:
    """Put a report there in one piece. Raises StoreError, an EnvironmentFaultError."""
    open_url(url).write_whole(text.encode())


def replace_with_error(url: Url, document: str, ours: re.Pattern[bytes], head_bytes: int) -> None:
    """Put an error document there, in place of nothing or of a document of this tool.

    ours: what the first `head_bytes` of such a document match. Raises StoreError.
    """
    try:
        if not ours.match(start_of(url, head_bytes)):
            return
    except FileNotFoundError:
        pass
    write_whole(url, document)


def start_of(url: Url, n_bytes: int) -> bytes:
    """The first bytes of what is there. Raises FileNotFoundError, StoreError."""
    return open_url(url).read_bytes(n_bytes)[:n_bytes]
