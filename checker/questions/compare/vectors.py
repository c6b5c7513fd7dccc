"""Read the vectors in a file: arrays, safetensors, Parquet; in blocks, so that memory does not grow with them."""

from __future__ import annotations

import contextlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arrays import NOT_READABLE, AnyArray, Floats
from ...errors import EnvironmentFaultError, UsageError, install_hint
from ...paths import existing_parent, nearest_path
from ...text import quoted
from .similarity import lengths

Block = tuple[Floats, Floats]
"""vectors (vector, feature), and their `lengths`"""
BLOCK = 8192  # vectors that are read and multiplied at once
NAMES = ("vectors", "embeddings", "representations", "embedding", "vector")
"""names of the vectors where a file holds several arrays"""
IDS = ("ids", "id", "names", "name")
Blocks = Iterator[AnyArray]
OpenedFile = tuple[int, int, str, Callable[[], Blocks], Callable[[], Iterator[Any]]]
"""number of vectors, their width and kind, and what reads vectors and ids"""
LISTS = ("list<", "large_list<", "fixed_size_list<")
"""Types of a Parquet column that may hold vectors."""
SAMPLE = 2048  # vectors that show of which form an index is


VectorsByPhoto = Mapping[int, Floats]
"""vectors by the number of their photo"""


class VectorFile(NamedTuple):
    """The vectors of a file. Nothing of them is read yet, and nothing is unpickled."""

    path: Path
    option: str
    """that names the file"""
    n: int
    """of its vectors"""
    width: int
    read: Callable[[], Blocks]
    read_ids: Callable[[], Iterator[Any]]

    @property
    def transposed(self) -> str:
        """Return the step for a file whose vectors are its columns."""
        shape = f"({self.n}, {self.width})"
        return f"numpy.save({self.path.name!r}, vectors.T): its shape is {shape}, so it is transposed"

    def ids(self) -> Iterator[str]:
        """Yield the ids of the vectors, if the file holds any."""
        with readable(self.path, self.option):
            for name in self.read_ids():
                yield name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

    def blocks(self) -> Iterator[Block]:
        """Yield the vectors in blocks. Raises UsageError where one has no direction."""
        n = 0
        with readable(self.path, self.option), np.errstate(over="ignore", invalid="ignore"):
            for vectors in self.read():
                rows = np.asarray(vectors, np.float32)
                size = lengths(rows)
                sound = np.isfinite(size) & (size > 0)
                if not sound.all():
                    raise ValueError(f"vector {n + int(sound.argmin())} is zero or not finite")
                n += len(rows)
                yield rows, size


def open_vectors(path: Path, option: str) -> VectorFile:
    """Open a file of vectors: `.npy`, `.npz`, `.safetensors` or `.parquet`.

    It holds one array (vector, feature) of floats, or one with a name of `NAMES`, and perhaps ids with a name of `IDS`.

    Args:
        path: the file.
        option: the one that names it.

    Raises:
        UsageError: no such file, another kind of file, damaged, no such array.
        EnvironmentFaultError: the package that reads it is not installed.
    """
    with readable(path, option):
        n, width, kind, read, read_ids = _parquet(path) if path.suffix == ".parquet" else _of_arrays(path)
        if n < 2 or not width or kind != "f":
            codes = ""
            if kind in "biu":
                codes = "; whole numbers are codes of a quantised or binary index"
            raise ValueError(
                f"its array has shape ({n}, {width}) and is of kind {kind}{codes}; floats (vector, feature) needed"
            )
    return VectorFile(path, option, n, width, read, read_ids)


