"""Read the rows of lists (.txt) and manifests (.csv, .jsonl), each of which must name a file that is there."""

import csv
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ...core.images.entries import Entries
from ...errors import EnvironmentFaultError, UsageError
from ...text import quoted
from ..storage import places
from ..storage.places import Url, parse_place, redact
from ..storage.stores import RemoteFile, copied
from . import files
from .files import PATH_COLUMNS, SHOWN, File, Files, Rows, is_url

Row = tuple[int, int, object, object]
"""line number, index into PATH_COLUMNS, path, label"""
_JSON = json.JSONDecoder()
_NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # in no name of a file; U+DC80 to U+DCFF are bytes of one
ROW_LETTERS = 1 << 20  # of the longest row; one that holds a path and some columns has some hundred


def manifest_entries(path: File) -> Entries:
    """List the images that rows name, each of which must be there, unlike a file missing from a folder.

    To look for a million files takes minutes on a network file system, so only the first `files.CHECKED_ROWS` are
    looked for here; a later row, and one in a store, raises the same error when it is read.
    """
    names: list[str] = []
    labels: list[str | None] = []
    shared: dict[str, str] = {}
    full_urls: dict[int, str] = {}
    numbers = array("Q")
    columns = bytearray()
    folder = path.parent
    with _text(path) as file:
        for number, column, value, label in ROWS[path.suffix.lower()](path, file):
            if not isinstance(value, str) or not value or _NO_NAME.search(value):
                raise UsageError(
                    f"{path}: row {number}: {PATH_COLUMNS[column]} is {value!r:.{SHOWN}}; it must be the path of an "
                    "image",
                    _show(path, number),
                )
            shown = _shown(value)
            if shown != value:
                full_urls[len(names)] = value
            names.append(shown)
            numbers.append(number)
            columns.append(column)
            text = None
            if label is not None:
                text = shared.setdefault(str(label), str(label))
            labels.append(text)
            if isinstance(folder, RemoteFile) or is_url(value):  # looked for when it is read
                row = f"{path}: row {number}: {PATH_COLUMNS[column]} is {shown:.{SHOWN}}"
                _check_row(folder, value, row)
            elif len(names) <= files.CHECKED_ROWS and not os.path.isfile(folder / value):  # noqa: PTH113 # as in files.py
                raise Rows(path, numbers, bytes(columns)).missing(len(names) - 1, value)
    if not names:
        raise UsageError(f"{path}: no images listed; at least one is needed", f"cat {quoted(path)}")
    rows = Rows(path, numbers, bytes(columns))
    listed = Files(folder, names, labels if shared else None, rows, full_urls)
    return Entries.listed(names, listed.entry)


def _shown(path: str) -> str:
    """Return a row's path as its image is named: a URL without its keys."""
    return redact(path) if is_url(path) else path


def list_rows(path: File, file: TextIO, label_name: str = "label") -> Iterator[Row]:
    """Read the rows of a list, which has one path per line; blank lines are left out."""
    for number, line in _lines(path, file):
        if not line.isspace():
            yield number, 0, line.removesuffix("\n"), None


def label_column(path: File, column: str) -> list[tuple[int, str, object]]:
    """Return line number, path and one column's cell of every row of a manifest; None where a row has no such cell.

    A path is written as `manifest_entries` names the image. Raises UsageError as that does for rows, not for files.
    """
    with _text(path) as file:
        rows = ROWS[path.suffix.lower()](path, file, column)
        return [(number, _shown(str(value)), label) for number, _, value, label in rows]


def csv_rows(path: File, file: TextIO, label_name: str = "label") -> Iterator[Row]:
    """Read the rows of a CSV with a header. Raises UsageError (no CSV, too many cells, no column of paths)."""
    letters = 0  # of this row, which may have several lines

    def lines() -> Iterator[str]:
        nonlocal letters
        for number, line in _lines(path, file):
            letters += len(line)
            if letters > ROW_LETTERS:
                raise _too_long(path, number)
            yield line

    reader = csv.reader(lines(), strict=True)
    try:
        header = next(reader, [])
        letters = 0
        cells = {name: cell for cell, name in enumerate(header)}
        column = None
        for row in reader:
            letters = 0
            if len(row) > len(header):
                raise UsageError(
                    f"{path}: row {reader.line_num} has more cells than columns; quote cells that hold a comma",
                    _show(path, reader.line_num),
                )
            if not row:
                continue
            if column is None:
                column = _path_column(path, reader.line_num, cells)
                cell = cells[PATH_COLUMNS[column]]
                label = cells.get(label_name, len(header))
            n_missing = len(header) + 1 - len(row)
            padded = [*row, *[None] * n_missing]
            yield reader.line_num, column, padded[cell], padded[label]
    except csv.Error as fault:
        raise UsageError(
            f"{path}: row {reader.line_num} is not CSV ({fault}); rows must be CSV", _show(path, reader.line_num)
        ) from fault


