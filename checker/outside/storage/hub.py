"""Find and fetch models in the Hugging Face Hub, with its own client (the extra `hub`).

The client has its cache (HF_HOME), its token (HF_TOKEN), its endpoint (HF_ENDPOINT) and its offline switch
(HF_HUB_OFFLINE: only what the cache contains).
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

from ...core.progress import TellLine
from ...errors import EnvironmentFaultError, RobustcheckError, UsageError
from ...text import Fields, frozen, quoted
from .places import HUB_OFFLINE, Url, is_hub_offline, redact, without_secrets
from .stores import PIECE_BYTES, RemoteFile, StoreError, hub_endpoint, load_hub_client

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0  # for one answer about a repository
MOST_CONFIG_BYTES = 2**20  # of a config.json that is looked into: 1 MiB
MOST_NAME_BYTES = 255  # of a part of a path: where file systems end
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # environment variables of the client
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_MODELS = ("datasets", "spaces", "buckets", "kernels")
_PAGES = ("tree", "blob", "resolve", "raw")  # https://HUB/org/repo/PAGE/revision/path


@frozen
class Address:
    """The address of a repository of models, or of its file."""

    repo: str
    revision: str | None
    """None: main"""
    path: str
    """empty for the repository"""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        path = f"/{self.path}" if self.path else ""
        return f"hf://{self.repo}{revision}{path}"


def parse_hub(url: Url) -> Address | None:
    """Return the address that `hf://org/repo[@revision][/path]` or a page of the hub names; None for another URL.

    A revision with a slash in it is written %2F, as in the client's own addresses.
    Raises UsageError: a data set or a space, which contains no model; not a name of a repository.
    """
    revision = None
    if url.protocol == "hf":
        parts = _parts_of(url.raw.partition("://")[2])
        if len(parts) > 1 and "@" in parts[1]:
            parts[1], _, revision = parts[1].partition("@")
    else:
        asked = urlsplit(url.raw)
        hub = urlsplit(hub_endpoint() or HUB)
        if not url.is_http or (asked.hostname, asked.port) != (hub.hostname, hub.port):
            return None
        parts = list(map(unquote, _parts_of(asked.path.removeprefix(hub.path.rstrip("/")))))
        if len(parts) > 3 and parts[2] in _PAGES:
            revision = parts[3]
            del parts[2:4]
        elif len(parts) != 2 and parts[:1] != ["datasets"]:
            return None
    shown = redact(url.raw)
    if parts and parts[0] in _NOT_MODELS:
        raise UsageError(
            f"{shown}: address is in the hub's {parts[0]}; a model must be in a repository of models",
            f"--images {shown}" if parts[0] == "datasets" else "hf://org/repo",
        )
    if len(parts) < 2 or not all(map(_PART.fullmatch, parts[:2])) or revision == "":
        raise UsageError(f"{shown}: address names no repository; it must be hf://org/repo[@revision][/file.onnx]")
    for part in ("..", "."):
        if part in parts:
            raise UsageError(f"{shown}: path has a part {part}; it must be plain", "hf://org/repo")
    return Address("/".join(parts[:2]), revision and unquote(revision), "/".join(parts[2:]))


def _parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


@frozen
class Repository:
    """A repository at one commit, the store of its files."""

    address: Address
    commit: str
    """40 hexadecimal digits"""
    files: Fields
    """by path, the client's records: size, blob_id (of git), lfs.sha256 of a large one"""
    is_complete: bool = True
    """False: only files in the client's cache are known, since HF_HUB_OFFLINE forbids to ask"""

    def fetch(self, path: str, tell: TellLine | None = None) -> Path:
        """Return a file in the client's cache, fetched where it is missing.

        The client remembers files that it was asked for by name, so that it answers offline, too. Raises as the client,
        and StoreError where the revision moved to another commit.
        """
        folder = _snapshot(self.address, [glob.escape(path)], _bar(tell, path, self.files[path].size))
        if folder.name != self.commit:
            raise StoreError(str(self.address), f"its revision moved from commit {self.commit} to {folder.name}")
        if not (folder / path).is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return folder / path


