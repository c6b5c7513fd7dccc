"""The folder of the cache and its key: records are read and written only where nobody else can change them.

A record is evidence that is taken without measuring, so it must have been written by this user. On POSIX the folder,
the key and each record must belong to this user, and nobody else may be able to write to them; the key must be readable
by nobody else. Windows has neither such owners nor such modes: there the folder is as private as the user's own folders
are, and only the key vouches for a record.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from robustcheck_onnx.checker.errors import UsageError

FOLDER = "ROBUSTCHECK_CACHE_DIR"  # environment variable: where records are kept
OFF = "ROBUSTCHECK_NO_CACHE"  # environment variable: any value but "" and 0 switches the cache off
KEY = "records.key"  # the name of the file of the key
EXPORTS = "exports"  # the name of the folder of exported models
DRAFTS = ".draft-"  # how a folder in it starts, of an export that is being made
KEY_BYTES = 32
TEMPORARY = ".{}.tmp"  # a file that is being written; the name is random
OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_CAN_DO_ANYTHING = stat.S_IRWXG | stat.S_IRWXO
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class NotOwn(Exception):  # noqa: N818 # a reason not to use the cache, never shown as an error
    """A folder or file that others can change; the message says why."""


@dataclass(frozen=True)
class OwnFolder:
    """A folder that only this user can write to, and the key in it."""

    path: Path
    key: bytes


def is_off() -> bool:
    """Whether the environment switches the cache off."""
    return os.environ.get(OFF, "") not in ("", "0")


def folder() -> Path:
    """Where records are kept: ROBUSTCHECK_CACHE_DIR, else the user's cache folder of the system."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else Path(platformdirs.user_cache_dir("robustcheck"))


def refuse_in_checkout(settings_file: str | None = None) -> None:
    """Refuse a ROBUSTCHECK_CACHE_DIR in the checkout that holds the current folder or the file of the settings.

    Whoever proposes a change to a checkout can put files into it, and a clone makes them this user's own.

    Raises UsageError.
    """
    if os.environ.get(FOLDER) and (checkout := _checkout_of_cache(settings_file)):
        raise UsageError(
            f"{FOLDER} is {folder()}, in the git checkout {checkout}; it must lie outside, where no commit can put "
            "a record of an earlier check",
            f"unset {FOLDER}, or --no-cache",
        )


def why_unused() -> str:
    """Why the cache is not used, in words that end with the next step; "" where it is used."""
    if checkout := _checkout_of_cache(None):  # the default folder, or a call from Python
        return f"it lies in the git checkout {checkout}; set {FOLDER} to a folder outside"
    try:
        _own_folder(folder(), make=False)
    except FileNotFoundError:  # nothing was kept yet
        return ""
    except NotOwn as fault:
        return str(fault)
    except OSError as fault:
        return f"it can't be read ({fault.strerror}); set {FOLDER} to a folder of your own"
    return ""


def make_folder(where: Path) -> None:
    """Make the cache's folder, for this user alone. Raises OSError."""
    where.mkdir(mode=0o700, parents=True, exist_ok=True)


def own_folder(*, make: bool) -> OwnFolder | None:
    """The cache's folder with its key; None where there is none, or where others could change what lies in it.

    make: make folder and key where they are missing.
    """
    if _checkout_of_cache(None):
        return None
    try:
        return _own_folder(folder(), make=make)
    except (OSError, NotOwn):
        return None


def read_own(path: Path, forbidden: int = OTHERS_CAN_WRITE) -> bytes:
    """Read a file that is this user's own; no link is followed.

    forbidden: bits that its mode must not have.

    Raises NotOwn, OSError.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | NO_LINK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotOwn(f"{path} is no file; robustcheck cache clear")
        _refuse_shared(path, status, forbidden)
        return file.read()


def write_own(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 whole or not at all, in the place of what is there. Raises OSError."""
    temporary = _written(path.parent, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _own_folder(where: Path, *, make: bool) -> OwnFolder:
    if make:
        make_folder(where)
    status = where.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotOwn(f"it is no folder; set {FOLDER} to one")
    _refuse_shared(where, status, OTHERS_CAN_WRITE)
    path = where / KEY
    if make and not os.path.lexists(path):
        _make_key(path)
    key = read_own(path, OTHERS_CAN_DO_ANYTHING)
    if len(key) != KEY_BYTES:
        raise NotOwn(f"its key {path} has {len(key)} bytes instead of {KEY_BYTES}; robustcheck cache clear")
    return OwnFolder(where, key)


def _make_key(path: Path) -> None:
    """Write a new key whole, in the place of nothing: of two processes that make one, one is kept."""
    temporary = _written(path.parent, secrets.token_bytes(KEY_BYTES))
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _written(where: Path, content: bytes) -> Path:
    """A new file with a random name: nobody can lay a link or a file under it beforehand."""
    temporary = where / TEMPORARY.format(secrets.token_hex(16))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _refuse_shared(path: Path, status: os.stat_result, forbidden: int) -> None:
    if not hasattr(os, "geteuid"):  # Windows
        return
    what = "it" if stat.S_ISDIR(status.st_mode) else f"its file {path}"
    if status.st_uid != os.geteuid():
        raise NotOwn(f"{what} belongs to another user; set {FOLDER} to a folder of your own")
    if status.st_mode & forbidden:
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        if forbidden == OTHERS_CAN_DO_ANYTHING:  # whoever has read it can forge records: no chmod mends that
            raise NotOwn(f"others could read {what} ({mode}); robustcheck cache clear, and the next check makes a key")
        raise NotOwn(f"others can write to {what} ({mode}); chmod go-w {shlex.quote(str(path))}")


def _checkout_of_cache(settings_file: str | None) -> Path | None:
    """The git work tree that holds the cache and the current folder, or the file of the settings."""
    places = [Path(), *([Path(settings_file).parent] if settings_file else [])]
    try:
        cache, *here = (place.resolve() for place in (folder(), *places))
    except OSError:  # the current folder was removed
        return None
    for resolved in here:
        tree = next((each for each in (resolved, *resolved.parents) if os.path.lexists(each / ".git")), None)
        if tree is not None and cache.is_relative_to(tree):
            return tree
    return None
