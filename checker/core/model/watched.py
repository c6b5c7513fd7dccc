"""Digest files of weights, and notice whether they change."""

import hashlib
import os
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from ...errors import CannotAssessError


class ExternalFile(NamedTuple):
    """One file of weights next to the model."""

    location: str
    """as the model names it"""
    path: Path
    stamps: dict[Path, tuple[int, ...]]
    """`stamp_of` the file, taken before it was digested, and of the folders between the model's and it"""
    size_bytes: int
    digest: str


class OpenFolder:
    """A folder that this object keeps open. Only where the system can do that.

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


def aged_status(file: int | Path, subject: str) -> os.stat_result:
    """Return the status of a file or folder, once aged.

    Its status then changed two clock ticks ago or more, so that any later write shows. The time of the content is not
    looked at, since its owner may set it to any day. A time in the future counts as young.

    Args:
        file: its path, or the number of an open file.
        subject: what to call it in errors.

    Raises OSError; CannotAssessError where it stays young for a second.
    """
    for _ in range(AGES):
        status = os.stat(file)  # noqa: PTH116 # an open file, too
        if time.time_ns() - status.st_ctime_ns >= 2 * TICK_NS:
            return status
        time.sleep(TICK_NS / 1e9)
    raise CannotAssessError(
        f"{subject} goes on changing, or changed in the future by this machine's clock; weights that are measured must "
        "not change",
        "run again when nothing writes to it any more; compare `stat` of the file with `date`",
    )


def stamps_writes(status: os.stat_result) -> bool:
    """Whether a file system stamps each write after `fsync`. False off Linux."""
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" if hasattr(os, "major") else ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {after.split()[0] for before, _, after in (line.partition(" - ") for line in lines)
             if before.split()[2:3] == [device] and after}  # fmt: skip
    return bool(kinds) and kinds <= STAMPING


def read_file(location: str, target: Path, folder: Path, open_folder: OpenFolder) -> ExternalFile:
    """Return the record of a file of weights. Stamp, size and digest belong to one content, which later reads get, too.

    Args:
        location: as the model names it.
        target: its resolved path.
        folder: the resolved folder that `open_folder` holds.

    Raises as `aged_status`.
    """
    below = target.relative_to(folder)
    between = [folder / part for part in below.parents if part != Path()]
    stamps = {path: stamp_of(aged_status(path, f"folder {path}")) for path in between}
    with (open_folder.path / below).open("rb") as file:
        status = aged_status(file.fileno(), f"weights file {location}")
        stamps[target] = stamp_of(status)  # first: whatever is written from here on shows
        with suppress(OSError):  # a file system without a disk
            os.fsync(file.fileno())
        return ExternalFile(location, target, stamps, status.st_size, _digest_of(file))


def file_digest(path: Path) -> str:
    """Digest a file, read in pieces, as sha256:…"""
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: BufferedReader) -> str:
    return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return numbers that change with every write.

    They also change where another file was put in its place.

    The time of the last change of the file's status is among them: unlike that of its content, nobody can set it back.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def refuse_changed(model: Path, external: Iterable[ExternalFile]) -> None:
    """Refuse weights that changed since they were digested. Nobody knows which ones have run.

    ONNX Runtime reads them later than the digest does, and what it maps into memory changes with the file.

    Args:
        model: that they belong to.
        external: from `read_onnx`.

    Raises CannotAssessError.
    """
    own = model.resolve().name
    for file in external:
        try:
            same = all(stamp_of(path.stat()) == before for path, before in file.stamps.items())
        except OSError:  # gone
            same = False
        if not same:
            subject = f"weights file {file.location}" if file.location != own else "model file"
            raise CannotAssessError(
                f"{model}: {subject} changed during the run; it must not change after it was digested",
                "run again when nothing writes to it any more",
            )
