"""The files meant by --images: a folder, a glob, a list, a manifest, or a file that holds many images."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import shlex
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Final, Literal

from robustcheck_onnx.checker import containers
from robustcheck_onnx.checker.containers import Entry
from robustcheck_onnx.checker.decode import MAX_FILE_BYTES, SUFFIXES, UnreadableImageError
from robustcheck_onnx.checker.errors import UsageError

Kind = Literal["bundled", "image", "folder", "glob", "list", "manifest", "tar", "parquet", "arrow", "tensors"]

PATH_COLUMNS: Final = ("path", "image", "file")  # of a manifest, the first that is there
KINDS: Final = (
    "a folder, a glob, an image, a list (.txt), a manifest (.csv, .jsonl), .tar shards, .parquet, .arrow, .npy or .npz"
)
_IGNORED_PARTS: Final = ("@eaDir", "__MACOSX")  # thumbnails of NAS systems, macOS archives
_COMPRESSED_TARS: Final = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


def index(spec: str) -> tuple[Kind, list[Entry], containers.Table | None]:
    """Everything `spec` names as unread images, not ordered yet; a Parquet table wants a plan before reading.

    Raises UsageError, EnvironmentFaultError, CannotAssessError as images.open_images says.
    """
    if not spec.strip():  # an empty variable in a script; Path("") would be the current folder
        raise UsageError(f"--images is {spec!r}; it must be {KINDS}", "leave out --images for the bundled photos")
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
        return _by_content(spec, "folder", folder_files(path))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{spec}: image set is not a regular file or folder; it must be {KINDS}", "--images FOLDER")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return "list", _list_entries(path), None
    if suffix == ".csv":
        return "manifest", _manifest_entries(path, _csv_rows(path)), None
    if suffix in (".jsonl", ".ndjson"):
        return "manifest", _manifest_entries(path, _jsonl_rows(path)), None
    if suffix in (".npy", ".npz"):
        return "tensors", containers.tensor_entries(path), None
    return _by_content(spec, "image", [_file_entry(path.name, path)])


def _index_glob(spec: str) -> tuple[Kind, list[Entry], containers.Table | None]:
    parts = Path(spec).expanduser().parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    # Path.glob does not enter symlinked folders with **
    found = [Path(match) for match in glob.glob(str(Path(*parts)), recursive=True)]  # noqa: PTH207
    files = [(path.relative_to(fixed).as_posix(), path) for path in found if not path.is_dir()]
    once: dict[tuple[str, str], Entry] = {}
    for name, path in sorted(files, key=lambda file: (file[0].count("/"), file[0])):
        if not _is_ignored(name):
            once.setdefault((os.path.realpath(path.parent), path.name), _file_entry(name, path))
    return _by_content(spec, "glob", list(once.values()))


def _by_content(spec: str, kind: Kind, files: list[Entry]) -> tuple[Kind, list[Entry], containers.Table | None]:
    """Images, else tar shards, else a data set: what the files are decides, and a mixture is refused."""
    for entry in files:
        if entry.name.lower().endswith(_COMPRESSED_TARS):
            raise UsageError(
                f"{entry.name}: shard is compressed; shards must be plain .tar so that images can be read in any order",
                f"gunzip {entry.name} (or the like), then name the .tar",
            )
    images = [entry for entry in files if _suffix(entry.name) in SUFFIXES]
    others = {
        suffix: [(entry.name, Path(entry.origin)) for entry in files if _suffix(entry.name) == suffix]
        for suffix in (".tar", ".parquet", ".arrow")
    }
    present = [suffix for suffix, group in others.items() if group]
    if len(present) + bool(images) > 1:
        kinds = ", ".join((["images"] if images else []) + present)
        raise UsageError(
            f"{spec}: content is a mixture ({kinds}); an image set must be of one kind",
            "name one kind with a quoted glob, for example 'folder/*.tar'",
        )
    if images:
        return kind, images, None
    if others[".tar"]:
        return "tar", containers.tar_entries(spec, others[".tar"]), None
    if others[".parquet"]:
        table = containers.Table(others[".parquet"])
        return "parquet", table.entries(), table
    if others[".arrow"]:
        return "arrow", containers.arrow_entries(others[".arrow"]), None
    raise UsageError(
        f"{spec}: number of images found is 0 of {len(files)} files; it must be {KINDS}",
        f"ls {spec if glob.has_magic(spec) else shlex.quote(spec)}  # images are known by suffix: .jpg, .png, .webp, …",
    )


def folder_files(folder: Path) -> list[Entry]:
    """Every visible file below a folder; one reached twice (symlinks) is entered once, in sorted order."""

    def refuse(fault: OSError) -> None:
        raise UsageError(
            f"{fault.filename}: folder cannot be read ({fault.strerror}); all folders of an image set must be readable",
            f"ls -ld {fault.filename}",
        ) from fault

    seen: set[tuple[int, int]] = set()
    entries = []
    for top, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = Path(top).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        for name in names:
            if not _is_ignored(name):
                path = Path(top, name)
                entries.append(_file_entry(path.relative_to(folder).as_posix(), path))
    return entries


def _is_ignored(name: str) -> bool:
    return any(containers.is_hidden(part) or part in _IGNORED_PARTS for part in name.split("/"))


def _file_entry(name: str, path: Path, label: str | None = None) -> Entry:
    return Entry(name, partial(_read_file, path), label, origin=str(path))


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        raise UnreadableImageError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file of {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _show(path: Path, row: int) -> str:
    """The command that shows one row of a file."""
    return f"sed -n {row}p {_quoted(path)}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            f"{path}: file is not readable UTF-8 text ({fault}); a list or manifest must be", f"file {_quoted(path)}"
        ) from fault


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered from 1; only line feeds end a line (str.splitlines would cut JSON strings at U+2028)."""
    return [(number, line.removesuffix("\r")) for number, line in enumerate(_text_of(path).split("\n"), 1)]


