"""The files meant by --images: a folder, a glob, a list, a manifest, or a file that holds many images."""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import shlex
import stat
from array import array
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TextIO

from robustcheck_onnx.checker import containers, remote
from robustcheck_onnx.checker.containers import Entries, Entry, File
from robustcheck_onnx.checker.decode import MAX_FILE_BYTES, SUFFIXES, UnreadableImageError
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.remote_file import RemoteFile, StoreError, copied, open_url

Kind = Literal["bundled", "image", "folder", "glob", "list", "manifest", "tar", "parquet", "arrow", "tensors"]

PATH_COLUMNS: Final = ("path", "image", "file")  # of a manifest, the first that is there
CHECKED_ROWS: Final = 10_000  # rows of a list or manifest whose files are looked for before anything is read
KINDS: Final = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
_IGNORED_PARTS: Final = ("@eaDir", "__MACOSX")  # thumbnails of NAS systems, macOS archives
_COMPRESSED_TARS: Final = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def suffix(name: str) -> str:
    """The ending by which a file is known: lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 # a Path for each of a million names takes seconds


def index(spec: str) -> tuple[Kind, Entries, containers.Table | None]:
    """Everything `spec` names as unread images, not ordered yet; a Parquet table wants a plan before reading.

    Raises UsageError, EnvironmentFaultError, CannotAssessError as images.open_images says.
    """
    if not spec.strip():  # an empty variable in a script; Path("") would be the current folder
        raise UsageError(f"--images is {spec!r}; it must be {KINDS}", "leave out --images for the bundled photos")
    place = remote.parse(spec)
    if isinstance(place, remote.Url):
        return _index_url(place)
    spec = place
    path = Path(spec).expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as fault:
        if glob.has_magic(spec):
            return _index_glob(spec)
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise UsageError(
            f"{spec}: image set is not readable ({reason}); it must be {KINDS}", "--images FOLDER"
        ) from fault
    if stat.S_ISDIR(mode):
        return _by_content(spec, "folder", path, folder_files(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{spec}: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER")
    return _of_file(spec, path)


def _of_file(spec: str, path: File) -> tuple[Kind, Entries, containers.Table | None]:
    ending = path.suffix.lower()
    if ending == ".txt":
        return "list", _manifest_entries(path, _list_rows), None
    if ending == ".csv":
        return "manifest", _manifest_entries(path, _csv_rows), None
    if ending in (".jsonl", ".ndjson"):
        return "manifest", _manifest_entries(path, _jsonl_rows), None
    if ending in (".npy", ".npz"):
        return "tensors", Entries.of(containers.tensor_entries(path)), None
    if isinstance(path, RemoteFile) and path.is_signed and ending in SUFFIXES:  # its folder knows no key
        return "image", Entries.of([Entry(path.name, partial(_read_remote, path))]), None
    if isinstance(path, RemoteFile) and path.is_signed:
        raise UsageError(
            f"{spec}: image set is behind a signed URL; only an image, a list, or an array may be", "copy it here first"
        )
    return _by_content(spec, "image", path.parent, [path.name])


def _index_url(url: remote.Url) -> tuple[Kind, Entries, containers.Table | None]:
    """As index, of a URL. Raises StoreError too, where the store can't be reached."""
    file, spec = open_url(url), str(url)
    if url.is_http:
        if file.suffix == "":
            raise UsageError(
                f"{spec}: image set is a folder of a web server, which can't list it; it must be a file",
                "name a list (.txt) of the images, which may lie beside it",
            )
        return _of_file(spec, file)
    try:
        kind = file.info()["type"]
    except FileNotFoundError as fault:
        if glob.has_magic(file.path):
            parts = file.path.split("/")
            first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
            folder = file
            for _ in parts[first:]:
                folder = folder.parent
            return _by_content(spec, "glob", folder, _visible(folder.names_like("/".join(parts[first:]))))
        raise UsageError(
            f"{spec}: image set is not readable (no such file or folder); it must be {KINDS}", "look at the URL"
        ) from fault
    if kind == "directory":
        return _by_content(spec, "folder", file, _visible(file.names_below()))
    return _of_file(spec, file)


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in names if not _is_ignored(name)]


