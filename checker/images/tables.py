"""Read images from the rows of Parquet and Arrow tables (Hugging Face data sets) with pyarrow (the extra `data`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final, cast

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.storage.stores import copied

from .decode import MAX_FILE_BYTES, UnreadableImageError
from .entries import Entry, File, read_file

IMAGE_COLUMNS: Final = (
    "image",
    "img",
    "picture",
    "photo",
    "jpg",
    "png",
    "webp",
    "bytes",
)  # usual names, in order
_DAMAGE: Final = (OSError, ValueError, LookupError, TypeError, NotImplementedError)  # pyarrow, of a damaged file
WINDOW: Final = 256  # rows of a Parquet file fetched and held together: about 25 MB of 100 kB photos


class Table:
    """Rows of Parquet files, read WINDOW at a time in the order in which they will be asked for.

    Parquet is read in whole row groups, so a window reads each group it needs once and keeps only its own rows:
    memory is two windows and one row group, whatever the size of the data set.
    """

    def __init__(self, files: Sequence[tuple[str, File]]) -> None:
        self._files = files
        self._parquet = _arrow("parquet", files[0][1])
        self._groups: list[tuple[int, int, int]] = []  # first row over all files, file, row group
        self._columns: list[str] = []
        self._names: list[str] = []
        self._order: list[int] = []
        self._position: dict[int, int] = {}
        self._windows: dict[int, dict[int, bytes | UnreadableImageError]] = {}
        self._lock = threading.Lock()
        for index, (name, path) in enumerate(files):
            file = self._open(path)
            try:
                self._columns.append(_image_column(path, file.schema_arrow))
            except _DAMAGE as fault:
                raise _damaged(path, "Parquet", fault) from fault
            first = 0
            for group in range(file.num_row_groups):
                self._groups.append((len(self._names), index, group))
                n_rows = file.metadata.row_group(group).num_rows
                self._names += [f"{name}#{first + row:08d}" for row in range(n_rows)]
                first += n_rows
        if not self._names:
            raise UsageError(f"{files[0][1]}: number of rows is 0; at least one image is needed")

    def entries(self) -> list[Entry]:
        """One entry for each row of all files, in file order."""
        return [Entry(name, partial(self._read, row), row=row) for row, name in enumerate(self._names)]

    def plan(self, order: Sequence[int]) -> None:
        """Set the order in which rows will be read; must come before the first read."""
        self._order = list(order)
        self._position = {row: place for place, row in enumerate(order)}

    def _open(self, path: File) -> Any:
        try:
            return self._parquet.ParquetFile(path if isinstance(path, Path) else path.open())
        except EnvironmentFaultError:
            raise
        except _DAMAGE as fault:
            raise _damaged(path, "Parquet", fault) from fault

    def _read(self, row: int) -> bytes:
        window = self._position[row] // WINDOW
        with self._lock:
            if window not in self._windows:
                self._windows = {n: rows for n, rows in self._windows.items() if n == window - 1}
                self._windows[window] = self._fetch(self._order[window * WINDOW : (window + 1) * WINDOW])
            content = self._windows[window][row]
        if isinstance(content, UnreadableImageError):
            raise content
        return content

    def _fetch(self, rows: Sequence[int]) -> dict[int, bytes | UnreadableImageError]:
        contents: dict[int, bytes | UnreadableImageError] = {}
        starts = [first for first, _, _ in self._groups] + [len(self._names)]
        wanted = sorted(rows)
        for (first, index, group), end in zip(self._groups, starts[1:], strict=True):
            in_group = [row for row in wanted if first <= row < end]
            if not in_group:
                continue
            path = self._files[index][1]
            try:
                column = self._open(path).read_row_group(group, columns=[self._columns[index]]).column(0)
            except EnvironmentFaultError:
                raise
            except _DAMAGE as fault:
                raise CannotAssessError(f"{path}: row group {group} is damaged ({fault}); it must be whole") from fault
            for row in in_group:
                try:
                    contents[row] = _cell(_value(column, row - first), path.parent)
                except UnreadableImageError as fault:
                    contents[row] = fault
                except OSError as fault:
                    contents[row] = UnreadableImageError(f"cannot be read: {fault.strerror or fault}")
        return contents


def arrow_entries(files: Sequence[tuple[str, File]]) -> list[Entry]:
    """List the rows of a data set saved by Hugging Face datasets: `*.arrow`, memory-mapped, without `cache-*`.

    Raises UsageError (no image column, no rows), CannotAssessError (damaged), EnvironmentFaultError.
    """
    ipc = _arrow("ipc", files[0][1])
    entries = []
    for name, path in files:
        if path.name.startswith("cache-"):
            continue
        try:
            import pyarrow  # noqa: PLC0415 (an extra)

            with copied(path) as local:
                reader = ipc.open_stream(pyarrow.memory_map(str(local)))
            name_of_column = _image_column(path, reader.schema)
            column = pyarrow.chunked_array(
                [_sound(batch.column(name_of_column)) for batch in reader],
                type=reader.schema.field(name_of_column).type,
            )
        except EnvironmentFaultError:
            raise
        except _DAMAGE as fault:
            raise _damaged(path, "Arrow", fault) from fault
        entries += [
            Entry(f"{name}#{row:08d}", partial(_arrow_cell, column, row, path.parent)) for row in range(len(column))
        ]
    if not entries:
        raise UsageError(f"{files[0][1]}: number of rows is 0; at least one image is needed")
    return entries


def _damaged(path: File, kind: str, fault: Exception) -> CannotAssessError:
    return CannotAssessError(f"{path}: {kind} file is damaged ({fault}); it must be whole", "copy or download it again")


def _sound(array: Any) -> Any:
    """Check the lengths and offsets of an array: pyarrow trusts them, and ends the process at wrong ones."""
    array.validate(full=True)
    return array


def _arrow_cell(column: Any, row: int, folder: File) -> bytes:
    return _cell(_value(column, row), folder)


def _value(column: Any, row: int) -> Any:
    """Read a cell; a damaged file may have fewer rows than it says, or text that is none."""
    try:
        return column[row].as_py()
    except _DAMAGE as fault:
        raise UnreadableImageError(f"damaged cell ({fault})") from fault


def _arrow(module: str, path: File) -> ModuleType:
    try:
        if module == "parquet":
            import pyarrow.parquet as loaded  # noqa: PLC0415 (an extra)
        else:
            import pyarrow.ipc as loaded  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            f"{path}: package pyarrow is not installed; Parquet and Arrow data sets need it",
            install_hint("data"),
        ) from fault
    return cast(ModuleType, loaded)


def _image_column(path: File, schema: Any) -> str:
    """The column of struct{bytes, path} (Hugging Face) or binary: by usual name, or the only one."""

    def holds_images(kind: Any) -> bool:
        text = str(kind)
        return "bytes: " in text if text.startswith("struct<") else text.endswith(("binary", "binary_view"))

    fitting = [field.name for field in schema if holds_images(field.type)]
    usual = [name for name in IMAGE_COLUMNS if name in fitting]
    if usual:
        return usual[0]
    if len(fitting) == 1:
        return str(fitting[0])
    raise UsageError(
        f"{path}: columns are {', '.join(f'{field.name} ({field.type})'[:60] for field in schema)}; "
        "one must be named image and hold bytes, or struct{bytes, path}",
    )


def _cell(value: Any, folder: File) -> bytes:
    if isinstance(value, dict):
        content, where = value.get("bytes"), value.get("path")
        if content is None and where:
            if not isinstance(where, str) or "\0" in where:
                raise UnreadableImageError("the row's path is no text that a file may be named")
            if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts:
                raise UnreadableImageError(f"path {where} leaves the data set's folder")
            file = folder / str(where)
            return read_file(file) if isinstance(file, Path) else file.read_bytes(MAX_FILE_BYTES)
        value = content
    if not isinstance(value, bytes):
        raise UnreadableImageError("no bytes in this row")
    if len(value) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"row of {len(value):,} bytes, more than {MAX_FILE_BYTES:,}")
    return value
