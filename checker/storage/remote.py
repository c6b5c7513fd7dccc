"""Files behind URLs: listed, read whole or in spans, written whole.

Everything goes through fsspec, which is imported when the first URL is opened. Whatever a store raises becomes
FileNotFoundError or StoreError, without secrets.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint

from . import hub_client
from .urls import Url, parse_place, redact_text, secrets

PIECE_BYTES: Final = 16 * 2**20  # of a download: one request each, 16 MiB
BUFFER_BYTES: Final = 2**18  # read ahead in a file that is read here and there, 256 KiB
LIMIT: Final = "ROBUSTCHECK_MAX_DOWNLOAD_BYTES"  # environment variable
LIMIT_BYTES: Final = 64 * 2**30  # of one download without that variable, 64 GiB: no vision encoder is larger
CONNECT_S: Final = 30  # seconds to connect to a web server
SILENCE_S: Final = 120  # seconds without a byte from one
_PACKAGES: Final = {  # by protocol that is read, the package it needs; none loads code that a checkout can hold
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
    """A file or folder in a store; it has the methods of a pathlib.Path that this package uses."""

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
        """Whether the URL carries a key for this one file, which opens none beside it."""
        return self.url.is_http and "?" in self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = self._bare.rstrip("/").rpartition("/")[2]
        return unquote(name) if self.url.is_http else name

    @property
    def suffix(self) -> str:
        """As of a Path."""
        return os.path.splitext(self.name)[1]  # noqa: PTH122 # a name, no path

    @property
    def parent(self) -> RemoteFile:
        """The folder."""
        shown = re.split(r"[?#]", self.shown)[0] if self.url.is_http else self.shown
        up = self._bare.rstrip("/").rpartition("/")[0]
        return replace(self, path=up, shown=shown.rstrip("/").rpartition("/")[0])

    def __truediv__(self, name: str) -> RemoteFile:
        """A file below this folder; a name that is a URL stands for itself."""
        if "://" in name:
            place = parse_place(name)
            if isinstance(place, Url):
                return open_url(place)
            raise UsageError(
                f"{name}: file is of this machine; a list in another store can't name it", "use a list of this one"
            )
        part = quote(name) if self.url.is_http else name
        return replace(self, path=f"{self._bare.rstrip('/')}/{part}", shown=f"{self.shown.rstrip('/')}/{name}")

    @property
    def _bare(self) -> str:
        return re.split(r"[?#]", self.path)[0] if self.url.is_http else self.path

    def info(self) -> dict[str, Any]:
        """What the store knows of it (name, size, type). Raises FileNotFoundError, StoreError."""
        with self._store_errors():
            info: dict[str, Any] = self.store.info(self.path)
        return info

    def names_below(self) -> list[str]:
        """Names of all files below this folder, relative to it, sorted."""
        with self._store_errors():
            self.store.invalidate_cache()
            root = self.store.info(self.path)["name"]
            paths = self.store.find(root)
        return self._relative(root, paths)

    def names_beside(self) -> list[str]:
        """Names of the files right in this folder, sorted."""
        with self._store_errors():
            self.store.invalidate_cache()
            root = self.store.info(self.path)["name"]
            paths = [entry["name"] for entry in self.store.ls(root, detail=True) if entry["type"] == "file"]
        return self._relative(root, paths)

    def names_like(self, pattern: str) -> list[str]:
        """Names of the files that match a glob relative to this folder, sorted."""
        with self._store_errors():
            self.store.invalidate_cache()
            entries = self.store.glob(f"{self.path}/{pattern}", detail=True)
            paths = [name for name, entry in entries.items() if entry["type"] == "file"]
        return self._relative(self.path, paths)

    def _relative(self, root: str, paths: list[str]) -> list[str]:
        start = root.strip("/") + "/" if root.strip("/") else ""
        bare = [path.lstrip("/") for path in paths if not path.endswith("/")]
        if not all(name.startswith(start) for name in bare):
            raise StoreError(self.shown, "its listing names files of another folder")
        return sorted(name.removeprefix(start) for name in bare if name != start)

    def read_bytes(self, limit: int) -> bytes:
        """The content; of a longer one the first limit + 1 bytes. Raises FileNotFoundError, StoreError."""
        with self._store_errors():
            if not self.url.is_http:
                return bytes(self.store.cat_file(self.path, start=0, end=limit + 1))
            content = bytearray()
            with self._whole() as stream:
                while len(content) <= limit and (piece := stream.read(min(PIECE_BYTES, limit + 1 - len(content)))):
                    content += piece
            return bytes(content)

    def _whole(self) -> Any:
        """A web server's file as one stream: many give no ranges. Given a size, fsspec does not ask for it first."""
        return self.store.open(self.path, "rb", block_size=0, size=1)

    def stream(self) -> Generator[bytes, None, None]:
        """The content in pieces. Raises FileNotFoundError, StoreError, at any piece."""
        if not self.url.is_http:
            with self.open() as reader:
                yield from iter(lambda: reader.read(PIECE_BYTES), b"")
            return
        with self._store_errors():
            stream = self._whole()
        with contextlib.closing(stream):
            while True:
                with self._store_errors():
                    piece = stream.read(PIECE_BYTES)
                if not piece:
                    return
                yield piece

    def read_span(self, start: int, length: int) -> bytes:
        """Read `length` bytes from byte `start` on. Raises FileNotFoundError, StoreError (also where fewer come)."""
        if length <= 0:
            return b""
        with self._store_errors():
            content = bytes(self.store.cat_file(self.path, start=start, end=start + length))
        if len(content) != length:  # a server that ignores ranges sends everything
            raise StoreError(self.shown, f"{len(content)} bytes came where {length} at {start} were asked for")
        return content

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """A seekable reader; nothing is read yet. Raises FileNotFoundError, StoreError (size not known)."""
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

    def write_whole(self, content: bytes) -> None:
        """Put a file there, replacing another. Raises StoreError."""
        with self._store_errors():
            self.store.pipe_file(self.path, content)

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        with store_errors(self.url, self.shown, self.path):
            yield


