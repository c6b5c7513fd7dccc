"""Find the files of an image set: a folder, a glob, a list, a manifest, or files with many images each.

Each row of a list (.txt) or manifest (.csv, .jsonl) must name a file that is there.
"""

import csv
import glob
import json
import os
import re
import shlex
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TextIO

from ...core.images.entries import Entries, Kind, ListedImage
from ...core.options import STOCK
from ...errors import CannotAssessError, EnvironmentFaultError, UsageError
from ...paths import SUFFIXES, nearest_path
from ...text import quoted
from ..storage import places
from ..storage.places import Place, Url, folder_files, is_ignored, parse_place, redact, visible
from ..storage.stores import RemoteFile, copied, open_url
from . import containers
from .containers import PATH_COLUMNS, SHOWN, File, Files, Rows, file_entries, is_url, read_remote

Row = tuple[int, int, object, object]
"""line number, index into PATH_COLUMNS, path, label"""
_JSON = json.JSONDecoder()
_NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # in no name of a file; U+DC80 to U+DCFF are bytes of one
ROW_LETTERS = 1 << 20  # of the longest row; one that holds a path and some columns has some hundred


def manifest_entries(path: File) -> Entries:
    """List the images that rows name, each of which must be there, unlike a file missing from a folder.

    To look for a million files takes minutes on a network file system, so only the first `containers.CHECKED_ROWS` are
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
            if is_url(value) and (shown := redact(value)) != value:
                full_urls[len(names)] = value
                names.append(shown)
            else:
                names.append(value)
            numbers.append(number)
            columns.append(column)
            if label is not None:
                text = str(label)
                labels += [None] * (len(names) - 1 - len(labels))
                labels.append(shared.setdefault(text, text))
            if isinstance(folder, RemoteFile) or is_url(value):  # looked for when it is read
                _check_row(folder, value, f"{path}: row {number}: {PATH_COLUMNS[column]} is {names[-1]:.{SHOWN}}")
            elif len(names) <= containers.CHECKED_ROWS and not os.path.isfile(folder / value):  # noqa: PTH113 # as in containers.py
                raise Rows(path, numbers, bytes(columns)).missing(len(names) - 1, value)
    if not names:
        raise UsageError(f"{path}: no images listed; at least one is needed", f"cat {quoted(path)}")
    if labels:
        labels += [None] * (len(names) - len(labels))
    rows = Rows(path, numbers, bytes(columns))
    return Entries.listed(names, Files(folder, names, labels or None, rows, full_urls).entry)


def list_rows(path: File, file: TextIO, label_name: str = "label") -> Iterator[Row]:
    """Read the rows of a list, which has one path per line; blank lines are left out."""
    for number, line in enumerate(_lines(path, file), 1):
        if not line.isspace():
            yield number, 0, line.removesuffix("\n"), None


def label_column(path: File, column: str) -> list[tuple[int, str, object]]:
    """Return line number, path and one column's cell of every row of a manifest; None where a row has no such cell.

    A path is written as `manifest_entries` names the image. Raises UsageError as that does for rows, not for files.
    """
    with _text(path) as file:
        rows = ROWS[path.suffix.lower()](path, file, column)
        cells = [(number, str(value), label) for number, _, value, label in rows]
    return [(number, redact(value) if is_url(value) else value, label) for number, value, label in cells]


def csv_rows(path: File, file: TextIO, label_name: str = "label") -> Iterator[Row]:
    """Read the rows of a CSV with a header. Raises UsageError (no CSV, too many cells, no column of paths)."""
    letters = 0  # of this row, which may have several lines

    def lines() -> Iterator[str]:
        nonlocal letters
        for number, line in enumerate(_lines(path, file), 1):
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
            padded = [*row, *[None] * (len(header) + 1 - len(row))]
            yield reader.line_num, column, padded[cell], padded[label]
    except csv.Error as fault:
        raise UsageError(
            f"{path}: row {reader.line_num} is not CSV ({fault}); rows must be CSV", _show(path, reader.line_num)
        ) from fault


def _lines(path: File, file: TextIO) -> Iterator[str]:
    """Read the lines of a file, which may be one line of any size. Raises UsageError beyond `ROW_LETTERS`."""
    number = 0
    while line := file.readline(ROW_LETTERS + 1):
        number += 1
        if len(line) > ROW_LETTERS:
            raise _too_long(path, number)
        yield line


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
    for number, line in enumerate(_lines(path, file), 1):
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
            reason = f"byte 0x{fault.object[fault.start]:02x}: {fault.reason}"
        raise UsageError(
            f"{path}: file is not readable UTF-8 text ({reason}); a list or manifest must be", f"file {quoted(path)}"
        ) from fault


KINDS = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
MOST_NAMES = 100_000  # of one pattern with braces
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_BRACES = re.compile(r"\{([^{}]*)\}")
_COMPRESSED_TARS = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def suffix(name: str) -> str:
    """Return the suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 # a Path for each of a million names takes seconds


