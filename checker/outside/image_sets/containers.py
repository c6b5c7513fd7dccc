"""Read files with many images: tar shards, arrays, and Parquet and Arrow tables.

An image is a `ListedImage`, which has a name and is not read yet. Nothing is unpickled or extracted to disk. Tables
(Hugging Face data sets) need pyarrow, the extra `data`.
"""

from __future__ import annotations

import importlib
import itertools
import tarfile
import threading
import tokenize
import zipfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...arrays import Counts
from ...core.images.entries import Entries, ListedImage
from ...core.images.preprocess import DAMAGE, MAX_FILE_BYTES, UnreadableImageError
from ...errors import CannotAssessError, EnvironmentFaultError, UsageError, install_hint
from ...paths import SUFFIXES
from ...text import Fields, quoted
from ..storage.places import is_hidden
from ..storage.stores import copied
from .files import File, check_size, read_file

Shards = Sequence[tuple[str, File]]
"""files with many images, each with its name in the set"""
Contents = dict[int, bytes | UnreadableImageError]
"""by row"""
_NPY = b"\x93NUMPY"  # how an npy file starts (numpy.lib.format)
_ZIP = b"PK"  # how an npz file starts
# what numpy and zipfile raise on damaged, encrypted or hostile files
_NO_ARRAY = (*DAMAGE, tokenize.TokenError, zipfile.BadZipFile)
_BLOCK = 512  # bytes, the unit of a tar file (POSIX.1-2001)

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png", "webp", "bytes")  # usual names, in order
_DAMAGE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)  # pyarrow, of a damaged file
WINDOW = 256  # rows of a Parquet file fetched and held together: about 25 MB of 100 kB photos


def tar_entries(spec: str, shards: Shards) -> list[ListedImage]:
    """List the image members of tar shards (webdataset) by their headers.

    Where members of one sample differ only after the first dot (`7.jpg`, `7.seg.png`), the one with a plain
    suffix is the image. Links, devices, sparse and hidden members are left out.
    Raises UsageError (not a tar, no image in any shard), CannotAssessError (truncated or damaged).
    """
    entries: list[ListedImage] = []
    for name, path in shards:
        images = [member for member in _tar_members(path) if _is_image(member)]
        plain = {_sample(image.name) for image in images if _is_plain(image.name)}
        for image in images:
            if _is_plain(image.name) or _sample(image.name) not in plain:
                read = partial(_read_span, path, image.offset_data, image.size)
                entries.append(ListedImage(f"{name}/{image.name}", read))
    if not entries:
        raise UsageError(
            f"{spec}: no images found in {len(shards)} tar file(s); members must be images (.jpg, …)",
            f"tar tf {quoted(shards[0][1])}",
        )
    return entries


def _is_image(member: tarfile.TarInfo) -> bool:
    if not member.isreg() or member.issparse() or PurePosixPath(member.name).suffix.lower() not in SUFFIXES:
        return False
    return not any(is_hidden(part) or part == "__MACOSX" for part in member.name.split("/"))


def _sample(member: str) -> str:
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _is_plain(member: str) -> bool:
    return member.rpartition("/")[2].count(".") == 1


def _tar_members(path: File) -> list[tarfile.TarInfo]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = []
            end = -1
            for member in archive:
                if archive.offset <= end:  # a negative size: some Pythons would read the same header forever
                    raise tarfile.ReadError(f"size of member {member.name!r:.80} is {member.size}")
                member.name = member.name.removeprefix("./")
                members.append(member)
                end = archive.offset
            end = archive.offset
    except EnvironmentFaultError:  # a store's: an OSError too
        raise
    except OSError as fault:
        raise UsageError(f"{path}: file cannot be read ({fault.strerror or fault}); shards must be") from fault
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as fault:  # sizes, and headers of headers
        raise CannotAssessError(
            f"{path}: tar file is damaged ({fault!s:.200}); shards must be whole, plain tar files",
            f"tar tf {quoted(path)}",
        ) from fault
    with path.open("rb") as file:  # tarfile stops without a word at a damaged header
        file.seek(end)
        if any(file.read(_BLOCK)):
            raise CannotAssessError(
                f"{path}: tar file is damaged after {len(members)} members; shards must be whole, plain tar files",
                f"tar tf {quoted(path)}",
            )
    return members


