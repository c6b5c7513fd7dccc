"""Repositories of Hugging Face's hub: what one holds at one commit, and its files through the hub's own client.

The client (extra `hub`) has its cache (HF_HOME), its token (HF_TOKEN), its endpoint (HF_ENDPOINT) and its offline
switch (HF_HUB_OFFLINE: only what the cache holds); nothing of it is imported before the first such address.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.text import quoted

from . import hub_client
from .hub_address import HUB, Address, parse_hub
from .hub_client import ENDPOINT
from .remote import PIECE_BYTES, RemoteFile, StoreError
from .urls import HIDDEN, HUB_OFFLINE, Url, is_hub_offline, redact_text

__all__ = [
    "Address",
    "HubFile",
    "Listed",
    "Repository",
    "hub_errors",
    "library_of",
    "open_hub_file",
    "open_repository",
    "parse_hub",
]

TIMEOUT_S: Final = 30.0  # for one answer about a repository
MOST_CONFIG_BYTES: Final = 2**20  # of a config.json that is looked into: 1 MiB
MOST_NAME_BYTES: Final = 255  # of a part of a path: where file systems end


@dataclass(frozen=True)
class Listed:
    """One file of a repository; `sha256` of a large one, `git_sha1` (of git's blob) of the others, as the hub says."""

    size_bytes: int | None
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Repository:
    """What a repository holds at one commit."""

    address: Address
    commit: str
    """40 hexadecimal digits"""
    files: Mapping[str, Listed]
    """by path"""
    is_whole: bool
    """False: only what the client's cache holds of it is known, since HF_HUB_OFFLINE forbids to ask"""

    def read(self, path: str, tell: Callable[[str], None] | None = None) -> Path:
        """A file of it in the client's cache, fetched where it is not there.

        The client keeps what it was asked for by name, so that it answers offline, too. Raises as the client, and
        StoreError where the revision stands for another commit by now.
        """
        client, bar = (
            hub_client.load(self.address),
            _bar(tell, path, self.files[path].size_bytes if path in self.files else None),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of little space: where there is none, the error says so
            folder = Path(
                client.snapshot_download(
                    self.address.repo,
                    revision=self.address.revision,
                    allow_patterns=[glob.escape(path)],
                    local_files_only=is_hub_offline(),
                    endpoint=os.environ.get(ENDPOINT) or None,
                    tqdm_class=bar,
                )
            )
        if folder.name != self.commit:
            raise StoreError(str(self.address), f"its revision moved from commit {self.commit} to {folder.name}")
        if not (folder / path).is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return folder / path


@dataclass(frozen=True, eq=False)
class HubFile(RemoteFile):
    """A file or folder of a repository; `store` is the Repository, `path` is below its root."""

    tell: Callable[[str], None] | None = None

    @property
    def parent(self) -> HubFile:
        """The folder; the root's is the root."""
        return open_hub_file(self.store, self.path.rpartition("/")[0], self.tell)

    def __truediv__(self, name: str) -> HubFile:
        """A file below this folder."""
        return open_hub_file(self.store, f"{self.path}/{name}".lstrip("/"), self.tell)

    def info(self) -> dict[str, Any]:
        """Its name, size and type. Raises FileNotFoundError."""
        listed = self.store.files.get(self.path)
        if listed is not None:
            return {"name": self.path, "size": listed.size_bytes, "type": "file"}
        if self.path == "" or any(name.startswith(f"{self.path}/") for name in self.store.files):
            return {"name": self.path, "size": None, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, "no such file", self.shown)

    def names_beside(self) -> list[str]:
        """Names of the files right in this folder, sorted."""
        start = f"{self.path}/" if self.path else ""
        names = (name.removeprefix(start) for name in self.store.files if name.startswith(start))
        return sorted(name for name in names if "/" not in name)

    def stream(self) -> Generator[bytes, None, None]:
        """The content in pieces, from the client's cache. Raises FileNotFoundError, StoreError (another digest)."""
        self.info()
        with hub_errors(self.store.address, self.shown):
            cached = self.store.read(self.path, self.tell)
        listed = self.store.files[self.path]
        sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {cached.stat().st_size}\0".encode(), usedforsecurity=False)
        with cached.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                (sha256 if listed.sha256 else git).update(piece)
                yield piece
        if listed.sha256 not in (None, sha256.hexdigest()) or (
            listed.sha256 is None and listed.git_sha1 not in (None, git.hexdigest())
        ):
            raise EnvironmentFaultError(
                f"{self.shown}: cached bytes have another digest than the hub lists; they must be the listed ones",
                f"rm {quoted(cached.resolve())}, and fetch it again",
            )


def open_repository(address: Address) -> Repository:
    """Ask the hub what a repository holds; with HF_HUB_OFFLINE, look at what the client's cache holds of it.

    Raises EnvironmentFaultError: the package is not installed; no such repository or revision, no right to read it,
    the hub can't be reached (StoreError).
    """
    client = hub_client.load(address)
    with hub_errors(address):
        if is_hub_offline():
            return _cached(address)
        api = client.HfApi(endpoint=os.environ.get(ENDPOINT) or None, library_name="robustcheck")
        said = api.model_info(address.repo, revision=address.revision, files_metadata=True, timeout=TIMEOUT_S)
        commit = str(said.sha)
        if re.fullmatch("[0-9a-f]{40}", commit) is None:
            raise ValueError(f"commit is {commit!r:.60}")
        listed = {
            each.rfilename: Listed(each.size, each.lfs.sha256 if each.lfs else None, each.blob_id)
            for each in said.siblings or ()
            if _is_plain(each.rfilename)
        }
        return Repository(address, commit, listed, is_whole=True)


def _cached(address: Address) -> Repository:
    """What the client's cache knows of a repository: its listing, which a fetch keeps, or only what was fetched."""
    client = hub_client.load(address)
    nothing = ["no/such/file"]  # what is not in the cache is an error only where it is asked for
    folder = Path(
        client.snapshot_download(address.repo, revision=address.revision, local_files_only=True, allow_patterns=nothing)
    )
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): Listed(path.stat().st_size, None, None) for path in paths}
    try:
        tree = client.get_cached_repo_tree(address.repo, revision=folder.name)
    except client.errors.CachedRepoTreeNotFoundError:
        return Repository(address, folder.name, files, is_whole=False)
    listed = {
        each.path: Listed(each.size, each.lfs.sha256 if each.lfs else None, each.blob_id)
        for each in tree
        if _is_plain(each.path)
    }
    return Repository(address, folder.name, listed, is_whole=True)


