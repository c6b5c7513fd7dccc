"""Find and fetch models in the Hugging Face Hub and MLflow's registry.

Each is asked with its own client (extras `hub` and `mlflow`), imported when the first such address is used. The hub's
has its cache (HF_HOME), its token (HF_TOKEN), its endpoint (HF_ENDPOINT) and its offline switch (HF_HUB_OFFLINE: only
what the cache contains).
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ...errors import EnvironmentFaultError, RobustcheckError, UsageError, install_hint
from ...text import Texts, frozen, quoted
from .places import HIDDEN, HUB_OFFLINE, Url, is_hub_offline, redact, redact_text, secrets
from .stores import ENDPOINT, PIECE_BYTES, RemoteFile, StoreError, environment, limit_bytes, load_hub_client, too_large

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0  # for one answer about a repository
MOST_CONFIG_BYTES = 2**20  # of a config.json that is looked into: 1 MiB
MOST_NAME_BYTES = 255  # of a part of a path: where file systems end
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # environment variables of the client
Tell = Callable[[str], None] | None
"""gets the words of how far a download is"""
# Set where the user's environment does not: by default MLflow retries for minutes, sends telemetry, and prints.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # environment variables of MLflow's client
MOST_FILES = 10_000  # of a run or version that are listed before it is fetched
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_MODELS = ("datasets", "spaces", "buckets", "kernels")
_PAGES = ("tree", "blob", "resolve", "raw")  # https://HUB/org/repo/PAGE/revision/path
_MODELS = re.compile(r"models:/(?P<name>[^/:]+?)(/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))?")
_LOGGED = re.compile(r"models:/m-[0-9a-f]+")
_RUNS = re.compile(r"runs:/(?P<run>[0-9a-f]{8,64})(/(?P<path>.+?))?/?")


@frozen
class Address:
    """The address of a model repository or its file. revision None is main; path "" is the whole repository."""

    repo: str
    revision: str | None
    path: str

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def parse_hub(url: Url) -> Address | None:
    """Return the address that a hub's URL names.

    It is `hf://org/repo[@revision][/path]` or a page of the hub; None for another URL.

    A revision with a slash in it is written %2F, as in the client's own addresses.
    Raises UsageError: a data set or a space, which contains no model; not a name of a repository.
    """
    revision = None
    if url.protocol == "hf":
        parts = [part for part in url.raw.partition("://")[2].split("/") if part]
        if len(parts) > 1 and "@" in parts[1]:
            parts[1], _, revision = parts[1].partition("@")
    else:
        asked, endpoint = urlsplit(url.raw), urlsplit(os.environ.get(ENDPOINT) or HUB)
        if not url.is_http or (asked.hostname, asked.port) != (endpoint.hostname, endpoint.port):
            return None
        parts = [unquote(part) for part in asked.path.removeprefix(endpoint.path.rstrip("/")).split("/") if part]
        if len(parts) > 3 and parts[2] in _PAGES:
            revision, parts = parts[3], [*parts[:2], *parts[4:]]
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
    if any(part in (".", "..") for part in parts):
        raise UsageError(
            f"{shown}: path has a part {'..' if '..' in parts else '.'}; it must be plain", "hf://org/repo"
        )
    return Address("/".join(parts[:2]), None if revision is None else unquote(revision), "/".join(parts[2:]))


@frozen
class Repository:
    """A repository at one commit. It is the store of its files."""

    address: Address
    commit: str
    """40 hexadecimal digits"""
    files: Mapping[str, Any]
    """by path, the client's records: size, blob_id (of git), lfs.sha256 of a large one"""
    is_complete: bool = True
    """False: only files in the client's cache are known, since HF_HUB_OFFLINE forbids to ask"""

    def fetch(self, path: str, tell: Tell = None) -> Path:
        """Return a file in the client's cache. It is fetched where it is missing.

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
    """A file or folder of a Repository. The Repository is its `store`; `path` is below its root."""

    tell: Tell = None

    def __truediv__(self, name: str) -> HubFile:
        """Return a file below this folder."""
        return open_hub_file(self.store, f"{self.path}/{name}".lstrip("/"), self.tell)

    def info(self) -> Mapping[str, Any]:
        """Return the size of a file, or that it is a folder. Raises FileNotFoundError."""
        if self.path in self.store.files:
            return {"size": self.store.files[self.path].size}
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
        sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {cached.stat().st_size}\0".encode(), usedforsecurity=False)
        digest, expected = (sha256, listed.lfs.sha256) if listed.lfs else (git, listed.blob_id)
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
    """List the files of a repository. With HF_HUB_OFFLINE the client's cache is asked, not the hub.

    Raises EnvironmentFaultError: the package is not installed; no such repository or revision, no right to read it,
    the hub can't be reached (StoreError).
    """
    client = load_hub_client(address)
    with hub_errors(address):
        if not is_hub_offline():  # a snapshot alone would take the cache for a hub that is not there
            api = client.HfApi(endpoint=os.environ.get(ENDPOINT) or None, library_name="robustcheck")
            commit = str(api.model_info(address.repo, revision=address.revision, timeout=TIMEOUT_S).sha)
            if re.fullmatch("[0-9a-f]{40}", commit) is None:
                raise ValueError(f"commit is {commit!r:.60}")
        folder = _snapshot(address, [], _bar(None, "", None))  # no file: it puts the listing into the cache
        try:
            listed = client.get_cached_repo_tree(address.repo, revision=folder.name)
        except client.errors.CachedRepoTreeNotFoundError:
            cached = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            files = {
                name: SimpleNamespace(size=path.stat().st_size, lfs=None, blob_id=None) for name, path in cached.items()
            }
            return Repository(address, folder.name, files, is_complete=False)
        return Repository(address, folder.name, {file.path: file for file in listed if _is_plain(file.path)})


def _snapshot(address: Address, patterns: Sequence[str], bar: type) -> Path:
    """Return a revision's folder in the client's cache. It has the files that match."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of little space: where there is none, the error says so
        folder = load_hub_client(address).snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=patterns,
            local_files_only=is_hub_offline(),
            endpoint=os.environ.get(ENDPOINT) or None,
            tqdm_class=bar,
        )
    return Path(folder)


