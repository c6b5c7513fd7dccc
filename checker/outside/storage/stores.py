"""List, read, copy and write files in stores. Reads are whole or in spans, writes whole.

Everything goes through fsspec, imported when the first URL is opened. Whatever a store raises becomes
FileNotFoundError or StoreError, without secrets.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

from ...errors import EnvironmentFaultError, UsageError, install_hint
from ...text import Fields
from .places import Url, parse_place, secrets, without_secrets

PIECE_BYTES = 16 * 2**20  # of a download: one request each, 16 MiB
BUFFER_BYTES = 2**18  # read ahead in a file that is read here and there, 256 KiB
LIMIT = "ROBUSTCHECK_MAX_DOWNLOAD_BYTES"  # environment variable
LIMIT_BYTES = 64 * 2**30  # of one download without that variable, 64 GiB: no vision encoder is larger
MOST_DIGITS = 18  # of a number of bytes
CONNECT_S = 30  # seconds to connect to a web server
SILENCE_S = 120  # seconds without a byte from one
HUB_ENVIRONMENT = {  # of the hub's client, where the user's environment says nothing
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}
_PACKAGES = {  # by protocol that is read, the package it needs; none loads code that a checkout can hold
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp",
    "https": "aiohttp", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "oci": "ocifs", "oss": "ossfs",
    "sftp": "paramiko", "ssh": "paramiko", "webhdfs": "requests", "smb": "smbprotocol",
}  # fmt: skip


class StoreError(EnvironmentFaultError, OSError):
    """A store that can't be reached, refuses, or breaks off (exit 4); an OSError where one image is read.

    Args:
        shown: the URL, redacted.
        reason: why, in the store's words, without secrets.
    """

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(
            f"{shown}: URL can't be used ({reason}); its store must be reachable and allow it",
            "look at the network, the name and the credentials, or copy it here first",
        )
        self.reason = reason


@dataclass(frozen=True, eq=False)
class RemoteFile:
    """A file or folder in a store, with the methods of a pathlib.Path that this package uses."""

    url: Url
    """the URL that was parsed: of this file, or of a folder above it"""
    store: Any = field(repr=False)
    """fsspec's file system"""
    path: str = field(repr=False)
    """as the store names it; for a web server the whole URL"""
    shown: str
    """the URL, redacted"""

    def __str__(self) -> str:
        return self.shown

    @property
    def is_signed(self) -> bool:
        """Return whether the URL contains a key, which is for this one file and opens none next to it."""
        return self.url.is_http and "?" in self.path

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        name = self._bare.rpartition("/")[2]
        return unquote(name) if self.url.is_http else name

    @property
    def suffix(self) -> str:
        """Return the suffix, as of a Path."""
        return os.path.splitext(self.name)[1]  # noqa: PTH122 # a name, no path

    @property
    def parent(self) -> RemoteFile:
        """Return the folder."""
        path, _, _ = self._bare.rpartition("/")
        shown, _, _ = self._without_query(self.shown).rpartition("/")
        return replace(self, path=path, shown=shown)

    def __truediv__(self, name: str) -> RemoteFile:
        """Return a file below this folder, or that of a URL."""
        if "://" in name:
            place = parse_place(name)
            if isinstance(place, Url):
                return open_url(place)
            raise UsageError(
                f"{name}: file is on this machine; a list in another store can't name it", "use a list of this one"
            )
        part = quote(name) if self.url.is_http else name
        return replace(self, path=f"{self._bare}/{part}", shown=f"{self.shown.rstrip('/')}/{name}")

    @property
    def _bare(self) -> str:
        return self._without_query(self.path)

    def _without_query(self, path: str) -> str:
        if self.url.is_http:
            path = re.split(r"[?#]", path)[0]
        return path.rstrip("/")

    @property
    def _errors(self) -> AbstractContextManager[None]:
        return store_errors(self.url, self.shown, self.path)

    def info(self) -> Fields:
        """Return the store's name, size and type of it. Raises FileNotFoundError, StoreError."""
        with self._errors:
            return dict(self.store.info(self.path))

    def names_below(self) -> list[str]:
        """Return the names of all files below, relative to this folder, sorted."""
        return self._names(self.store.find)

    def child_names(self) -> list[str]:
        """Return the names of the folder's own files, sorted."""
        return self._names(lambda root: _files(self.store.ls(root, detail=True)))

    def names_like(self, pattern: str) -> list[str]:
        """Return the names of the files that match a glob, relative to this folder, sorted."""
        root = self.path
        return self._names(lambda _: _files(self.store.glob(f"{root}/{pattern}", detail=True).values()), root)

    def _names(self, listed: Callable[[str], list[str]], root: str | None = None) -> list[str]:
        with self._errors:
            self.store.invalidate_cache()
            if root is None:
                root = str(self.store.info(self.path)["name"])
            start = f"{root.strip('/')}/".lstrip("/")
            bare = [path.lstrip("/") for path in listed(root) if not path.endswith("/")]
        if not all(name.startswith(start) for name in bare):
            raise StoreError(self.shown, "its listing names files of another folder")
        return sorted(name.removeprefix(start) for name in bare if name != start)

    def read_bytes(self, limit: int) -> bytes:
        """Return the content, at most limit + 1 bytes. Raises FileNotFoundError, StoreError."""
        if not self.url.is_http:
            with self._errors:
                return bytes(self.store.cat_file(self.path, start=0, end=limit + 1))
        content = b""
        with closing(self.stream()) as pieces:
            while len(content) <= limit and (piece := next(pieces, b"")):
                content += piece
        return content[: limit + 1]

    def stream(self) -> Generator[bytes, None, None]:
        """Yield the content in pieces. Raises FileNotFoundError, StoreError, at any piece."""
        with self._errors:  # of a web server one stream: many give no ranges. Given a size, fsspec does not ask for it
            stream = self.store.open(self.path, "rb", block_size=0, size=1) if self.url.is_http else self.open()
        with closing(stream):
            while True:
                with self._errors:
                    piece = stream.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece

    def read_span(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on. Raises FileNotFoundError, StoreError (also where fewer come)."""
        if length <= 0:
            return b""
        with self._errors:
            content = bytes(self.store.cat_file(self.path, start=start, end=start + length))
        if len(content) != length:  # a server that ignores ranges sends everything
            raise StoreError(self.shown, f"{len(content)} bytes came where {length} at {start} were asked for")
        return content

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Return a seekable reader that has read nothing yet. Raises FileNotFoundError, StoreError (no size)."""
        assert mode == "rb"
        try:
            size = self.info().get("size")
        except FileNotFoundError:
            if not self.url.is_http:
                raise
            self.read_bytes(1)  # fsspec says so of any fault of a web server; this one says which
            size = None
        if not isinstance(size, int):
            raise StoreError(self.shown, "the server does not tell its size")
        return io.BufferedReader(_Reader(self, size), BUFFER_BYTES)

    def write_bytes(self, content: bytes) -> None:
        """Put a file there, replacing another. Raises StoreError."""
        with self._errors:
            self.store.pipe_file(self.path, content)


def _files(entries: Iterable[Fields]) -> list[str]:
    return [entry["name"] for entry in entries if entry["type"] == "file"]


class _Reader(io.RawIOBase):
    """A remote file as a seekable stream with a position of its own."""

    def __init__(self, file: RemoteFile, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._size)[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "position before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        buffer[:length] = self._file.read_span(self._position, length)
        self._position += length
        return length


@contextmanager
def store_errors(url: Url, shown: str, path: str = "") -> Iterator[None]:
    """Turn a store's errors into FileNotFoundError or StoreError, without secrets."""
    try:
        yield
    except (EnvironmentFaultError, MemoryError):
        raise
    except (FileNotFoundError, IsADirectoryError):  # their messages hold the raw URL
        raise FileNotFoundError(errno.ENOENT, "no such file", shown) from None
    except Exception as fault:  # noqa: BLE001 # each store raises classes of its own
        hidden = (*secrets(url.raw), *secrets(path))
        raise StoreError(shown, without_secrets(f"{type(fault).__name__}: {fault}", hidden)) from None


def open_url(url: Url) -> RemoteFile:
    """Return the file or folder of a URL, without a connection yet.

    Raises UsageError: a protocol that is not read (fsspec's hdfs:// would load a library from the current folder).
    EnvironmentFaultError: fsspec or the package of the protocol is missing.
    """
    if url.protocol not in (*_PACKAGES, "memory"):
        hint = "copy it here, and name the copy"
        if near := get_close_matches(url.protocol, _PACKAGES, 1):
            hint = f"{near[0]}{str(url)[len(url.protocol) :]}"
        raise UsageError(f"{url}: protocol {url.protocol} is not read; URLs start with {', '.join(_PACKAGES)}", hint)
    try:
        import fsspec  # noqa: PLC0415 # an extra, only where there is a URL
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            f"{url}: package fsspec is not installed; URLs need it", install_hint("remote")
        ) from fault
    options: Fields = {}
    if url.protocol == "hf":
        load_hub_client(url)
        options["endpoint"] = hub_endpoint()
    try:
        fsspec.get_filesystem_class(url.protocol)
        if url.is_http:
            import aiohttp  # noqa: PLC0415 # only for web servers

            silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            options["client_kwargs"] = {"timeout": silence, "trust_env": True}  # HTTPS_PROXY
    except (ImportError, ValueError) as fault:
        package = _PACKAGES[url.protocol]
        raise EnvironmentFaultError(
            f"{url}: package {package} is not importable; this URL needs it", f"pip install {package}"
        ) from fault
    with store_errors(url, str(url)):
        if url.is_http:
            store = fsspec.filesystem(url.protocol, **options)
            path = url.raw
        else:
            store, path = fsspec.url_to_fs(url.raw, **options)
    return RemoteFile(url, store, path, str(url))


@contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set the environment variables that the user did not, until the end of the context."""
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def hub_endpoint() -> str | None:
    """Return the address of another hub, where the environment names one (HF_ENDPOINT)."""
    return os.environ.get("HF_ENDPOINT") or None


def load_hub_client(address: object) -> ModuleType:
    """Import the hub's client, which `address` needs, without telemetry, bars and warnings.

    Raises EnvironmentFaultError: it is not installed.
    """
    with environment(HUB_ENVIRONMENT):
        try:
            import huggingface_hub  # noqa: PLC0415 # an extra
            import huggingface_hub.constants  # noqa: PLC0415 # it reads the variables now
            import huggingface_hub.errors  # noqa: PLC0415
            import huggingface_hub.utils.logging  # noqa: PLC0415 # so does it: its warnings show addresses with keys
            import huggingface_hub.utils.tqdm  # noqa: PLC0415
        except ImportError as fault:
            raise EnvironmentFaultError(
                f"{address}: package huggingface_hub is not importable; addresses of the hub need it",
                install_hint("hub"),
            ) from fault
    return huggingface_hub


def limit_bytes() -> int:
    """Return the most bytes of one download. Raises UsageError where the environment's value is not a number."""
    value = os.environ.get(LIMIT, "")
    if value and (not value.isdecimal() or len(value) > MOST_DIGITS or int(value) < 1):
        raise UsageError(f"{LIMIT} is {value!r:.40}; it must be a number of bytes", f"export {LIMIT}={LIMIT_BYTES}")
    return int(value or LIMIT_BYTES)


def too_large(shown: object, limit: int) -> EnvironmentFaultError:
    """Return the error of a download over the limit."""
    return EnvironmentFaultError(
        f"{shown}: download is more than {limit:,} bytes; that is the limit", f"export {LIMIT}=BYTES"
    )


def download(file: RemoteFile, target: Path, limit: int) -> int:
    """Copy a remote file of at most `limit` bytes here; return their number.

    Raises FileNotFoundError, StoreError, EnvironmentFaultError (larger than the limit, no space). After an error the
    caller removes what was written.
    """
    expected = None if file.url.is_http else _size_of(file)
    if expected is not None:
        if expected > limit:
            raise too_large(file, limit)
        free = shutil.disk_usage(target.parent).free
        if expected > free:
            raise EnvironmentFaultError(
                f"{file}: download is {expected:,} bytes; {target.parent} has {free:,} bytes left",
                "df -h; export TMPDIR=a folder with more space",
            )
    n_bytes = 0
    try:
        with target.open("wb") as out, closing(file.stream()) as pieces:
            for piece in pieces:
                n_bytes += len(piece)
                if n_bytes > limit:
                    raise too_large(file, limit)
                out.write(piece)
    except (EnvironmentFaultError, FileNotFoundError):
        raise
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{file}: download can't be written ({fault.strerror}); {target.parent} must have space for it",
            "df -h; export TMPDIR=a folder with more space",
        ) from fault
    if expected not in (None, n_bytes):  # a web server's stream that ends early is an error of its own
        raise StoreError(file.shown, f"{n_bytes} of {expected} bytes came")
    return n_bytes


def _size_of(file: RemoteFile) -> int | None:
    """Return a file's bytes, where its store tells them. Raises FileNotFoundError for a folder."""
    info = file.info()
    if info.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "a folder, no file", file.shown)
    size = info.get("size")
    return size if isinstance(size, int) else None


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a temporary folder for this user only, and remove it at the end, after an error too."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="robustcheck-", ignore_cleanup_errors=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"temporary folder can't be made ({fault.strerror}); downloads need one", "df -h; export TMPDIR=FOLDER"
        ) from fault
    with folder as name:
        yield Path(name).resolve()


@contextmanager
def copied(file: Path | RemoteFile) -> Iterator[Path]:
    """Yield a local file, or a copy of a remote one, of which a memory map stays valid after its removal."""
    if isinstance(file, Path):
        yield file
        return
    with private_folder() as folder:
        target = folder / re.sub(r"[/\\\0]", "_", file.name)
        try:
            download(file, target, limit_bytes())
        except FileNotFoundError as fault:
            raise UsageError(f"{file}: file is missing; no such file", "look at the URL") from fault
        yield target
