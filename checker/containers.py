"""Images that lie many in one file: tar shards, Parquet, Arrow, npy. Nothing is unpickled or extracted."""

from __future__ import annotations

import itertools
import shlex
import tarfile
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final, cast, overload

import numpy as np
from numpy.typing import NDArray

from robustcheck_onnx.checker.decode import MAX_FILE_BYTES, SUFFIXES, UnreadableImageError
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.remote_file import RemoteFile, copied

File = Path | RemoteFile
"""where a container lies: on this machine, or in a store"""
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
WINDOW: Final = 256  # rows of a Parquet file fetched and held together: about 25 MB of 100 kB photos
_NPY: Final = b"\x93NUMPY"  # how an npy file starts (numpy.lib.format)
_ZIP: Final = b"PK"  # how an npz file starts
_NO_ARRAY: Final = (  # what numpy and zipfile raise on damaged, encrypted or hostile files
    OSError,
    ValueError,
    EOFError,
    TypeError,
    OverflowError,
    KeyError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)
_CHUNK: Final = 4096  # names looked up together: a list of all places would be 40 bytes an image
_BLOCK: Final = 512  # bytes, the unit of a tar file (POSIX.1-2001)


@dataclass(frozen=True, eq=False)
class Entry:
    """One image, not read yet: read gives the file's bytes, or a (channel, height, width) array."""

    name: str
    read: Callable[[], bytes | NDArray[Any]]
    label: str | None = None
    origin: str = ""
    row: int = -1


def _no_entry(index: int) -> Entry:
    raise IndexError(index)


