"""Read files that hold many images each: tar shards and arrays. Nothing is unpickled or extracted to disk."""

from __future__ import annotations

import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from robustcheck_onnx.checker.arrays import AnyArray
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.storage.stores import copied
from robustcheck_onnx.checker.text import quoted

from .decode import MAX_FILE_BYTES, SUFFIXES, UnreadableImageError
from .entries import Entry, File, is_hidden

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
_BLOCK: Final = 512  # bytes, the unit of a tar file (POSIX.1-2001)


def tar_entries(spec: str, shards: Sequence[tuple[str, File]]) -> list[Entry]:
    """List the image members of tar shards (webdataset layout) by reading headers only.

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
            f"tar tf {quoted(shards[0][1])}",
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
            members, before = [], -1
            for member in archive:
                if archive.offset <= before:  # a negative size: some Pythons would read the same header for ever
                    raise tarfile.ReadError(f"size of member {member.name!r:.80} is {member.size}")
                members.append(member)
                before = archive.offset
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
    if size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"member of {size:,} bytes, more than {MAX_FILE_BYTES:,}")
    if not isinstance(path, Path):
        return path.read_span(offset, size)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def tensor_entries(path: File) -> list[Entry]:
    """List the preprocessed images in an .npy or .npz file: arrays (batch, channel, height, width) of real numbers.

    Never unpickled. Raises UsageError (shape or dtype, images of several shapes), CannotAssessError (damaged or
    pickled).
    """
    hint = "save float32 images (batch, channel, height, width) with numpy.save"
    try:
        with copied(path) as local:
            with local.open("rb") as file:
                start = file.read(len(_NPY))
            if start != _NPY and not start.startswith(_ZIP):
                raise CannotAssessError(
                    f"{path}: file is not a plain array (it starts with {start!r}); it must be npy or npz", hint
                )
            loaded = np.load(local, mmap_mode="r", allow_pickle=False)
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
    shapes: dict[tuple[int, ...], str] = {}  # of an image: the first array that has it
    for key, array in sorted(arrays.items()):
        where = f"{path}: array {key}" if key else f"{path}: array"
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of a member that is none
            raise CannotAssessError(f"{path}: member {key:.200} is no array; all must be", hint)
        if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
            raise UsageError(
                f"{where}: shape is {array.shape}; it must be (batch, 1 or 3 channels, height, width)",
                "transpose it: x.transpose(0, 3, 1, 2) for channels last",
            )
        if array.dtype.kind not in "fu":
            raise UsageError(f"{where}: dtype is {array.dtype}; it must be float or unsigned integer", hint)
        shapes.setdefault(array.shape[1:], key)
        if len(shapes) > 1:
            (first, of), *_ = shapes.items()
            raise UsageError(
                f"{where}: images (channel, height, width) are {array.shape[1:]}, those of array {of} {first}; they "
                "must be the same in all arrays",
                "numpy.savez a file for each shape",
            )
        prefix = f"{path.name}/{key}" if key else path.name
        entries += [Entry(f"{prefix}#{row:08d}", partial(_row, array, row)) for row in range(len(array))]
    return entries


def _row(array: AnyArray, row: int) -> AnyArray:
    return np.asarray(array[row])
