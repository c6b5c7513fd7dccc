"""Representations in a file: written by a run that measures them, read again for questions of one's own.

Three forms, by suffix: .npz (NumPy), .safetensors and .parquet. Each holds a row an image, the image's name and digest,
and what they were made with.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.thresholds.frozen import Frozen

from .errors import EnvironmentFaultError, UsageError, install_hint
from .evidence import PreprocessingFacts
from .storage import local_path

Rows = npt.NDArray[np.floating[Any]]
PIECE_BYTES: Final = 1 << 24  # of rows that are in memory at a time while a file is written


class MadeWith(Frozen):
    """What representations in a file were made with."""

    schema_version: Literal[1] = 1
    tool: Literal["robustcheck"] = "robustcheck"
    document: Literal["representations"] = "representations"
    tool_version: str = VERSION
    model: str
    """its file"""
    model_digest: str
    tensor: str
    pool: str
    preprocessing: PreprocessingFacts
    images: str
    """the image set, in words"""
    seed: int


@dataclass(frozen=True)
class Representations:
    """Representations of images, read from a file. NumPy takes them as an array, and so does `measure`."""

    values: Rows
    """(image, feature) float32 or float64, as the model gave them: finite and not constant"""
    names: tuple[str, ...]
    """of the images"""
    digests: tuple[str, ...]
    """of the images' pixels"""
    made_with: MadeWith

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The values, for NumPy."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        """How many images."""
        return len(self.values)

    def __repr__(self) -> str:
        (n_images, n_features), made = self.values.shape, self.made_with
        return f"<Representations: {n_images} images, {n_features} features, {made.tensor} of {made.model}>"


class Saver:
    """Collects rows on disk and makes the file of them at the end: whole, or not at all. As a context it cleans up.

    Args:
        path: the file to make; its folder must be there, and its suffix one of `FORMS`.

    Raises:
        UsageError: another suffix.
        EnvironmentFaultError: a package that the form needs is missing; the folder can't be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = checked_path(path)
        self._width, self._dtype = 0, np.dtype(np.float32)
        self._names: list[str] = []
        self._digests: list[str] = []
        with self._errors():
            # without a name: it goes with a run that is killed, too
            self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._path.parent))  # noqa: SIM115 # closed on exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Rows, names: Sequence[str], digests: Sequence[str]) -> None:
        """Add rows (image, feature) of one width and dtype, with the name and digest of each image."""
        self._width, self._dtype = rows.shape[1], rows.dtype
        self._names += (name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names)
        self._digests += digests
        with self._errors():
            self._file.write(np.ascontiguousarray(rows).data)

    def write(self, made_with: MadeWith) -> None:
        """Make the file, in place of one that is there. At least one row was added."""
        made = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with self._errors():
                self._file.flush()
                shape = (len(self._names), self._width)
                rows = np.memmap(self._file, dtype=self._dtype, mode="r", shape=shape)
                with made.open("xb") as file:
                    _WRITERS[self._path.suffix](file, rows, self._names, self._digests, made_with.model_dump_json())
                made.replace(self._path)
        finally:
            made.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{self._path}: representations are not written ({fault.strerror}); they must be written whole",
                f"df -h; ls -ld {shlex.quote(str(self._path.parent))}",
            ) from fault


def saving(path: str | Path | None) -> AbstractContextManager[Saver | None]:
    """A `Saver`, or none where there is no path."""
    return contextlib.nullcontext() if path is None else Saver(path)


def checked_path(path: str | Path) -> Path:
    """The path of a file of representations, once its suffix and what that needs are known to be there.

    Raises UsageError, EnvironmentFaultError.
    """
    given = local_path(path, "file of representations")
    try:
        local = given.resolve()
    except (OSError, RuntimeError) as fault:  # links in a circle
        raise UsageError(
            f"{given}: file of representations is a link that leads nowhere; it must lead to a file",
            f"ls -l {shlex.quote(str(given))}",
        ) from fault
    if local.suffix not in _WRITERS:
        raise UsageError(
            f"{given}: file of representations has the suffix {local.suffix or '(none)'}; it must be one of "
            f"{', '.join(_WRITERS)}",
            "--save-representations rows.npz",
        )
    if local.exists() and not local.is_file():
        raise UsageError(
            f"{given}: file of representations is a folder, device or pipe; it must be a file",
            f"ls -ld {shlex.quote(str(given))}",
        )
    if local.suffix == ".parquet":
        _pyarrow(local)
    return local