def open_hub_file(repository: Repository, path: str, tell: Tell = None) -> HubFile:
    """Return a file of a repository, unread. Reports show the revision that was asked for."""
    shown = str(replace(repository.address, path=path))
    return HubFile(Url(shown, "hf"), repository, path, shown, tell)


def library_of(repository: Repository) -> str | None:
    """Return the library of a repository's checkpoint. It is open_clip, timm or transformers; None: not known.

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
    """Turn the client's errors into this package's.

    They are UsageError, EnvironmentFaultError and StoreError, all without tokens.
    """
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
    reason = " ".join(str(fault).split())
    for secret in filter(None, (os.environ.get(name, "").strip() for name in TOKENS)):
        reason = reason.replace(secret, HIDDEN)
    return StoreError(shown, f"{type(fault).__name__}: {redact_text(reason)}"[:300])


def _is_plain(name: str) -> bool:
    """Return whether a name stays in its folder. It is the folder that the file is copied to, on any system.

    Raises ValueError: no file can have it, as with a NUL in it; to pass it by would hide a model.
    """
    parts = name.split("/")
    if "\0" in name or any(len(os.fsencode(part)) > MOST_NAME_BYTES for part in parts):
        raise ValueError(f"it lists a file that can't be, {name!r:.60}")
    return not {"..", ".", ""} & set(parts) and "\\" not in name


def _bar(tell: Tell, path: str, size_bytes: int | None) -> type:
    """Return a silent progress bar's class. It passes the progress of a download to `tell`."""
    silent: Any = load_hub_client(path).utils.tqdm
    of_all = f" of {size_bytes / 1e6:.0f}" if size_bytes else ""

    class Bar(silent):  # type: ignore[misc]
        def __init__(self, *words: Any, **named: Any) -> None:
            super().__init__(*words, **{**named, "disable": True})
            self.counts_bytes, self.n_bytes = named.get("unit") == "B", int(named.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.n_bytes += int(n or 0)
            if tell is not None and self.counts_bytes:
                tell(f"fetching {path}, {self.n_bytes / 1e6:.0f}{of_all} MB")

    return Bar


if TYPE_CHECKING:
    from mlflow import MlflowClient


@frozen
class MlflowEntry:
    """A place of files at MLflow, resolved."""

    shown: str
    uri: str
    """where MLflow's client fetches it from"""
    revision: str = ""
    """in words: `version 3`, `run 0123…`, or the id of a logged model"""


@frozen
class MlflowFiles:
    """The fetched files. models are the paths of the ONNX files in folder, sorted."""

    folder: Path
    models: Texts


def resolve_mlflow(client: MlflowClient, url: Url) -> MlflowEntry:
    """Return the entry that an address means.

    It is `models:/name/version`, `models:/name@alias`, `models:/m-…` or `runs:/id[/path]`.

    Raises UsageError: an address of another form; EnvironmentFaultError: an answer about another model or version, or a
    server that names a folder of this machine; MLflow's own errors (no such model, version, alias or run).
    """
    with _mlflow_errors(shown := str(url)):
        entry = _resolved_at_mlflow(client, url, shown)
        place = entry.uri
        if run := _RUNS.fullmatch(place):
            place = client.get_run(run["run"]).info.artifact_uri
        elif _LOGGED.fullmatch(place):
            place = client.get_logged_model(place.rpartition("/")[2]).artifact_location
        is_folder = len(urlsplit(place).scheme) < 2 or place.startswith("file:")  # C:\ is one, too
        servers = client.tracking_uri, os.environ.get("MLFLOW_REGISTRY_URI", "")  # each may be where the place is named
        # who keeps runs in a folder or database of one's own names the folder oneself
        if is_folder and any(server.startswith(("http", "databricks", "uc:")) for server in servers):
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server names a folder of this machine ({place}); it must name a store",
                "mlflow server --serve-artifacts, or an --artifacts-destination that is a store",
            )
        return entry