@dataclass(frozen=True, eq=False)
class HubFile(RemoteFile):
    """A file or folder of a Repository, which is its `store`; `path` is below its root."""

    tell: TellLine | None = None

    def __truediv__(self, name: str) -> HubFile:
        """Return a file below this folder."""
        return open_hub_file(self.store, f"{self.path}/{name}".lstrip("/"), self.tell)

    def info(self) -> Fields:
        """Return the size of a file, or that it is a folder. Raises FileNotFoundError."""
        listed = self.store.files.get(self.path)
        if listed is not None:
            return {"size": listed.size}
        self.child_names()
        return {"type": "directory"}

    def child_names(self) -> list[str]:
        """Return the names of the folder's own files, sorted. Raises FileNotFoundError."""
        start = f"{self.path}/".lstrip("/")
        below = [name.removeprefix(start) for name in self.store.files if name.startswith(start)]
        if self.path and not below:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.shown)
        return sorted(name for name in below if "/" not in name)

    def stream(self) -> Generator[bytes, None, None]:
        """Yield the content from the client's cache. Raises FileNotFoundError, StoreError (another digest)."""
        self.info()
        with hub_errors(self.store.address, self.shown):
            cached = self.store.fetch(self.path, self.tell)
        listed = self.store.files[self.path]
        if listed.lfs:
            digest = hashlib.sha256()
            expected = listed.lfs.sha256
        else:
            digest = hashlib.sha1(f"blob {cached.stat().st_size}\0".encode(), usedforsecurity=False)
            expected = listed.blob_id
        with cached.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                yield piece
        if expected not in (None, digest.hexdigest()):
            raise EnvironmentFaultError(
                f"{self.shown}: cached bytes have another digest than the hub lists; they must be the listed ones",
                f"rm {quoted(cached.resolve())}, and fetch it again",
            )


def open_repository(address: Address) -> Repository:
    """List the files of a repository, as the hub does, or with HF_HUB_OFFLINE the client's cache.

    Raises EnvironmentFaultError: the package is not installed; no such repository or revision, no right to read it,
    the hub can't be reached (StoreError).
    """
    client = load_hub_client(address)
    with hub_errors(address):
        if not is_hub_offline():  # a snapshot alone would take the cache for a hub that is not there
            api = client.HfApi(endpoint=hub_endpoint(), library_name="robustcheck")
            commit = str(api.model_info(address.repo, revision=address.revision, timeout=TIMEOUT_S).sha)
            if re.fullmatch("[0-9a-f]{40}", commit) is None:
                raise ValueError(f"commit is {commit!r:.60}")
        folder = _snapshot(address, [], _bar(None, "", None))  # no file: it puts the listing into the cache
        try:
            listed = client.get_cached_repo_tree(address.repo, revision=folder.name)
        except client.errors.CachedRepoTreeNotFoundError:
            files = {}
            for path in folder.rglob("*"):
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    files[name] = SimpleNamespace(size=path.stat().st_size, lfs=None, blob_id=None)
            return Repository(address, folder.name, files, is_complete=False)
        return Repository(address, folder.name, {file.path: file for file in listed if _is_plain(file.path)})