def _index_glob(spec: str) -> tuple[Kind, Entries, containers.Table | None]:
    parts = Path(spec).expanduser().parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    # Path.glob does not enter symlinked folders with **
    found = [Path(match) for match in glob.glob(str(Path(*parts)), recursive=True)]  # noqa: PTH207
    files = [(path.relative_to(fixed).as_posix(), path) for path in found if not path.is_dir()]
    once: dict[tuple[str, str], str] = {}
    real: dict[Path, str] = {}
    for name, path in sorted(files, key=lambda file: (file[0].count("/"), file[0])):
        if not _is_ignored(name):
            folder = path.parent
            if folder not in real:
                real[folder] = os.path.realpath(folder)
            once.setdefault((real[folder], path.name), name)
    return _by_content(spec, "glob", fixed, list(once.values()))


def _by_content(
    spec: str, kind: Kind, folder: File, names: Sequence[str]
) -> tuple[Kind, Entries, containers.Table | None]:
    """Images, else tar shards, else a data set: what the files are decides, and a mixture is refused."""
    images: list[str] = []
    others: dict[str, list[tuple[str, File]]] = {".tar": [], ".parquet": [], ".arrow": []}
    for name in names:
        ending = suffix(name)
        if ending in SUFFIXES:
            images.append(name)
        elif ending in others:
            others[ending].append((name, folder / name))
        elif name.lower().endswith(_COMPRESSED_TARS):
            raise UsageError(
                f"{name}: shard is compressed; shards must be plain .tar so that images can be read in any order",
                f"gunzip {name} (or the like), then name the .tar",
            )
    present = [ending for ending, group in others.items() if group]
    if len(present) + bool(images) > 1:
        kinds = ", ".join((["images"] if images else []) + present)
        raise UsageError(
            f"{spec}: content is a mixture ({kinds}); an image set must be of one kind",
            "name one kind with a quoted glob, for example 'folder/*.tar'",
        )
    if images:
        return kind, file_entries(folder, images), None
    if others[".tar"]:
        return "tar", Entries.of(containers.tar_entries(spec, others[".tar"])), None
    if others[".parquet"]:
        table = containers.Table(others[".parquet"])
        return "parquet", Entries.of(table.entries()), table
    if others[".arrow"]:
        return "arrow", Entries.of(containers.arrow_entries(others[".arrow"])), None
    raise UsageError(
        f"{spec}: number of images found is 0 of {len(names)} files; it must be {KINDS}",
        f"ls {spec if glob.has_magic(spec) else shlex.quote(spec)}  # images are known by suffix: .jpg, .png, .webp, …",
    )


def folder_files(folder: Path) -> list[str]:
    """The names of all visible files below a folder, relative to it, `/` as separator.

    One reached twice (symlinks) is entered once, in sorted order.
    """

    def refuse(fault: OSError) -> None:
        raise UsageError(
            f"{fault.filename}: folder cannot be read ({fault.strerror}); all folders of an image set must be readable",
            f"ls -ld {fault.filename}",
        ) from fault

    seen: set[tuple[int, int]] = set()
    found = []
    for top, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = Path(top).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        below = Path(top).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + name for name in names if not _is_ignored(name)]
    return found


def _is_ignored(name: str) -> bool:
    return any(containers.is_hidden(part) or part in _IGNORED_PARTS for part in name.split("/"))


@dataclass(frozen=True, eq=False, repr=False)
class _Rows:
    """Where the rows of a list or manifest stand, for those whose files were not looked for."""

    path: File
    numbers: array[int]
    """of the line; small integers without an object each"""
    columns: bytes
    """index into PATH_COLUMNS"""

    def missing(self, place: int, value: str) -> UsageError:
        """The error of a row that names no file."""
        shown = value if _is_url(value) else str(self.path.parent / value)
        return UsageError(
            f"{self.path}: row {self.numbers[place]}: {PATH_COLUMNS[self.columns[place]]} is {value}; "
            "there is no such file",
            f"ls -l {shlex.quote(shown)}  # paths are relative to the folder of {self.path.name}",
        )