def logged_model_of(client: MlflowClient, address: str, revision: str) -> str | None:
    """Return the id of the logged model that was fetched. None where the address means none, or the server has none.

    address, revision: as the report of its check names them.
    """
    if _LOGGED.fullmatch(address):
        return revision
    named = _MODELS.fullmatch(address)
    if named is None:
        return None
    versions = client.search_model_versions(f"name = '{named['name']}'")
    sources = [str(version.source) for version in versions if f"version {version.version}" == revision]
    return next((source.rpartition("/")[2] for source in sources if _LOGGED.fullmatch(source)), None)


def _resolved_at_mlflow(client: MlflowClient, url: Url, shown: str) -> MlflowEntry:
    if run := _RUNS.fullmatch(url.raw):
        client.get_run(run["run"])  # its error names the run; a fetch's would name a path
        return MlflowEntry(shown, url.raw.rstrip("/"), f"run {run['run']}")
    named = _MODELS.fullmatch(url.raw)
    is_logged = _LOGGED.fullmatch(url.raw) is not None
    if named is None or not (is_logged or named["version"] or named["alias"]):
        raise UsageError(
            f"{shown}: address is none of MLflow; it must be models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH",
            "robustcheck models:/encoder/3 --images photos/",
        )
    name, version = named["name"], named["version"]
    if is_logged:
        return MlflowEntry(shown, url.raw, client.get_logged_model(name).model_id)
    if named["alias"]:
        registered = client.get_model_version_by_alias(name, named["alias"])
    elif version == "latest":
        versions = client.search_model_versions(f"name = '{name}'")
        if not versions:
            raise UsageError(f"{shown}: number of versions is 0; at least one is needed", f"models:/{name}/1")
        registered = max(versions, key=lambda v: int(v.version))
    elif version.isdecimal():
        registered = client.get_model_version(name, version)
    else:
        raise UsageError(f"{shown}: version is {version}; it must be a number, or latest", f"models:/{name}/1")
    identity = str(registered.version)
    is_other = registered.name != name or (str(version).isdecimal() and identity != str(int(version)))
    uri = "" if is_other or not identity.isdecimal() else client.get_model_version_download_uri(name, identity)
    if not uri:  # MLflow's client would take the current folder for an empty one
        raise EnvironmentFaultError(
            f"{shown}: MLflow's server answers with version {identity or 'none'} of {registered.name or 'nothing'}, at "
            f"{redact(uri) or 'no place'}; it must answer about what it was asked",
            "look at MLFLOW_TRACKING_URI",
        )
    return MlflowEntry(shown, uri, f"version {identity}")