def _lines(path: File, file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers. Raises UsageError for one of more than `ROW_LETTERS`."""
    number = 0
    while line := file.readline(ROW_LETTERS + 1):
        number += 1
        if len(line) > ROW_LETTERS:
            raise _too_long(path, number)
        yield number, line


def _too_long(path: File, number: int) -> UsageError:
    return UsageError(
        f"{path}: row {number} is longer than {ROW_LETTERS:,} letters; a list or manifest has a row for each image",
        f"head -c 200 {quoted(path)}",
    )


def _json(line: str) -> object:
    """Parse a line as json.loads does, twice as fast for a valid one without white space at its ends."""
    text = line.removesuffix("\n")
    try:
        row, end = _JSON.raw_decode(text)
    except ValueError:
        return json.loads(text)
    return row if end == len(text) else json.loads(text)


def jsonl_rows(path: File, file: TextIO, label_name: str = "label") -> Iterator[Row]:
    """Read the rows of a JSON Lines file. Raises UsageError (no object, no key of a path)."""
    for number, line in _lines(path, file):
        if line.isspace():
            continue
        try:
            row = _json(line)
        except (ValueError, RecursionError) as fault:
            raise UsageError(
                f"{path}: row {number} is not JSON ({fault}); each row must be an object", _show(path, number)
            ) from fault
        if not isinstance(row, dict):
            raise UsageError(
                f"{path}: row {number} is {line.strip()[:60]}; each row must be a JSON object", _show(path, number)
            )
        column = _path_column(path, number, row)
        yield number, column, row[PATH_COLUMNS[column]], row.get(label_name)


def _path_column(path: File, number: int, names: Iterable[str]) -> int:
    for column, name in enumerate(PATH_COLUMNS):
        if name in names:
            return column
    raise UsageError(
        f"{path}: row {number} has the columns {', '.join(names):.{SHOWN}}; "
        f"one of {', '.join(PATH_COLUMNS)} must name the image",
        _show(path, 1),
    )


def _check_row(folder: File, value: str, row: str) -> None:
    """Refuse a row that names a URL with --strict or while offline, or a file outside the folder of a list in a store.

    Who can change the list of a checkout must not choose where this machine connects to.
    """
    if is_url(value):
        if os.environ.get(places.LOCAL_ROWS):
            raise UsageError(f"{row}; with --strict a list names no URL", "copy the images here, and list the copies")
        if isinstance(parse_place(value), Url) or isinstance(folder, Path):
            return
    elif not value.startswith("/") and ".." not in value.split("/"):
        return
    raise UsageError(f"{row}; a list in a store names files below its own folder, or URLs", "copy the list here first")


def _show(path: File, row: int) -> str:
    """Return the command that shows one row."""
    return f"sed -n {row}p {quoted(path)}"


ROWS = {".txt": list_rows, ".csv": csv_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows}
"""what reads the rows of a list or manifest, by its suffix"""


@contextmanager
def _text(path: File) -> Iterator[TextIO]:
    """Open a text file to read lines that only line feeds end, so that JSON is not cut at U+2028."""
    try:
        with copied(path) as local, local.open(encoding="utf-8-sig") as file:
            yield file
    except EnvironmentFaultError:  # a store's: an OSError too
        raise
    except (OSError, UnicodeDecodeError) as fault:
        reason = str(fault)
        if isinstance(fault, UnicodeDecodeError):  # its position would be that in a piece of the file
            byte = fault.object[fault.start]
            reason = f"byte 0x{byte:02x}: {fault.reason}"
        raise UsageError(
            f"{path}: file is not readable UTF-8 text ({reason}); a list or manifest must be", f"file {quoted(path)}"
        ) from fault