def parse_image_set(images: str | Place | None) -> Place | None:
    """Return the path or URL of an image set; None for the bundled photos, also by the word `bundled`.

    Raises UsageError for blanks, and as `parse_place`.
    """
    if isinstance(images, str) and not images.strip():  # an empty variable in a script; Path("") is the current folder
        raise UsageError(f"--images is {images!r}; it must be {KINDS}", "--images photos/")
    return None if images is None or images == STOCK else parse_place(images)


def list_images(place: Place) -> tuple[Kind, Entries]:
    """List all images of a set, unread and unordered.

    Raises UsageError, EnvironmentFaultError, CannotAssessError as `source.open_images`.
    """
    if is_pattern(places.as_typed(place)) and not (isinstance(place, Path) and os.path.lexists(place)):
        return _index_pattern(place)
    if isinstance(place, Url):
        return _index_url(place)
    spec = str(place)
    path = place.expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as fault:
        if glob.has_magic(spec):
            return _index_glob(spec)
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        near = nearest_path(path) if isinstance(fault, FileNotFoundError) else None
        raise UsageError(
            f"{spec}: image set is not readable ({reason}); it must be {KINDS}", f"--images {quoted(near or 'FOLDER')}"
        ) from fault
    if stat.S_ISDIR(mode):
        return _by_content(spec, "folder", path, folder_files(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{spec}: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER")
    return _of_file(spec, path)


def _of_file(spec: str, path: File) -> tuple[Kind, Entries]:
    ending = path.suffix.lower()
    if ending in ROWS:
        return "list" if ending == ".txt" else "manifest", manifest_entries(path)
    if ending in (".npy", ".npz"):
        return "tensors", Entries.of(containers.tensor_entries(path))
    if isinstance(path, RemoteFile) and path.is_signed and ending in SUFFIXES:  # its folder knows no key
        return "image", Entries.of([ListedImage(path.name, partial(read_remote, path))])
    if isinstance(path, RemoteFile) and path.is_signed:
        raise UsageError(
            f"{spec}: image set has a signed URL; only an image, a list or an array can have one", "copy it here first"
        )
    return _by_content(spec, "image", path.parent, [path.name])


def _index_url(url: Url) -> tuple[Kind, Entries]:
    """List the images of a URL as list_images does. Raises StoreError too, where the store can't be reached."""
    file = open_url(url)
    spec = str(url)
    if url.is_http:
        if file.suffix == "":
            raise UsageError(
                f"{spec}: image set is a folder on a web server, which can't list it; it must be a file",
                "name a list (.txt) of the images, which may lie next to it",
            )
        return _of_file(spec, file)
    try:
        kind = file.info()["type"]
    except FileNotFoundError as fault:
        if glob.has_magic(file.path):
            parts = file.path.split("/")
            first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
            folder = file
            for _ in parts[first:]:
                folder = folder.parent
            matching = visible(folder.names_like("/".join(parts[first:])))
            return _by_content(spec, "glob", folder, _without_models(spec, matching))
        raise UsageError(
            f"{spec}: image set is not readable (no such file or folder); it must be {KINDS}", "look at the URL"
        ) from fault
    if kind == "directory":
        return _by_content(spec, "folder", file, _without_models(spec, visible(file.names_below())))
    return _of_file(spec, file)


def _without_models(spec: str, names: list[str]) -> list[str]:
    """Return the names of a place in a store. Raises UsageError for an ONNX file there, which may be meant, too."""
    if models := [name for name in names if name.lower().endswith(".onnx")]:
        raise UsageError(
            f"{spec}: place holds ONNX files ({models[0]}); one in a store that gives photos must hold none",
            f"--images {shlex.quote(spec.rstrip('/*') + '/*.jpg')}",
        )
    return names


def _index_pattern(place: Place) -> tuple[Kind, Entries]:
    """List the files of numbered names, which on this machine must all exist before anything is read."""
    start, slash, rest = places.as_typed(place).partition("{")
    above, slash, name = start.rpartition("/")
    names = expand_braces(f"{name}{{{rest}")
    if isinstance(place, Url):
        if "?" in rest:
            raise UsageError(
                f"{place}: a key in the URL opens one file; numbered names need a store without a key", "copy them here"
            )
        return _by_content(str(place), "glob", open_url(Url(above, place.protocol)), names)
    folder = Path(above + slash).expanduser()
    if missing := next((name for name in names if not (folder / name).exists()), None):
        raise UsageError(
            f"{place}: file {folder / missing} is missing; all {len(names)} names of a pattern must be there",
            f"ls {shlex.quote(str(folder))}",
        )
    return _by_content(str(place), "glob", folder, names)


def _index_glob(spec: str) -> tuple[Kind, Entries]:
    parts = Path(spec).expanduser().parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])

    def leaves_out(folder: str) -> bool:
        below = Path(folder).relative_to(fixed)
        return below != Path() and is_ignored(below.as_posix())

    paths = places.expand(parts, places.unreadable_folder, lambda folder: folder_files(Path(folder)), leaves_out)
    matches = map(Path, paths)
    files = [(path.relative_to(fixed).as_posix(), path) for path in matches if not path.is_dir()]
    real_folder = cache(os.path.realpath)
    by_file: dict[tuple[str, str], str] = {}
    for name, path in sorted(files, key=lambda file: (file[0].count("/"), file[0])):
        if not is_ignored(name):
            by_file.setdefault((real_folder(path.parent), path.name), name)
    return _by_content(spec, "glob", fixed, list(by_file.values()))