def open_hub_file(repository: Repository, path: str, tell: Callable[[str], None] | None = None) -> HubFile:
    """A file of a repository, unread; its name in reports says the revision that was asked for."""
    address = replace(repository.address, path=path)
    return HubFile(Url(str(address), "hf"), repository, path, str(address), tell)


def library_of(repository: Repository) -> str | None:
    """Which library made the checkpoint that a repository holds: open_clip, timm or transformers; None: it doesn't say.

    Raises as `hub_errors`.
    """
    if "open_clip_config.json" in repository.files:
        return "open_clip"
    size = getattr(repository.files.get("config.json"), "size_bytes", None)
    if size is None or size > MOST_CONFIG_BYTES:
        return None
    with hub_errors(repository.address):
        content = repository.read("config.json").read_bytes()
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    if "pretrained_cfg" in config or {"architecture", "num_features"} <= config.keys():
        return "timm"
    return "transformers" if "model_type" in config else None


@contextlib.contextmanager
def hub_errors(address: Address, shown: str = "") -> Iterator[None]:
    """Turn what the client raises into UsageError, EnvironmentFaultError or StoreError, all without tokens."""
    shown = shown or str(address)
    try:
        yield
    except (RobustcheckError, MemoryError):
        raise
    except FileNotFoundError as fault:
        if type(fault) is FileNotFoundError:
            raise
        raise _told(fault, address, shown) from None
    except Exception as fault:  # noqa: BLE001 # the client raises classes of several packages
        raise _told(fault, address, shown) from None


def _told(fault: Exception, address: Address, shown: str) -> RobustcheckError:
    names = {kind.__name__ for kind in type(fault).__mro__}
    page = f"{os.environ.get(ENDPOINT) or HUB}/{address.repo}"
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
        revision = address.revision or "main"
        return UsageError(
            f"{shown}: revision {revision} is not in the repository; it must be", f"{page}/refs, or leave it out"
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
    if "429" in str(getattr(getattr(fault, "response", None), "status_code", "")):
        return EnvironmentFaultError(
            f"{shown}: hub answers that it is asked too often (429)", "wait, or export HF_TOKEN=…"
        )
    said = " ".join(str(fault).split())
    for secret in secrets_of_client():
        said = said.replace(secret, HIDDEN)
    return StoreError(shown, f"{type(fault).__name__}: {redact_text(said)}"[:300])


def secrets_of_client() -> list[str]:
    """The tokens in the client's environment variables, which no text may show."""
    values = (os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    return [value for value in values if value]


def _is_plain(name: str) -> bool:
    """Whether a listed name is a path below the folder that it is copied to, on any system.

    Raises ValueError: no file can have it, as with a NUL in it; to pass it by would hide a model.
    """
    parts = name.split("/")
    if "\0" in name or any(len(os.fsencode(part)) > MOST_NAME_BYTES for part in parts):
        raise ValueError(f"it lists a file that can't be, {name!r:.60}")
    return not PurePosixPath(name).is_absolute() and not {"..", ".", ""} & set(parts) and "\\" not in name


def _bar(tell: Callable[[str], None] | None, path: str, size_bytes: int | None) -> Any:
    """The class of a progress bar that shows nothing itself, and tells how far a download is."""
    silent: Any = hub_client.load(path).utils.tqdm
    whole = f" of {size_bytes / 1e6:.0f}" if size_bytes else ""

    class Bar(silent):  # type: ignore[misc]
        def __init__(self, *words: Any, **named: Any) -> None:
            super().__init__(*words, **{**named, "disable": True})
            self.counts_bytes, self.so_far = named.get("unit") == "B", int(named.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.so_far += int(n or 0)
            if tell is not None and self.counts_bytes:
                tell(f"fetching {path}, {self.so_far / 1e6:.0f}{whole} MB")

    return Bar
