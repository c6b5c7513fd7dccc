"""Files of weights beside a model, and whether they stay the same while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from robustcheck_onnx.checker.errors import CannotAssessError


@dataclass(frozen=True)
class ExternalFile:
    """One file of weights beside the model."""

    location: str
    """as the model names it"""
    path: Path
    stamp: tuple[int, ...]
    """of the file before it was digested"""
    size_bytes: int
    digest: str


def stamp(path: Path) -> tuple[int, ...]:
    """Numbers of which one differs once a file was written, or another one was put in its place. Raises OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def refuse_changed(model: Path, external: Iterable[ExternalFile]) -> None:
    """Refuse weights that were written or replaced since they were digested: nobody knows which ones have run.

    ONNX Runtime reads them later than the digest does, and what it maps into memory changes with the file.

    Args:
        model: that they belong to.
        external: from `onnx_file.read_onnx`.

    Raises CannotAssessError.
    """
    for file in external:
        try:
            same = stamp(file.path) == file.stamp
        except OSError:  # gone
            same = False
        if not same:
            raise CannotAssessError(
                f"{model}: weights file {file.location} changed during the run; it must stay as it was digested",
                "run again when nothing writes to it any more",
            )