class _Reader(io.RawIOBase):
    """A remote file as a seekable stream that fetches the bytes asked for; each reader has its own position."""

    def __init__(self, file: RemoteFile, size_bytes: int) -> None:
        self._file, self._size, self._position = file, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "position before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        buffer[:length] = self._file.read_span(self._position, length)
        self._position += length
        return length


@contextlib.contextmanager
def store_errors(url: Url, shown: str, path: str = "") -> Iterator[None]:
    """Turn whatever a store raises into FileNotFoundError or StoreError, both without secrets."""
    try:
        yield
    except (EnvironmentFaultError, MemoryError):
        raise
    except (FileNotFoundError, IsADirectoryError):  # their messages hold the raw URL
        raise FileNotFoundError(errno.ENOENT, "no such file", shown) from None
    except Exception as fault:  # noqa: BLE001 # each store raises classes of its own
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        for secret in {*secrets(url.raw), *secrets(path)}:
            reason = reason.replace(secret, "***")
        raise StoreError(shown, redact_text(reason)[:300]) from None


def open_url(url: Url) -> RemoteFile:
    """The file or folder that a URL names; nothing is connected to yet.

    Raises UsageError: a protocol that is not read (fsspec's hdfs:// would load a library from the current folder).
    EnvironmentFaultError: fsspec or the package of the protocol is missing.
    """
    if url.protocol not in (*_PACKAGES, "memory"):
        near = difflib.get_close_matches(url.protocol, _PACKAGES, 1)
        raise UsageError(
            f"{url}: protocol {url.protocol} is not read; URLs start with {', '.join(_PACKAGES)}",
            f"{near[0]}{str(url)[len(url.protocol) :]}" if near else "copy it here, and name the copy",
        )
    try:
        import fsspec  # noqa: PLC0415 # an extra, only where there is a URL
    except ModuleNotFoundError as fault:
        raise EnvironmentFaultError(
            f"{url}: package fsspec is not installed; URLs need it",
            install_hint("remote"),
        ) from fault
    options: dict[str, Any] = {}
    if url.protocol == "hf":
        hub_client.load(url)
        options["endpoint"] = os.environ.get(hub_client.ENDPOINT) or None
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
            store, path = fsspec.filesystem(url.protocol, **options), url.raw
        else:
            store, path = fsspec.url_to_fs(url.raw, **options)
    return RemoteFile(url, store, path, str(url))