def _by_content(spec: str, kind: Kind, folder: File, names: Sequence[str]) -> tuple[Kind, Entries]:
    """List files as images, tar shards, or tables, as their suffixes say; a mixture is refused."""
    images: list[str] = []
    others: dict[str, list[tuple[str, File]]] = {".tar": [], ".parquet": [], ".arrow": []}
    for name in names:
        ending = suffix(name)
        if ending in SUFFIXES:
            images.append(name)
        elif ending in others:
            file = folder / name
            _refuse_pipe(file)
            others[ending].append((name, file))
        elif name.lower().endswith(_COMPRESSED_TARS):
            raise UsageError(
                f"{name}: shard is compressed; shards must be plain .tar so that images can be read in any order",
                f"gunzip {shlex.quote(name)} (or the like), then name the .tar",
            )
    present = [ending for ending, group in others.items() if group]
    if len(present) + bool(images) > 1:
        kinds = ", ".join((["images"] if images else []) + present)
        raise UsageError(
            f"{spec}: content is a mixture ({kinds}); an image set must be of one kind",
            "name one kind with a quoted glob, for example 'folder/*.tar'",
        )
    if images:
        return kind, file_entries(folder, images)
    if others[".tar"]:
        return "tar", Entries.of(containers.tar_entries(spec, others[".tar"]))
    if others[".parquet"]:
        return "parquet", containers.ParquetTable(others[".parquet"]).entries()
    if others[".arrow"]:
        return "arrow", Entries.of(containers.arrow_entries(others[".arrow"]))
    raise CannotAssessError(
        f"{spec}: no images found among {len(names)} files; at least one is needed: image files, .tar shards, "
        ".parquet or .arrow files",
        f"ls {spec if glob.has_magic(spec) else shlex.quote(spec)}  # images are known by suffix: .jpg, .png, .webp, …",
    )


def _refuse_pipe(file: File) -> None:
    """Refuse what would be opened here and never end."""
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise UsageError(
            f"{file}: file is a device, pipe or folder; a regular file is needed", f"ls -lL {shlex.quote(str(file))}"
        )


def image_files(folder: Path) -> list[str]:
    """Return the names with an image's suffix."""
    return [name for name in folder_files(folder) if suffix(name) in SUFFIXES]


def is_pattern(text: str) -> bool:
    """Return whether a text has braces to expand, around a range of numbers or names with commas between them.

    >>> is_pattern("a-{0..3}.tar"), is_pattern("{a,b}.tar"), is_pattern("{model}.tar")
    (True, True, False)
    """
    return any(_RANGE.fullmatch(inside) or "," in inside for inside in _BRACES.findall(text))


def expand_braces(text: str) -> list[str]:
    """Return all names of a pattern, in order, with numbers as wide as the wider end of their range.

    Raises UsageError: a range that runs backwards, more than MOST_NAMES names.

    >>> expand_braces("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [""]
    for index, part in enumerate(_BRACES.split(text)):
        choices = [part] if index % 2 == 0 else _choices(text, part)
        if len(names) * len(choices) > MOST_NAMES:
            raise _too_many(text)
        names = [name + choice for name in names for choice in choices]
    return names


def _choices(text: str, inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    start, end = numbers.groups()
    first = int(start)
    last = int(end)
    if last < first:
        raise UsageError(f"{text}: range is {inside}; it must run upwards", f"{{{end}..{start}}}")
    if last - first >= MOST_NAMES:
        raise _too_many(text)
    width = max(len(start), len(end)) if "0" in (start[0], end[0]) else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _too_many(text: str) -> UsageError:
    return UsageError(f"{text}: number of names is more than {MOST_NAMES:,}; that is the limit", "name a folder")
