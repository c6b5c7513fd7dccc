"""Read vectors of a file in blocks.

They are an index that somebody built, or the embeddings of classes.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from robustcheck_onnx.checker.arrays import AnyArray
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint

from .neighbours import Block, lengths

BLOCK: Final = 8192  # vectors that are read and multiplied at once
NAMES: Final = ("vectors", "embeddings", "representations", "embedding", "vector")
"""names of the vectors where a file holds several arrays"""
IDS: Final = ("ids", "id", "names", "name")
DAMAGE: Final = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error),
)
"""what a reader raises where a file is damaged or encrypted, or claims what it does not hold"""

Blocks = Iterator[tuple[AnyArray, Sequence[Any]]]


class VectorFile(NamedTuple):
    """The vectors of a file. Nothing of them is read yet, and nothing is unpickled."""

    path: Path
    option: str
    """that names the file"""
    width: int
    read: Callable[[], Blocks]

    def blocks(self) -> Iterator[Block]:
        """Yield the vectors in blocks. Raises UsageError where one has no direction."""
        n = 0
        with readable(self.path, self.option), np.errstate(over="ignore", invalid="ignore"):
            for vectors, ids in self.read():
                rows = np.asarray(vectors, np.float32)
                if not (sound := np.isfinite(size := lengths(rows)) & (size > 0)).all():
                    raise ValueError(f"vector {n + int(sound.argmin())} is zero or not finite")
                n += len(rows)
                yield rows, size, list(map(str, ids))


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
        if path.suffix == ".parquet":
            n, width, kind, read = _parquet(path)
        else:
            arrays = _arrays(path)
            shapes = {
                name: tuple(each.shape if isinstance(each, np.ndarray) else each.get_shape())
                for name, each in arrays.items()
            }
            name = _vectors_of([name for name, shape in shapes.items() if len(shape) == 2])
            ids = [arrays[each] for each in IDS if shapes.get(each) == shapes[name][:1]]
            (n, width), kind = shapes[name], arrays[name][:1].dtype.kind

            def read() -> Blocks:
                for some in (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)):
                    yield arrays[name][some], ids[0][some].tolist() if ids else ()

        if n < 2 or not width or kind != "f":
            raise ValueError(
                f"its array has shape ({n}, {width}) and is of kind {kind}; floats (vector, feature) needed"
            )
    return VectorFile(path, option, width, read)


@contextlib.contextmanager
def readable(path: Path, option: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a UsageError."""
    try:
        yield
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(f"{path}: package {fault.name} is missing", install_hint("data")) from fault
    except DAMAGE as fault:
        raise UsageError(
            f"{path}: file of {option} can't be used ({getattr(fault, 'strerror', None) or str(fault)[:200]})",
            f"numpy.save('vectors.npy', vectors)  # floats (vector, feature); then {option} vectors.npy",
        ) from fault


def _vectors_of(names: Sequence[str]) -> str:
    """Return the name of the vectors. Several arrays may be them."""
    usual = [name for name in NAMES if name in names]
    if not usual and len(names) != 1:
        raise ValueError(f"arrays with two axes are {', '.join(names)[:99] or 'missing'}; name one of them {NAMES[0]}")
    return [*usual, *names][0]


def _arrays(path: Path) -> Mapping[str, Any]:
    """Return what can be sliced of a file, by name. Its bytes are mapped."""
    if path.suffix == ".npy":
        return {"vectors": np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {each.filename.removesuffix(".npy"): _mapped(path, each) for each in archive.infolist()}
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
        file.seek(int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little"), 1)
        if member.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            fix = f"numpy.savez('plain.npz', **numpy.load({path.name!r})) writes it as needed"
            raise ValueError(f"array {member.filename} is compressed; {fix}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"array {member.filename} holds Python objects")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _parquet(path: Path) -> tuple[int, int, str, Callable[[], Blocks]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 # an extra

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if not file.metadata.num_rows:
        raise ValueError("it has no rows")
    name = _vectors_of([each.name for each in file.schema_arrow if "list<" in str(each.type)])
    columns = [name, *[each for each in IDS if each in names][:1]]
    first = next(file.iter_batches(1, columns=[name]))[0].flatten().to_numpy(zero_copy_only=False)

    def read() -> Blocks:
        for batch in file.iter_batches(BLOCK, columns=columns):
            batch.validate(full=True)
            vectors, *ids = (batch[each] for each in columns)
            if vectors.null_count or {len(each) for each in vectors} != {len(first)}:
                raise ValueError(f"a row of {name} has not {len(first)} values")
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(vectors), -1), ids[0].to_pylist() if ids else ()

    return file.metadata.num_rows, len(first), first.dtype.kind, read