@dataclass(frozen=True, eq=False, repr=False)
class Entries(Sequence[Entry]):
    """Images in an order of their own, each an Entry when it is asked for.

    A million rows are a million strings, not a million objects; a slice shares them.
    """

    all_names: Sequence[str] = ()
    """in the order of the listing"""
    make: Callable[[int], Entry] = _no_entry
    """of a place in the listing"""
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(image,) int64: place in the listing"""

    @classmethod
    def listed(cls, names: Sequence[str], make: Callable[[int], Entry]) -> Entries:
        """All of a listing, in its order."""
        return cls(names, make, np.arange(len(names), dtype=np.int64))

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Entries:
        """Entries that are there already."""
        return cls.listed([entry.name for entry in entries], entries.__getitem__)

    def take(self, places: NDArray[np.int64]) -> Entries:
        """Those at the given places of this sequence, in that order."""
        return replace(self, order=self.order[places])

    def names(self) -> Iterator[str]:
        """The names in order; no Entry is made."""
        return itertools.chain.from_iterable(self.names_in_chunks())

    def names_in_chunks(self) -> Iterator[list[str]]:
        """The names in order, some thousands at a time."""
        for start in range(0, len(self.order), _CHUNK):
            yield [self.all_names[place] for place in self.order[start : start + _CHUNK].tolist()]

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Entries: ...
    def __getitem__(self, index: int | slice) -> Entry | Entries:
        if isinstance(index, slice):
            return replace(self, order=self.order[index])
        return self.make(int(self.order[index]))


def is_hidden(part: str) -> bool:
    """Whether one part of a path is a hidden file or folder (`.` and `..` are not)."""
    return part.startswith(".") and part not in (".", "..")


def tar_entries(spec: str, shards: Sequence[tuple[str, File]]) -> list[Entry]:
    """The image members of tar shards (webdataset layout), found by reading headers only.

    Where members of one sample differ only after the first dot (`7.jpg`, `7.seg.png`), the one with a plain
    suffix is the image. Links, devices, sparse and hidden members are left out.
    Raises UsageError (not a tar, no image in any shard), CannotAssessError (truncated or damaged).
    """
    entries = []
    for name, path in shards:
        members = [
            (member.name.removeprefix("./"), member.offset_data, member.size)
            for member in _tar_members(path)
            if member.isreg() and not member.issparse()
        ]
        images = [
            member
            for member in members
            if PurePosixPath(member[0]).suffix.lower() in SUFFIXES
            and not any(is_hidden(part) or part == "__MACOSX" for part in member[0].split("/"))
        ]
        plain = {_sample(member) for member, _, _ in images if _is_plain(member)}
        entries += [
            Entry(f"{name}/{member}", partial(_read_span, path, offset, size))
            for member, offset, size in images
            if _is_plain(member) or _sample(member) not in plain
        ]
    if not entries:
        raise UsageError(
            f"{spec}: number of images in {len(shards)} tar file(s) is 0; members must be images (.jpg, …)",
            f"tar tf {shlex.quote(str(shards[0][1]))}",
        )
    return entries


def _sample(member: str) -> str:
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _is_plain(member: str) -> bool:
    return member.rpartition("/")[2].count(".") == 1


def _tar_members(path: File) -> list[tarfile.TarInfo]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = archive.getmembers()
            end = archive.offset
    except EnvironmentFaultError:  # a store's: an OSError too
        raise
    except OSError as fault:
        raise UsageError(f"{path}: file cannot be read ({fault.strerror or fault}); shards must be") from fault
    except tarfile.TarError as fault:
        raise CannotAssessError(
            f"{path}: tar file is damaged ({fault}); shards must be whole, plain tar files",
            f"tar tf {shlex.quote(str(path))}",
        ) from fault
    with path.open("rb") as file:  # tarfile stops without a word at a damaged header
        file.seek(end)
        if any(file.read(_BLOCK)):
            raise CannotAssessError(
                f"{path}: tar file is damaged after {len(members)} members; shards must be whole, plain tar files",
                f"tar tf {shlex.quote(str(path))}",
            )
    return members


def _read_span(path: File, offset: int, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"member of {size:,} bytes, more than {MAX_FILE_BYTES:,}")
    if not isinstance(path, Path):
        return path.read_span(offset, size)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _arrow(module: str, path: File) -> ModuleType:
    try:
        if module == "parquet":
            import pyarrow.parquet as loaded  # noqa: PLC0415 (an extra)
        else:
            import pyarrow.ipc as loaded  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            f"{path}: package pyarrow is not installed; Parquet and Arrow data sets need it",
            "pip install 'robustcheck-onnx[data]'",
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
            if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts:
                raise UnreadableImageError(f"path {where} leaves the data set's folder")
            file = folder / str(where)
            return file.read_bytes() if isinstance(file, Path) else file.read_bytes(MAX_FILE_BYTES)
        value = content
    if not isinstance(value, bytes):
        raise UnreadableImageError("no bytes in this row")
    if len(value) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"row of {len(value):,} bytes, more than {MAX_FILE_BYTES:,}")
    return value


class Table:
    """Rows of Parquet files, fetched WINDOW at a time in the order in which they will be asked for.

    Parquet gives out whole row groups only, so each window reads the groups it needs once and keeps its own
    rows: memory is two windows and one row group, whatever the size of the data set.
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
            self._columns.append(_image_column(path, file.schema_arrow))
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
        """Tell the order in which rows will be read."""
        self._order = list(order)
        self._position = {row: place for place, row in enumerate(order)}

    def _open(self, path: File) -> Any:
        try:
            return self._parquet.ParquetFile(path if isinstance(path, Path) else path.open())
        except EnvironmentFaultError:
            raise
        except (OSError, ValueError) as fault:  # ArrowInvalid is a ValueError
            raise CannotAssessError(
                f"{path}: Parquet file is damaged ({fault}); it must be whole", "copy or download it again"
            ) from fault

    def _read(self, row: int) -> bytes:
        window = self._position[row] // WINDOW
        with self._lock:
            if window not in self._windows:
                self._windows = {kept: self._windows[kept] for kept in self._windows if kept == window - 1}
                self._windows[window] = self._fetch(self._order[window * WINDOW : (window + 1) * WINDOW])
            content = self._windows[window][row]
        if isinstance(content, UnreadableImageError):
            raise content
        return content

    def _fetch(self, rows: Sequence[int]) -> dict[int, bytes | UnreadableImageError]:
        found: dict[int, bytes | UnreadableImageError] = {}
        starts = [first for first, _, _ in self._groups] + [len(self._names)]
        wanted = sorted(rows)
        for (first, index, group), end in zip(self._groups, starts[1:], strict=True):
            here = [row for row in wanted if first <= row < end]
            if not here:
                continue
            path = self._files[index][1]
            try:
                column = self._open(path).read_row_group(group, columns=[self._columns[index]]).column(0)
            except EnvironmentFaultError:
                raise
            except (OSError, ValueError) as fault:
                raise CannotAssessError(f"{path}: row group {group} is damaged ({fault}); it must be whole") from fault
            for row in here:
                try:
                    found[row] = _cell(column[row - first].as_py(), path.parent)
                except UnreadableImageError as fault:
                    found[row] = fault
                except OSError as fault:
                    found[row] = UnreadableImageError(f"cannot be read: {fault.strerror or fault}")
        return found