@dataclass(frozen=True, eq=False, repr=False)
class _Files:
    """Image files by their names, which are relative to a folder, absolute, or URLs."""

    folder: File
    names: Sequence[str]
    labels: Sequence[str | None] | None = None
    rows: _Rows | None = None
    secret: Mapping[int, str] = field(default_factory=dict)
    """the whole URLs of places whose name hides a part"""

    def entry(self, place: int) -> Entry:
        name = self.names[place]
        label = None if self.labels is None else self.labels[place]
        if isinstance(self.folder, RemoteFile) or _is_url(name):
            missing = None if self.rows is None else partial(self.rows.missing, place, name)
            return Entry(name, partial(_read_row, self.folder, self.secret.get(place, name), missing), label)
        path = self.folder / name
        read = partial(_read_file, path)
        if self.rows is not None and place >= CHECKED_ROWS:
            read = partial(_read_promised, path, partial(self.rows.missing, place, name))
        return Entry(name, read, label, origin=str(path))


def file_entries(folder: File, names: Sequence[str]) -> Entries:
    """Image files of a folder, by their names relative to it."""
    return Entries.listed(names, _Files(folder, names).entry)


def _read_promised(path: Path, missing: Callable[[], UsageError]) -> bytes:
    if not os.path.isfile(path):  # noqa: PTH113 # Path.is_file raises where a name is too long
        raise missing()
    return _read_file(path)


def _is_url(name: str) -> bool:
    return "://" in name


def _read_row(folder: File, name: str, missing: Callable[[], UsageError] | None) -> bytes:
    """An image of a store: by its name in a folder of one, or by its own URL."""
    if isinstance(folder, RemoteFile):
        file: str | RemoteFile = folder / name
    else:
        place = remote.parse(name)
        file = place if isinstance(place, str) else open_url(place)
    try:
        return _read_file(Path(file)) if isinstance(file, str) else _read_remote(file)
    except FileNotFoundError as fault:
        if missing is None:
            raise
        raise missing() from fault


