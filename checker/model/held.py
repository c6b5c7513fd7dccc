"""Files of weights beside a model: digested, watched for changes, and read from a folder that is looked up once.

Weights are digested first and read by ONNX Runtime some time later, by name. Whoever can rename their folder in between
can have others read, and put the first ones back before anybody looks again: their stamps have not changed. On Linux an
open folder has a name of its own, which leads to it wherever it was moved to; that name is handed on. Inside the folder
no file can be exchanged unseen: renaming one changes its status (`stamp`). Elsewhere the stamps alone are looked at.

A large model file is treated so, too: it is mapped, not copied, and ONNX Runtime maps its weights by their places in
it. Linux stamps only the first write through somebody's memory map, until what was written is on the disk: so a file is
brought there between its stamp and its digest (`settle`), and whatever is written from then on shows. File systems
without a disk (tmpfs) never stamp such writes; there, and where nobody knows, a model file is copied (`stamps_writes`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from robustcheck_onnx.checker.errors import CannotAssessError

CHUNK_BYTES = 1 << 22  # read size for digests, 4 MiB


@dataclass(frozen=True)
class ExternalFile:
    """One file of weights beside the model."""

    location: str
    """as the model names it"""
    path: Path
    stamps: dict[Path, tuple[int, ...]]
    """`stamp` of the file, taken before it was digested, and of the folders between the model's and it"""
    size_bytes: int
    digest: str

    @classmethod
    def of_model(cls, path: Path, status: os.stat_result, digest: str) -> Self:
        """The model's own file, of which the weights are mapped; `status`: of the open file, before it was digested."""
        return cls(path.name, path, {path: _stamp_of(status)}, status.st_size, digest)


class Held:
    """A folder, held open for as long as this object lives, where the system can do that.

    Args:
        folder: it must be there.

    Raises OSError.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        """what to look for files in"""
        names = Path("/proc/self/fd")
        if hasattr(os, "O_PATH") and names.is_dir():  # Linux
            number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            weakref.finalize(self, os.close, number)
            self.path = names / str(number)


TICK_NS = 10_000_000  # 10 ms, the longest tick of Linux's clock (CONFIG_HZ=100): two writes within one have one time
AGES = 100  # looks at a file that does not stop changing, 10 ms apart
STAMPING = frozenset(("ext4", "xfs", "btrfs"))  # file systems of Linux that stamp a write through a memory map
MOUNTS = Path("/proc/self/mountinfo")


def settle(file: BinaryIO) -> None:
    """Bring to the disk what was written to a file, so that the next write through any memory map is stamped.

    Raises OSError.
    """
    os.fsync(file.fileno())


def aged_status(file: int | Path) -> os.stat_result:
    """Return the status of a file or folder once its times are two clock ticks old, so that any later write shows.

    Raises OSError, also where the file goes on changing for a second.
    """
    for _ in range(AGES):
        status = os.stat(file)  # noqa: PTH116 # an open file, too
        if not 0 <= time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < 2 * TICK_NS:
            return status
        time.sleep(TICK_NS / 1e9)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def stamps_writes(status: os.stat_result) -> bool:
    """Whether a file lies on a file system that is known to stamp each write after `settle`. False off Linux."""
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" if hasattr(os, "major") else ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {after.split()[0] for before, _, after in (line.partition(" - ") for line in lines)
             if before.split()[2:3] == [device] and after}  # fmt: skip
    return bool(kinds) and kinds <= STAMPING


def read_file(location: str, target: Path, folder: Path, held: Held) -> ExternalFile:
    """Digest a file of weights: stamp, size and digest of one and the same, which later reads get, too.

    Args:
        location: as the model names it.
        target: its resolved path.
        folder: the resolved folder that `held` holds.

    Raises OSError.
    """
    below = target.relative_to(folder)
    between = [folder / part for part in below.parents if part != Path()]
    stamps = {each: _stamp_of(aged_status(each)) for each in between}
    with (held.path / below).open("rb") as file:
        status = aged_status(file.fileno())
        stamps[target] = _stamp_of(status)  # first: whatever is written from here on shows
        with contextlib.suppress(OSError):  # a file system without a disk
            settle(file)
        return ExternalFile(location, target, stamps, status.st_size, _digest_of(file))


def file_digest(path: Path) -> str:
    """Digest a file, read in pieces, as sha256:…"""
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(CHUNK_BYTES):
        digest.update(piece)
    return "sha256:" + digest.hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """Give numbers of which one differs once a file was written, or another was put in its place. Raises OSError.

    The time of the last change of the file's status is among them: unlike that of its content, nobody can set it back.
    """
    return _stamp_of(path.stat())


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def refuse_changed(model: Path, external: Iterable[ExternalFile]) -> None:
    """Refuse weights that were written or replaced since they were digested: nobody knows which ones have run.

    ONNX Runtime reads them later than the digest does, and what it maps into memory changes with the file.

    Args:
        model: that they belong to.
        external: from `read_onnx`.

    Raises CannotAssessError.
    """
    own = model.resolve().name
    for file in external:
        try:
            same = all(stamp(path) == before for path, before in file.stamps.items())
        except OSError:  # gone
            same = False
        if not same:
            what = f"weights file {file.location}" if file.location != own else "model file"
            raise CannotAssessError(
                f"{model}: {what} changed during the run; it must stay as it was digested",
                "run again when nothing writes to it any more",
            )