def _read_span(path: File, offset: int, size: int) -> bytes:
    check_size("member", size)
    if not isinstance(path, Path):
        return path.read_span(offset, size)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def tensor_entries(path: File) -> list[ListedImage]:
    """List the preprocessed images of an .npy or .npz file: arrays (batch, channel, height, width) of real numbers.

    Never unpickled. Raises UsageError (shape or dtype, images of several shapes), CannotAssessError (damaged or
    pickled).
    """
    hint = "save float32 images (batch, channel, height, width) with numpy.save"
    entries: list[ListedImage] = []
    shapes: dict[tuple[int, ...], str] = {}  # of an image: the first array that has it
    for key, block in sorted(_arrays_in(path, hint).items()):
        where = f"{path}: array {key}" if key else f"{path}: array"
        if not isinstance(block, np.ndarray):  # numpy gives the bytes of a member that is none
            raise CannotAssessError(f"{path}: member {key:.200} is not an array; all must be", hint)
        if block.ndim != 4 or block.shape[1] not in (1, 3) or 0 in block.shape:
            raise UsageError(
                f"{where}: shape is {block.shape}; it must be (batch, 1 or 3 channels, height, width)",
                "transpose it: x.transpose(0, 3, 1, 2) for channels last",
            )
        if block.dtype.kind not in "fu":
            raise UsageError(f"{where}: dtype is {block.dtype}; it must be float or unsigned integer", hint)
        shapes.setdefault(block.shape[1:], key)
        if len(shapes) > 1:
            (first, of), *_ = shapes.items()
            raise UsageError(
                f"{where}: images (channel, height, width) are {block.shape[1:]}, those of array {of} {first}; they "
                "must be the same in all arrays",
                "numpy.savez a file for each shape",
            )
        prefix = f"{path.name}/{key}" if key else path.name
        for row in range(len(block)):
            entries.append(ListedImage(f"{prefix}#{row:08d}", partial(block.__getitem__, row)))
    return entries


def _arrays_in(path: File, hint: str) -> Fields:
    """Return the arrays of a file by their names, as NumPy maps or reads them."""
    try:
        with copied(path) as local:
            with local.open("rb") as file:
                start = file.read(len(_NPY))
            if start != _NPY and not start.startswith(_ZIP):
                raise CannotAssessError(
                    f"{path}: file is not a plain array (it starts with {start!r}); it must be npy or npz", hint
                )
            loaded = np.load(local, mmap_mode="r", allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            return dict(loaded)
    except EnvironmentFaultError:
        raise
    except _NO_ARRAY as fault:
        reason = str(fault)
        if "Python objects" in reason or "Object arrays" in reason:
            reason = "it holds Python objects"
        raise CannotAssessError(
            f"{path}: file is not a plain array ({reason}); it must be npy or npz without objects", hint
        ) from fault


class ParquetTable:
    """The rows of Parquet files, read WINDOW at a time, in the order in which they are needed.

    Parquet is read in whole row groups, so a window reads each group it needs once and keeps only its own rows:
    memory is two windows and one row group, whatever the size of the data set.
    """

    def __init__(self, files: Shards) -> None:
        self._files = files
        self._parquet = _arrow("parquet", files[0][1])
        self._groups: list[tuple[int, int, int]] = []  # first row over all files, file, row group
        self._columns: list[str] = []
        self._names: list[str] = []
        self._order: list[int] = []
        self._position: dict[int, int] = {}
        self._windows: dict[int, Contents] = {}
        self._lock = threading.Lock()
        for index, (name, path) in enumerate(files):
            file = self._open(path)
            with _damage(path, "Parquet"):
                self._columns.append(_image_column(path, file.schema_arrow))
            first = 0
            for group in range(file.num_row_groups):
                self._groups.append((len(self._names), index, group))
                n_rows = file.metadata.row_group(group).num_rows
                self._names += [f"{name}#{first + row:08d}" for row in range(n_rows)]
                first += n_rows
        if not self._names:
            raise UsageError(f"{files[0][1]}: no rows found; at least one image is needed")

    def entries(self) -> Entries:
        """Return one entry per row, in file order."""
        return replace(Entries.listed(self._names, self._entry), plan=self._plan)

    def _entry(self, row: int) -> ListedImage:
        return ListedImage(self._names[row], partial(self._read, row), row=row)

    def _plan(self, order: Counts) -> None:
        self._order = order.tolist()
        self._position = {row: place for place, row in enumerate(self._order)}

    def _open(self, path: File) -> Any:
        with _damage(path, "Parquet"):
            return self._parquet.ParquetFile(path if isinstance(path, Path) else path.open())

    def _read(self, row: int) -> bytes:
        window = self._position[row] // WINDOW
        with self._lock:
            if window not in self._windows:
                start = window * WINDOW
                self._windows = {n: rows for n, rows in self._windows.items() if n == window - 1}
                self._windows[window] = self._fetch(self._order[start : start + WINDOW])
            content = self._windows[window][row]
        if isinstance(content, UnreadableImageError):
            raise content
        return content

    def _fetch(self, rows: Sequence[int]) -> Contents:
        contents: Contents = {}
        starts = [first for first, _, _ in self._groups]
        for place, in_group in itertools.groupby(sorted(rows), lambda row: bisect(starts, row) - 1):
            first, index, group = self._groups[place]
            _, path = self._files[index]
            try:
                name = self._columns[index]
                column = self._open(path).read_row_group(group, columns=[name]).column(0)
            except EnvironmentFaultError:
                raise
            except _DAMAGE as fault:
                raise CannotAssessError(f"{path}: row group {group} is damaged ({fault}); it must be whole") from fault
            for row in in_group:
                try:
                    contents[row] = _cell(column, row - first, path.parent)
                except UnreadableImageError as fault:
                    contents[row] = fault
                except OSError as fault:
                    contents[row] = UnreadableImageError(f"cannot be read: {fault.strerror or fault}")
        return contents


def arrow_entries(files: Shards) -> list[ListedImage]:
    """List the rows of a saved Hugging Face data set, whose `*.arrow` files but `cache-*` are memory-mapped.

    Raises UsageError (no image column, no rows), CannotAssessError (damaged), EnvironmentFaultError.
    """
    ipc = _arrow("ipc", files[0][1])
    entries = []
    for name, path in files:
        if path.name.startswith("cache-"):
            continue
        with _damage(path, "Arrow"):
            import pyarrow  # noqa: PLC0415 (an extra)

            with copied(path) as local:
                reader = ipc.open_stream(pyarrow.memory_map(str(local)))
            of_images = reader.schema.field(_image_column(path, reader.schema))
            arrays = [_sound(batch.column(of_images.name)) for batch in reader]
            column = pyarrow.chunked_array(arrays, type=of_images.type)
        for row in range(len(column)):
            entries.append(ListedImage(f"{name}#{row:08d}", partial(_cell, column, row, path.parent)))
    if not entries:
        raise UsageError(f"{files[0][1]}: no rows found; at least one image is needed")
    return entries


@contextmanager
def _damage(path: File, kind: str) -> Iterator[None]:
    """Turn pyarrow's errors about damage into CannotAssessError."""
    try:
        yield
    except EnvironmentFaultError:  # a store's: an OSError too
        raise
    except _DAMAGE as fault:
        raise CannotAssessError(
            f"{path}: {kind} file is damaged ({fault}); it must be whole", "copy or download it again"
        ) from fault


def _sound(array: Any) -> Any:
    """Check the lengths and offsets of an array, which pyarrow trusts, so that wrong ones end the process."""
    array.validate(full=True)
    return array


def _arrow(module: str, path: File) -> Any:
    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            f"{path}: package pyarrow is not installed; Parquet and Arrow data sets need it", install_hint("data")
        ) from fault


