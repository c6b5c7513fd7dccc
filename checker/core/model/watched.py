"""Digest files of weights, and notice whether they change.

Files of weights are digested first, and ONNX Runtime reads them some time later, by name. Whoever can rename their
folder in between can have others read, and put the first ones back before anybody looks again: their stamps have not
changed. On Linux an open folder has a name of its own, which leads to it wherever it was moved to; that name is passed
on. Inside the folder no file can be exchanged unseen: renaming one changes its status (`stamp_of`). On other systems
only the stamps are checked.

A large model file is treated the same way: it is mapped, not copied, and ONNX Runtime maps its weights by their places
in it. Linux stamps only the first write through a memory map until that write is on the disk: so a file is brought
there between its stamp and its digest (`fsync`), and whatever is written from then on shows. File systems without a
disk (tmpfs) never stamp such writes; there, and where the file system is unknown, a model file is copied
(`stamps_writes`). Weights in files of their own are not copied, so such a write to them goes unseen there.
"""

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
    if not hasattr(os, "major"):
        return False
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = set()
    for line in lines:
        before, _, after = line.partition(" - ")
        if after and before.split()[2:3] == [device]:
            kinds.add(after.split()[0])
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
    stamps = {}
    for part in below.parents:
        if part != Path():
            path = folder / part
            stamps[path] = stamp_of(aged_status(path, f"folder {path}"))
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
    """Return numbers that change with every write, and where another file is put in its place.

    The time of the last change of the file's status is among them: unlike that of its content, nobody can set it back.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def refuse_changed(model: Path, external: Iterable[ExternalFile]) -> None:
    """Refuse weights that changed since they were digested, since nobody knows which ones have run.

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