def load_representations(path: str | Path) -> Representations:
    """Read representations that `check` or `scan` saved.

    measure(load_representations("rows.npz")) gives the numbers of the run that saved them; intervals can differ in
    their last digits, as images go into other groups of the jackknife.

    Args:
        path: .npz, .safetensors (extra `data`) or .parquet (extra `data`).

    Raises:
        UsageError: no such file, another kind of file, a damaged one, or one that this tool did not write.
        EnvironmentFaultError: a package is missing.
    """
    local = checked_path(path)
    if not local.is_file():
        raise UsageError(
            f"{local}: file of representations is missing; no such file", f"ls {shlex.quote(str(local.parent))}"
        )
    try:
        values, names, digests, about = _READERS[local.suffix](local)
        made_with = MadeWith.model_validate_json(str(about))
        if values.ndim != 2 or values.dtype.kind != "f" or not len(values) == len(names) == len(digests):
            raise ValueError(f"{len(names)} names and {len(digests)} digests for an array of shape {values.shape}")
        if not all(isinstance(each, str) for each in (*names, *digests)):
            raise ValueError("a name or digest is no text")
        if not np.isfinite(values).all():
            raise ValueError("a value is not finite")
    except (OSError, *_DAMAGE) as fault:
        raise UsageError(
            f"{local}: file of representations is not readable ({' '.join(str(fault).split())[:200]}); it must be one "
            "that this tool wrote",
            "robustcheck model.onnx --images photos/ --save-representations rows.npz",
        ) from fault
    return Representations(values, tuple(names), tuple(digests), made_with)


_DAMAGE: Final = (ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, zipfile.BadZipFile)
"""what a reader raises where a file claims what it does not hold"""

Read = tuple[Rows, Sequence[Any], Sequence[Any], object]
"""values, names, digests, and JSON of `MadeWith`"""


def _pieces(rows: Rows) -> Iterator[Rows]:
    size = max(1, PIECE_BYTES // max(1, rows[:1].nbytes))
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _write_npz(file: BinaryIO, rows: Rows, names: list[str], digests: list[str], about: str) -> None:
    np.savez(file, representations=rows, names=np.array(names), digests=np.array(digests), made_with=np.array(about))


def _read_npz(path: Path) -> Read:
    with np.load(path, allow_pickle=False) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.zip.infolist()):
            raise ValueError("an array is compressed, which this tool does not write")
        return (
            archive["representations"],
            archive["names"].tolist(),
            archive["digests"].tolist(),
            archive["made_with"][()],
        )


def _write_safetensors(file: BinaryIO, rows: Rows, names: list[str], digests: list[str], about: str) -> None:
    """Write the header's length, the header, and the rows; the package would need all of them in memory."""
    tensor = {"dtype": f"F{8 * rows.itemsize}", "shape": rows.shape, "data_offsets": (0, rows.nbytes)}
    more = {"names": json.dumps(names), "digests": json.dumps(digests), "made_with": about}
    header = json.dumps({"__metadata__": more, "representations": tensor}).encode("ascii")
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for piece in _pieces(rows):
        file.write(np.ascontiguousarray(piece).data)


def _read_safetensors(path: Path) -> Read:
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 # an extra
    except ImportError as fault:
        raise _missing(path, "safetensors") from fault
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            return (
                file.get_tensor("representations"),
                json.loads(about["names"]),
                json.loads(about["digests"]),
                about["made_with"],
            )
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


def _write_parquet(file: BinaryIO, rows: Rows, names: list[str], digests: list[str], about: str) -> None:
    import pyarrow  # noqa: PLC0415 # an extra
    import pyarrow.parquet  # noqa: PLC0415

    width = rows.shape[1]
    vector = pyarrow.list_(pyarrow.from_numpy_dtype(rows.dtype), width)
    fields = [("name", pyarrow.string()), ("digest", pyarrow.string()), ("representation", vector)]
    schema = pyarrow.schema(fields, metadata={"robustcheck": about})
    at = 0
    with pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for piece in _pieces(rows):
            end = at + len(piece)
            vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(piece.ravel()), width)
            columns = [pyarrow.array(names[at:end]), pyarrow.array(digests[at:end]), vectors]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
            at = end


def _read_parquet(path: Path) -> Read:
    table = _pyarrow(path).read_table(path)
    column = table.column("representation").combine_chunks()
    kind = str(column.type)
    if "list<" not in kind or column.null_count or column.flatten().null_count:
        raise ValueError(f"column representation is of type {kind}, with {column.null_count} rows missing")
    widths = column.value_lengths().unique()
    if len(widths) > 1:
        raise ValueError(f"column representation has rows of {len(widths)} lengths")
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    about = (table.schema.metadata or {})[b"robustcheck"].decode()
    return values, table.column("name").to_pylist(), table.column("digest").to_pylist(), about


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet  # noqa: PLC0415 # an extra
    except ImportError as fault:
        raise _missing(path, "pyarrow") from fault
    return pyarrow.parquet


def _missing(path: Path, package: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"{path}: package {package} is not installed; {path.suffix} files need it",
        install_hint("data"),
    )


_WRITERS: Mapping[str, Callable[[BinaryIO, Rows, list[str], list[str], str], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
}
_READERS: Mapping[str, Callable[[Path], Read]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