def _image_column(path: File, schema: Any) -> str:
    """Return the name of the column of binary or struct{bytes, path} (Hugging Face): a usual name, or the only one."""

    def holds_images(kind: Any) -> bool:
        text = str(kind)
        return "bytes: " in text if text.startswith("struct<") else text.endswith(("binary", "binary_view"))

    fitting = [field.name for field in schema if holds_images(field.type)]
    usual = [name for name in IMAGE_COLUMNS if name in fitting]
    if usual:
        return usual[0]
    if len(fitting) == 1:
        return str(fitting[0])
    columns = [f"{field.name} ({field.type})"[:60] for field in schema]
    raise UsageError(
        f"{path}: columns are {', '.join(columns)}; one must be named image and hold bytes, or struct{{bytes, path}}"
    )


def _cell(column: Any, row: int, folder: File) -> bytes:
    """Read a cell of a file that, if damaged, has fewer rows than its header counts, or invalid text."""
    try:
        value = column[row].as_py()
    except _DAMAGE as fault:
        raise UnreadableImageError(f"damaged cell ({fault})") from fault
    if isinstance(value, dict):
        where = value.get("path")
        value = value.get("bytes")
        if value is None and where:
            if not isinstance(where, str) or "\0" in where:
                raise UnreadableImageError("the row's path is not text that a file may be named")
            inside = PurePosixPath(where)
            if inside.is_absolute() or ".." in inside.parts:
                raise UnreadableImageError(f"path {where} leaves the data set's folder")
            file = folder / where
            return read_file(file) if isinstance(file, Path) else file.read_bytes(MAX_FILE_BYTES)
    if not isinstance(value, bytes):
        raise UnreadableImageError("no bytes in this row")
    check_size("row", len(value))
    return value