def _snapshot(address: Address, patterns: Sequence[str], bar: type) -> Path:
    """Return a revision's folder in the client's cache, with the files that match."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of little space: where there is none, the error says so
        folder = load_hub_client(address).snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=patterns,
            local_files_only=is_hub_offline(),
            endpoint=hub_endpoint(),
            tqdm_class=bar,
        )
    return Path(folder)


def open_hub_file(repository: Repository, path: str, tell: TellLine | None) -> HubFile:
    """Return a file of a repository, unread, that reports show with the revision that was asked for."""
    shown = str(replace(repository.address, path=path))
    return HubFile(Url(shown, "hf"), repository, path, shown, tell)


def library_of(repository: Repository) -> str | None:
    """Return the library of a repository's checkpoint, open_clip, timm or transformers; None where it is not known.

    Raises as `hub_errors`.
    """
    if "open_clip_config.json" in repository.files:
        return "open_clip"
    size = getattr(repository.files.get("config.json"), "size", None)
    if size is None or size > MOST_CONFIG_BYTES:
        return None
    with hub_errors(repository.address):
        content = repository.fetch("config.json").read_bytes()
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    if "pretrained_cfg" in config or {"architecture", "num_features"} <= config.keys():
        return "timm"
    return "transformers" if "model_type" in config else None


@contextmanager
def hub_errors(address: Address, shown: str = "") -> Iterator[None]:
    """Turn the client's errors into UsageError, EnvironmentFaultError and StoreError, without tokens."""
    try:
        yield
    except (RobustcheckError, MemoryError):
        raise
    except Exception as fault:
        if type(fault) is FileNotFoundError:  # the client has its own kinds of it
            raise
        raise _hub_error(fault, address, shown or str(address)) from None


def _hub_error(fault: Exception, address: Address, shown: str) -> RobustcheckError:
    names = {kind.__name__ for kind in type(fault).__mro__}
    page = f"{hub_endpoint() or HUB}/{address.repo}"
    if "GatedRepoError" in names:
        return EnvironmentFaultError(
            f"{shown}: repository is gated; its owner must give access", f"ask at {page}, then export HF_TOKEN=…"
        )
    if "RepositoryNotFoundError" in names:
        return UsageError(
            f"{shown}: repository is not on the hub, or may not be read; it must be there",
            "look at the name; a private one needs hf auth login, or HF_TOKEN",
        )
    if "RevisionNotFoundError" in names:
        return UsageError(
            f"{shown}: revision {address.revision or 'main'} is not in the repository; it must be",
            f"{page}/refs, or leave it out",
        )
    if getattr(fault, "errno", None) == errno.ENOSPC:
        return EnvironmentFaultError(
            f"{shown}: no space is left for the download; the hub's cache must have some",
            "df -h; hf cache prune; export HF_HOME=a folder with more space",
        )
    if is_hub_offline() and {"LocalEntryNotFoundError", "IncompleteSnapshotError"} & names:
        return EnvironmentFaultError(
            f"{shown}: file is not in the hub's cache; {HUB_OFFLINE} forbids to fetch it",
            f"unset {HUB_OFFLINE} once, or hf download {address.repo}",
        )
    if getattr(getattr(fault, "response", None), "status_code", None) == 429:
        return EnvironmentFaultError(
            f"{shown}: the hub accepts no more requests for now (429)", "wait, or export HF_TOKEN=…"
        )
    tokens = [os.environ.get(name, "").strip() for name in TOKENS]
    return StoreError(shown, without_secrets(f"{type(fault).__name__}: {fault}", tokens))


def _is_plain(name: str) -> bool:
    """Return whether a file of this name stays in the folder that it is copied to, on any system.

    Raises ValueError: no file can have it, as with a NUL in it; to leave it out would hide a model.
    """
    parts = name.split("/")
    if "\0" in name or any(len(os.fsencode(part)) > MOST_NAME_BYTES for part in parts):
        raise ValueError(f"it lists a file that can't be, {name!r:.60}")
    return not {"..", ".", ""} & set(parts) and "\\" not in name


def _bar(tell: TellLine | None, path: str, size_bytes: int | None) -> type:
    """Return the class of a silent progress bar, which passes the progress of a download to `tell`."""
    silent: Any = load_hub_client(path).utils.tqdm
    of_all = f" of {size_bytes / 1e6:.0f}" if size_bytes else ""

    class Bar(silent):  # type: ignore[misc]
        def __init__(self, *words: Any, **named: Any) -> None:
            super().__init__(*words, **{**named, "disable": True})
            self.counts_bytes = named.get("unit") == "B"
            self.n_bytes = int(named.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.n_bytes += int(n or 0)
            if tell is not None and self.counts_bytes:
                tell(f"fetching {path}, {self.n_bytes / 1e6:.0f}{of_all} MB")

    return Bar