def _read_remote(file: RemoteFile) -> bytes:
    try:
        content = file.read_bytes(MAX_FILE_BYTES)
    except StoreError as fault:
        raise UnreadableImageError(f"cannot be read: {fault.reason}") from fault
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file of more than {MAX_FILE_BYTES:,} bytes")
    return content


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        raise UnreadableImageError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file of {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def _quoted(path: File) -> str:
    return shlex.quote(str(path))


def _show(path: File, row: int) -> str:
    """The command that shows one row of a file."""
    return f"sed -n {row}p {_quoted(path)}"


@contextlib.contextmanager
def _text(path: File) -> Generator[TextIO, None, None]:
    """A file of text, opened to be read line by line: only line feeds end one (they do not cut JSON at U+2028)."""
    try:
        with copied(path) as here, here.open(encoding="utf-8-sig") as file:
            yield file
    except EnvironmentFaultError:  # a store's: an OSError too
        raise
    except (OSError, UnicodeDecodeError) as fault:
        reason = str(fault)
        if isinstance(fault, UnicodeDecodeError):  # its position would be that in a piece of the file
            reason = f"byte 0x{fault.object[fault.start]:02x}: {fault.reason}"
        raise UsageError(
            f"{path}: file is not readable UTF-8 text ({reason}); a list or manifest must be", f"file {_quoted(path)}"
        ) from fault


Row = tuple[int, int, object, object]
"""line number, index into PATH_COLUMNS, path, label"""


def _list_rows(path: File, file: TextIO) -> Generator[Row, None, None]:
    for number, line in enumerate(file, 1):
        if not line.isspace():
            yield number, 0, line.removesuffix("\n"), None


def _csv_rows(path: File, file: TextIO) -> Generator[Row, None, None]:
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        places = {name: place for place, name in enumerate(header)}
        column = label = None
        for row in reader:
            if len(row) > len(header):
                raise _too_many_cells(path, reader.line_num)
            if not row:
                continue
            if column is None:
                column = _path_column(path, reader.line_num, places)
                place, label = places[PATH_COLUMNS[column]], places.get("label")
            yield (
                reader.line_num,
                column,
                row[place] if place < len(row) else None,
                row[label] if label is not None and label < len(row) else None,
            )
    except csv.Error as fault:
        raise UsageError(
            f"{path}: row {reader.line_num} is not CSV ({fault}); rows must be CSV", _show(path, reader.line_num)
        ) from fault


_JSON: Final = json.JSONDecoder()


def _json(line: str) -> object:
    """json.loads of a line, in half of its time where that holds no white space around the value and no fault."""
    text = line.removesuffix("\n")
    try:
        row, end = _JSON.raw_decode(text)
    except json.JSONDecodeError:
        return json.loads(text)
    return row if end == len(text) else json.loads(text)


def _jsonl_rows(path: File, file: TextIO) -> Generator[Row, None, None]:
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            row = _json(line)
        except (json.JSONDecodeError, RecursionError) as fault:
            raise UsageError(
                f"{path}: row {number} is not JSON ({fault}); each row must be an object", _show(path, number)
            ) from fault
        if not isinstance(row, dict):
            raise UsageError(
                f"{path}: row {number} is {line.strip()[:60]}; each row must be a JSON object", _show(path, number)
            )
        column = _path_column(path, number, row)
        yield number, column, row[PATH_COLUMNS[column]], row.get("label")


def _too_many_cells(path: File, number: int) -> UsageError:
    return UsageError(
        f"{path}: row {number} has more cells than columns; quote cells that hold a comma", _show(path, number)
    )


def _path_column(path: File, number: int, names: Iterable[str]) -> int:
    for column, name in enumerate(PATH_COLUMNS):
        if name in names:
            return column
    raise UsageError(
        f"{path}: row {number} has the columns {', '.join(names)}; "
        f"one of {', '.join(PATH_COLUMNS)} must name the image",
        _show(path, 1),
    )


def _check_row(folder: File, value: str, what: str) -> None:
    """Refuse a row that this list must not name: a URL while offline; out of the folder of a list in a store."""
    if _is_url(value):
        if isinstance(remote.parse(value), remote.Url) or isinstance(folder, Path):
            return
    elif not value.startswith("/") and ".." not in value.split("/"):
        return
    raise UsageError(f"{what}; a list in a store names files below its own folder, or URLs", "copy the list here first")


def _manifest_entries(path: File, rows_of: Callable[[File, TextIO], Iterable[Row]]) -> Entries:
    """Every row must name a file that is there: a manifest is a promise, unlike a folder.

    To look for a million files takes minutes on a network file system, so only the first CHECKED_ROWS are looked for
    here; a later row, and one in a store, raises the same error when it is read.
    """
    names: list[str] = []
    labels: list[str | None] = []
    shared: dict[str, str] = {}
    secret: dict[int, str] = {}
    numbers, columns = array("Q"), bytearray()
    files = path.parent
    with _text(path) as file:
        for number, column, value, label in rows_of(path, file):
            if not isinstance(value, str) or not value or "\0" in value:
                raise UsageError(
                    f"{path}: row {number}: {PATH_COLUMNS[column]} is {value!r}; it must be the path of an image",
                    _show(path, number),
                )
            if _is_url(value) and (shown := remote.redact(value)) != value:
                secret[len(names)] = value
                names.append(shown)
            else:
                names.append(value)
            numbers.append(number)
            columns.append(column)
            if label is not None:
                text = str(label)
                labels += [None] * (len(names) - 1 - len(labels))
                labels.append(shared.setdefault(text, text))
            if isinstance(files, RemoteFile) or _is_url(value):  # looked for when it is read
                _check_row(files, value, f"{path}: row {number}: {PATH_COLUMNS[column]} is {names[-1]}")
            elif len(names) <= CHECKED_ROWS and not os.path.isfile(files / value):  # noqa: PTH113 # as _read_promised
                raise _Rows(path, numbers, bytes(columns)).missing(len(names) - 1, value)
    if not names:
        raise UsageError(f"{path}: number of images listed is 0; at least one is needed", f"cat {_quoted(path)}")
    if labels:
        labels += [None] * (len(names) - len(labels))
    rows = _Rows(path, numbers, bytes(columns))
    return Entries.listed(names, _Files(files, names, labels or None, rows, secret).entry)