def fetch_mlflow(client: MlflowClient, entry: MlflowEntry, folder: Path) -> MlflowFiles:
    """Download the files of an entry into a folder.

    Raises EnvironmentFaultError: more bytes than a download may have, a store that fails; otherwise as MLflow's client.
    """
    with _mlflow_errors(entry.shown):
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415 # an extra

        limit = limit_bytes()
        if _listed_bytes(entry, client.tracking_uri) > limit:
            raise too_large(entry.shown, limit)
        place = Path(download_artifacts(artifact_uri=entry.uri, dst_path=str(folder), tracking_uri=client.tracking_uri))
    root = place.parent if place.is_file() else place
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return MlflowFiles(
        root, tuple(path.relative_to(root).as_posix() for path in files if path.suffix.lower() == ".onnx")
    )


def _listed_bytes(entry: MlflowEntry, tracking_uri: str) -> int:
    """Return the listed size of all files below an address. It is 0 of a file."""
    from mlflow.artifacts import list_artifacts  # noqa: PLC0415 # an extra

    total, waiting, seen = 0, [entry.uri.rstrip("/")], 0
    while waiting:
        place = waiting.pop()
        for listed in list_artifacts(artifact_uri=place, tracking_uri=tracking_uri):
            seen += 1
            if seen > MOST_FILES:
                raise EnvironmentFaultError(
                    f"{entry.shown}: number of files is more than {MOST_FILES:,}; that is the limit",
                    "name the model's folder",
                )
            total += listed.file_size or 0
            if listed.is_dir:
                waiting.append(f"{place}/{listed.path.rpartition('/')[2]}")  # its path may start at the run, or here
    return total


@contextmanager
def _mlflow_errors(shown: str) -> Iterator[None]:
    """Turn other errors in MLflow's client into EnvironmentFaultError.

    A store's package or an odd answer raises them.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 # an extra

    try:
        yield
    except (RobustcheckError, MlflowException, OSError, MemoryError):
        raise
    except Exception as fault:
        raise EnvironmentFaultError(
            f"{shown}: MLflow's client or store fails ({_without_secrets(f'{type(fault).__name__}: {fault}')})",
            "look at the server's answer, and at the store's credentials",
        ) from fault


def _without_secrets(text: str, server: str = "") -> str:
    """Return another library's message without secrets. It is one line, without passwords and tokens."""
    hidden = [*secrets(server), *(os.environ.get(name, "") for name in PASSWORDS)]
    for secret in filter(None, hidden):
        text = text.replace(secret, HIDDEN)
    return redact_text(" ".join(text.split()))[:300]


@contextmanager
def mlflow_client(tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """Yield a client with errors of this package. Errors contain no passwords, and the client does not retry for
    minutes.

    Raises UsageError: no server is named, or it says that something is not there; EnvironmentFaultError: the extra is
    missing, the server can't be reached or refuses.
    """
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not server:
        raise UsageError(
            "tracking server is not named; MLflow would start a database in this folder",
            "--tracking-uri http://HOST:5000, or MLFLOW_TRACKING_URI",
        )
    shown = redact(server)
    with environment(MLFLOW_ENVIRONMENT):
        try:
            from mlflow import MlflowClient  # noqa: PLC0415 # an extra
            from mlflow.exceptions import MlflowException  # noqa: PLC0415
        except ImportError as fault:
            raise EnvironmentFaultError(
                "mlflow: package is not installed; the extra `mlflow` brings it", install_hint("mlflow")
            ) from fault
        try:
            yield MlflowClient(tracking_uri=server)  # MLflow chooses the registry: MLFLOW_REGISTRY_URI, Unity Catalog
        except RobustcheckError:
            raise
        except MlflowException as fault:
            message = _without_secrets(str(fault), server)
            if fault.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise UsageError(f"{shown}: MLflow says {message}", "look up run, model and version there") from fault
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server does not do what was asked ({message})", f"curl -sS {shown}/health"
            ) from fault
        except OSError as fault:  # of requests, or of a disk
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server or the disk fails ({_without_secrets(str(fault), server)})",
                f"curl -sS {shown}/health; df -h",
            ) from fault