@contextlib.contextmanager
def readable(path: Path, option: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a UsageError."""
    try:
        yield
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(f"{path}: package {fault.name} is missing", install_hint("data")) from fault
    except FileNotFoundError as fault:
        near = nearest_path(path)
        step = f"ls {quoted(existing_parent(path))}"
        if near:
            step = f"{option} {quoted(near)}"
        raise UsageError(f"{path}: file of {option} can't be used (No such file or directory)", step) from fault
    except NOT_READABLE as fault:
        reason = getattr(fault, "strerror", None) or str(fault)[:200]
        raise UsageError(
            f"{path}: file of {option} can't be used ({reason})",
            f"numpy.save('vectors.npy', vectors)  # floats (vector, feature); then {option} vectors.npy",
        ) from fault


def _texts(ids: AnyArray) -> list[Any]:
    """Return ids as a list. NumPy does not look at the code points of texts, and Python fails at wrong ones."""
    if ids.dtype.kind == "U":
        code_point = np.dtype(np.uint32).newbyteorder(ids.dtype.byteorder)
        points = np.frombuffer(ids.tobytes(), code_point)
        if points.max(initial=0) > sys.maxunicode:
            raise ValueError("an id is not text")
    return list(ids.tolist())


def _vectors_of(names: Sequence[str]) -> str:
    """Return the name of the vectors. Several arrays may be them."""
    usual = [name for name in NAMES if name in names]
    if not usual and len(names) != 1:
        raise ValueError(f"arrays with two axes are {', '.join(names)[:99] or 'missing'}; name one of them {NAMES[0]}")
    return [*usual, *names][0]


def _arrays(path: Path) -> Mapping[str, Any]:
    """Return what can be sliced of a file, by name. Its bytes are mapped."""
    if path.suffix == ".npy":
        return {"vectors": np.lib.format.open_memmap(path, mode="r")}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {member.filename.removesuffix(".npy"): _mapped(path, member) for member in archive.infolist()}
    if path.suffix != ".safetensors":
        raise ValueError("it must be .npy, .npz, .safetensors or .parquet")
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 # an extra

    try:
        file: Any = safe_open(path, framework="numpy")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 # it can't be iterated over
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


def _mapped(path: Path, member: zipfile.ZipInfo) -> AnyArray:
    """Map an array of an archive."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # of a zip's local header: two lengths, then what has them
        name_length = int.from_bytes(file.read(2), "little")
        extra_length = int.from_bytes(file.read(2), "little")
        file.seek(name_length + extra_length, 1)
        if member.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            fix = f"numpy.savez('plain.npz', **numpy.load({path.name!r})) writes it as needed"
            raise ValueError(f"array {member.filename} is compressed; {fix}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"array {member.filename} holds Python objects")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _of_arrays(path: Path) -> OpenedFile:
    arrays = _arrays(path)
    shapes = {name: _shape_of(array) for name, array in arrays.items()}
    name = _vectors_of([name for name, shape in shapes.items() if len(shape) == 2])
    vectors = arrays[name]
    n, width = shapes[name]
    named = [key for key in IDS if shapes.get(key)]
    ids = [arrays[key] for key in named if shapes[key] == (n,)]
    if named and not ids:
        raise ValueError(f"{named[0]} has shape {shapes[named[0]]} for {n} {name}; one id per vector needed")

    def read() -> Blocks:
        return _blocks(vectors, n)

    def read_ids() -> Iterator[Any]:
        for block in _blocks(ids[0], n) if ids else ():
            yield from _texts(block)

    return n, width, vectors[:1].dtype.kind, read, read_ids


def _shape_of(array: Any) -> tuple[int, ...]:
    shape = array.shape if isinstance(array, np.ndarray) else array.get_shape()
    return tuple(shape)


def _blocks(array: Any, n: int) -> Blocks:
    """Yield the n rows of an array in blocks."""
    for first in range(0, n, BLOCK):
        yield array[first : min(first + BLOCK, n)]


def _parquet(path: Path) -> OpenedFile:
    import pyarrow.parquet as pq  # noqa: PLC0415 # an extra

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    lists = [field.name for field in file.schema_arrow if str(field.type).startswith(LISTS)]
    name = _vectors_of(lists)
    ids = [key for key in IDS if key in names][:1]
    batch = next(file.iter_batches(1, columns=[name]), None)
    if batch is None:  # the number of rows that the file claims may be wrong
        raise ValueError("it has no rows")
    first = batch[0].flatten().to_numpy(zero_copy_only=False)

    def read() -> Blocks:
        for batch in file.iter_batches(BLOCK, columns=[name]):
            batch.validate(full=True)
            vectors = batch[name]
            if vectors.null_count or {len(row) for row in vectors} != {len(first)}:
                raise ValueError(f"a row of {name} has not {len(first)} values")
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(vectors), -1)

    def read_ids() -> Iterator[Any]:
        for batch in file.iter_batches(BLOCK, columns=ids) if ids else ():
            batch.validate(full=True)
            yield from batch[ids[0]].to_pylist()

    return file.metadata.num_rows, len(first), first.dtype.kind, read, read_ids