def arrow_entries(files: Sequence[tuple[str, File]]) -> list[Entry]:
    """Rows of a data set saved by Hugging Face datasets: `*.arrow`, memory-mapped, no `cache-*`.

    Raises UsageError (no image column, no rows), CannotAssessError (damaged), EnvironmentFaultError.
    """
    ipc = _arrow("ipc", files[0][1])
    entries = []
    for name, path in files:
        if path.name.startswith("cache-"):
            continue
        try:
            import pyarrow  # noqa: PLC0415 (an extra)

            with copied(path) as here:
                table = ipc.open_stream(pyarrow.memory_map(str(here))).read_all()
        except EnvironmentFaultError:
            raise
        except (OSError, ValueError) as fault:
            raise CannotAssessError(
                f"{path}: Arrow file is damaged ({fault}); it must be whole", "copy or download it again"
            ) from fault
        column = table.column(_image_column(path, table.schema))
        entries += [
            Entry(f"{name}#{row:08d}", partial(_arrow_cell, column, row, path.parent)) for row in range(len(column))
        ]
    if not entries:
        raise UsageError(f"{files[0][1]}: number of rows is 0; at least one image is needed")
    return entries


def _arrow_cell(column: Any, row: int, folder: File) -> bytes:
    return _cell(column[row].as_py(), folder)


def tensor_entries(path: File) -> list[Entry]:
    """Preprocessed images in an .npy or .npz file: arrays (batch, channel, height, width) of real numbers.

    Never unpickled. Raises UsageError (shape or dtype), CannotAssessError (damaged or pickled).
    """
    hint = "save float32 images (batch, channel, height, width) with numpy.save"
    try:
        with copied(path) as here:
            with here.open("rb") as file:
                start = file.read(len(_NPY))
            if start != _NPY and not start.startswith(_ZIP):
                raise CannotAssessError(
                    f"{path}: file is not a plain array (it starts with {start!r}); it must be npy or npz", hint
                )
            loaded = np.load(here, mmap_mode="r", allow_pickle=False)
            arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except EnvironmentFaultError:
        raise
    except _NO_ARRAY as fault:
        objects = "Python objects" in str(fault) or "Object arrays" in str(fault)
        reason = "it holds Python objects" if objects else str(fault)
        raise CannotAssessError(
            f"{path}: file is not a plain array ({reason}); it must be npy or npz without objects", hint
        ) from fault
    entries = []
    for key, array in sorted(arrays.items()):
        where = f"{path}: array {key}" if key else f"{path}: array"
        if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
            raise UsageError(
                f"{where}: shape is {array.shape}; it must be (batch, 1 or 3 channels, height, width)",
                "transpose it: x.transpose(0, 3, 1, 2) for channels last",
            )
        if array.dtype.kind not in "fu":
            raise UsageError(f"{where}: dtype is {array.dtype}; it must be float or unsigned integer", hint)
        prefix = f"{path.name}/{key}" if key else path.name
        entries += [Entry(f"{prefix}#{row:08d}", partial(_row, array, row)) for row in range(len(array))]
    return entries


def _row(array: NDArray[Any], row: int) -> NDArray[Any]:
    return np.asarray(array[row])
