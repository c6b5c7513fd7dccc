"""Write the representations that a run measures to a file, and read them for questions of one's own.

The file is a NumPy archive (.npz) with one row per image, the names and digests of the images, and what the rows were
made with.
"""

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from ...thresholds.records import Frozen
from ..arrays import NOT_READABLE
from ..calls import public
from ..core.evidence import PreprocessingFacts
from ..errors import EnvironmentFaultError, UsageError
from ..text import VERSION, Texts, frozen, one_line, quoted
from .storage.documents import replacing
from .storage.places import local_path

Rows = npt.NDArray[np.floating[Any]]


class Provenance(Frozen):
    """The record of how representations were made."""

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

    @classmethod
    def of(cls, run: Any, model: str) -> Self:
        """Record how a run made them. run: an evidence, or the report of a question. model: the file's name."""
        return cls(
            model=model,
            model_digest=run.model.digest,
            tensor=run.model.tensor,
            pool=run.model.pool,
            preprocessing=run.preprocessing,
            images=run.images.source,
            seed=run.images.seed,
        )


@frozen
class Representations:
    """The representations of images, read from a file, which NumPy and `measure` take as an array."""

    values: Rows
    """(image, feature) float32 or float64, as the model gave them: finite and not constant"""
    names: Texts
    """of the images"""
    digests: Texts
    """of the images' pixels"""
    made_with: Provenance

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the values, for NumPy."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.values)

    def __repr__(self) -> str:
        n_images, n_features = self.values.shape
        tensor = f"{self.made_with.tensor} of {self.made_with.model}"
        return f"<Representations: {n_images} images, {n_features} features, {tensor}>"


class Saver:
    """A writer that collects rows on disk, makes a complete file of them or none, and cleans up as a context.

    Args:
        path: the file to make; its folder must be there, and its suffix must be .npz.

    Raises:
        UsageError: another suffix.
        EnvironmentFaultError: the folder can't be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = checked_path(path)
        self._width = 0
        self._dtype = np.dtype(np.float32)
        self._names: list[str] = []
        self._digests: list[str] = []
        with self._errors():
            # without a name: it goes with a run that is killed, too
            self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._path.parent))  # noqa: SIM115 # closed on exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Rows, images: Sequence[Any]) -> None:
        """Add rows (image, feature) of one width and dtype, and their images, which have `name` and `digest`."""
        self._width = rows.shape[1]
        self._dtype = rows.dtype
        self._names += (image.name.encode("utf-8", "backslashreplace").decode("utf-8") for image in images)
        self._digests += (image.digest for image in images)
        with self._errors():
            self._file.write(np.ascontiguousarray(rows).data)

    def write(self, provenance: Provenance) -> None:
        """Make the file, or replace the existing one. At least one row was added."""
        with self._errors():
            self._file.flush()
            shape = (len(self._names), self._width)
            rows = np.memmap(self._file, dtype=self._dtype, mode="r", shape=shape)
            made_with = np.array(provenance.model_dump_json())
            names = np.array(self._names)
            digests = np.array(self._digests)
            with replacing(self._path) as file:
                np.savez(file, made_with=made_with, representations=rows, names=names, digests=digests)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{self._path}: representations are not written ({fault.strerror}); they must be written whole",
                f"df -h; ls -ld {quoted(self._path.parent)}",
            ) from fault


def saving(path: str | Path | None) -> AbstractContextManager[Saver | None]:
    """Return a `Saver`, or none without a path."""
    return nullcontext() if path is None else Saver(path)


SAVE = "--save-representations rows.npz; other formats from np.load('rows.npz')['representations']"
LOAD = 'rc.check("model.onnx", "photos/", save_representations="rows.npz") writes one'
"""what to do about another file where representations are saved, and where they are read"""


def checked_path(path: str | Path, hint: str = SAVE) -> Path:
    """Return the path of a representations file. Raises UsageError for another suffix, a folder or a device."""
    file = local_path(path, "representations file")
    local = Path(os.path.realpath(file))
    try:
        is_circle = any(link.is_symlink() for link in (local, *local.parents))
    except OSError as fault:  # a name that is too long, or a folder that may not be read
        raise UsageError(
            f"{file}: representations file can't be opened there ({fault.strerror}); it must be a place for a file",
            f"ls -ld {quoted(file.parent)}",
        ) from fault
    if is_circle:
        raise UsageError(
            f"{file}: representations file is a link that leads nowhere; it must lead to a file",
            f"ls -l {quoted(file)}",
        )
    if local.suffix != ".npz":
        raise UsageError(
            f"{file}: representations file has the suffix {local.suffix or '(none)'}; it must be .npz",
            hint,
        )
    if local.exists() and not local.is_file():
        raise UsageError(
            f"{file}: representations file is a folder, device or pipe; it must be a file",
            f"ls -ld {quoted(file)}",
        )
    return local


@public(LOAD)
def load_representations(path: str | Path) -> Representations:
    """Read representations that `check` or `scan` saved.

    measure(load_representations("rows.npz")) gives the numbers of the run that saved them; intervals can differ in
    their last digits, as images go into other groups of the jackknife.

    Args:
        path: .npz.

    Raises UsageError: no such file, another kind of file, a damaged one, or one that this tool did not write.
    """
    local = checked_path(path, LOAD)
    if not local.is_file():
        raise UsageError(f"{local}: representations file is missing; no such file", f"ls {quoted(local.parent)}")
    try:
        with np.load(local, allow_pickle=False) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.zip.infolist()):
                raise ValueError("an array is compressed, which this tool does not write")
            values = archive["representations"]
            names = archive["names"].tolist()
            digests = archive["digests"].tolist()
            provenance = Provenance.model_validate_json(str(archive["made_with"][()]))
        if values.ndim != 2 or values.dtype.kind != "f" or not len(values) == len(names) == len(digests):
            raise ValueError(f"{len(names)} names and {len(digests)} digests for an array of shape {values.shape}")
        if not all(isinstance(text, str) for text in (*names, *digests)):
            raise ValueError("a name or digest is not text")
        if not np.isfinite(values).all():
            raise ValueError("a value is not finite")
    except NOT_READABLE as fault:
        raise UsageError(
            f"{local}: representations file is not readable ({one_line(fault, 200)}); it must be one "
            "that this tool wrote",
            "robustcheck model.onnx --images photos/ --save-representations rows.npz",
        ) from fault
    return Representations(values, tuple(names), tuple(digests), provenance)