def _list_entries(path: Path) -> list[Entry]:
    return _manifest_entries(path, [(number, {"path": line}) for number, line in _lines(path) if line.strip()])


def _csv_rows(path: Path) -> list[tuple[int, dict[str | None, object]]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        return [(reader.line_num, dict(row)) for row in reader]
    except csv.Error as fault:
        raise UsageError(
            f"{path}: row {reader.line_num} is not CSV ({fault}); rows must be CSV", _show(path, reader.line_num)
        ) from fault


def _jsonl_rows(path: Path) -> list[tuple[int, dict[str | None, object]]]:
    rows: list[tuple[int, dict[str | None, object]]] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as fault:
            raise UsageError(
                f"{path}: row {number} is not JSON ({fault}); each row must be an object", _show(path, number)
            ) from fault
        if not isinstance(row, dict):
            raise UsageError(
                f"{path}: row {number} is {line.strip()[:60]}; each row must be a JSON object", _show(path, number)
            )
        rows.append((number, row))
    return rows


def _manifest_entries(path: Path, rows: Sequence[tuple[int, dict[str | None, object]]]) -> list[Entry]:
    """Every row must name a file that is there: a manifest is a promise, unlike a folder."""
    entries = []
    for number, row in rows:
        if None in row:
            raise UsageError(
                f"{path}: row {number} has more cells than columns; quote cells that hold a comma", _show(path, number)
            )
        column = next((name for name in PATH_COLUMNS if name in row), None)
        if column is None:
            names = ", ".join(str(name) for name in row)
            raise UsageError(
                f"{path}: row {number} has the columns {names}; one of {', '.join(PATH_COLUMNS)} must name the image",
                _show(path, 1),
            )
        value, label = row[column], row.get("label")
        if not isinstance(value, str) or not value or "\0" in value:
            raise UsageError(
                f"{path}: row {number}: {column} is {value!r}; it must be the path of an image", _show(path, number)
            )
        image = path.parent / value
        if not image.is_file():
            raise UsageError(
                f"{path}: row {number}: {column} is {value}; there is no such file",
                f"ls -l {_quoted(image)}  # paths are relative to the folder of {path.name}",
            )
        entries.append(_file_entry(value, image, None if label is None else str(label)))
    if not entries:
        raise UsageError(f"{path}: number of images listed is 0; at least one is needed", f"cat {_quoted(path)}")
    return entries
