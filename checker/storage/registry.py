"""Resolve and fetch models of MLflow's registry. Its tracking server is asked with its own client (extra `mlflow`).

Nothing is imported or connected to before an address of MLflow is used, or a caller names a server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError, install_hint

from .places import HIDDEN, Url, redact, redact_text, secrets
from .stores import environment, limit_bytes, too_large

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Set where the user's environment does not: by default MLflow retries for minutes, sends telemetry, and prints.
ENVIRONMENT = {
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
_MODELS = re.compile(r"models:/(?P<name>[^/@:]+)(/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))?")
_LOGGED = re.compile(r"models:/m-[0-9a-f]+")
_RUNS = re.compile(r"runs:/(?P<run>[0-9a-f]{8,64})(/(?P<path>.+?))?/?")


@dataclass(frozen=True)
class Entry:
    """A place of files at MLflow, resolved."""

    shown: str
    uri: str
    """where MLflow's client fetches it from"""
    revision: str = ""
    """in words: `version 3`, `run 0123…`, or the id of a logged model"""


@dataclass(frozen=True)
class Files:
    """The fetched files. models are the paths of the ONNX files in folder, sorted."""

    folder: Path
    models: tuple[str, ...]


def resolve(client: MlflowClient, url: Url) -> Entry:
    """Return the entry that an address means.

    It is `models:/name/version`, `models:/name@alias`, `models:/m-…` or `runs:/id[/path]`.

    Raises UsageError: an address of another form; EnvironmentFaultError: an answer about another model or version, or a
    server that names a folder of this machine; MLflow's own errors (no such model, version, alias or run).
    """
    with _client_errors(shown := str(url)):
        entry = _resolved(client, url, shown)
        place = entry.uri
        if run := _RUNS.fullmatch(place):
            place = client.get_run(run["run"]).info.artifact_uri
        elif _LOGGED.fullmatch(place):
            place = client.get_logged_model(place.rpartition("/")[2]).artifact_location
        is_folder = len(urlsplit(place).scheme) < 2 or place.startswith("file:")  # C:\ is one, too
        servers = client.tracking_uri, os.environ.get("MLFLOW_REGISTRY_URI", "")  # each may be where the place is named
        # who keeps runs in a folder or database of one's own names the folder oneself
        if is_folder and any(each.startswith(("http", "databricks", "uc:")) for each in servers):
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server names a folder of this machine ({place}); it must name a store",
                "mlflow server --serve-artifacts, or an --artifacts-destination that is a store",
            )
        return entry


def _resolved(client: MlflowClient, url: Url, shown: str) -> Entry:
    if run := _RUNS.fullmatch(url.raw):
        client.get_run(run["run"])  # its error names the run; a fetch's would name a path
        return Entry(shown, url.raw.rstrip("/"), f"run {run['run']}")
    named = _MODELS.fullmatch(url.raw)
    is_logged = _LOGGED.fullmatch(url.raw) is not None
    if named is None or not (is_logged or named["version"] or named["alias"]):
        raise UsageError(
            f"{shown}: address is none of MLflow; it must be models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH",
            "robustcheck models:/encoder/3 --images photos/",
        )
    name, version = named["name"], named["version"]
    if is_logged:
        return Entry(shown, url.raw, client.get_logged_model(name).model_id)
    if named["alias"]:
        registered = client.get_model_version_by_alias(name, named["alias"])
    elif version == "latest":
        versions = client.search_model_versions(f"name = '{name}'")
        if not versions:
            raise UsageError(f"{shown}: number of versions is 0; at least one is needed", f"models:/{name}/1")
        registered = max(versions, key=lambda each: int(each.version))
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
    return Entry(shown, uri, f"version {identity}")


def fetch(client: MlflowClient, entry: Entry, folder: Path) -> Files:
    """Download the files of an entry into a folder.

    Raises EnvironmentFaultError: more bytes than a download may have, a store that fails; otherwise as MLflow's client.
    """
    with _client_errors(entry.shown):
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415 # an extra

        limit = limit_bytes()
        if _listed_bytes(entry, client.tracking_uri) > limit:
            raise too_large(entry.shown, limit)
        place = Path(download_artifacts(artifact_uri=entry.uri, dst_path=str(folder), tracking_uri=client.tracking_uri))
    root = place.parent if place.is_file() else place
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return Files(root, tuple(path.relative_to(root).as_posix() for path in files if path.suffix.lower() == ".onnx"))


def _listed_bytes(entry: Entry, tracking_uri: str) -> int:
    """Return the listed size of all files below an address. It is 0 of a file."""
    from mlflow.artifacts import list_artifacts  # noqa: PLC0415 # an extra

    total, waiting, seen = 0, [entry.uri.rstrip("/")], 0
    while waiting:
        place = waiting.pop()
        for each in list_artifacts(artifact_uri=place, tracking_uri=tracking_uri):
            seen += 1
            if seen > MOST_FILES:
                raise EnvironmentFaultError(
                    f"{entry.shown}: number of files is more than {MOST_FILES:,}; that is the limit",
                    "name the model's folder",
                )
            total += each.file_size or 0
            if each.is_dir:
                waiting.append(f"{place}/{each.path.rpartition('/')[2]}")  # its path may start at the run, or here
    return total


@contextmanager
def _client_errors(shown: str) -> Iterator[None]:
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
            f"{shown}: MLflow's client or store fails ({_safe(f'{type(fault).__name__}: {fault}')})",
            "look at the server's answer, and at the store's credentials",
        ) from fault


def _safe(text: str, server: str = "") -> str:
    """Return another library's message without secrets. It is one line, without passwords and tokens."""
    hidden = [*secrets(server), *(os.environ.get(name, "") for name in PASSWORDS)]
    for secret in filter(None, hidden):
        text = text.replace(secret, HIDDEN)
    return redact_text(" ".join(text.split()))[:300]


@contextmanager
def connected(tracking_uri: str | None = None) -> Iterator[MlflowClient]:
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
    with environment(ENVIRONMENT):
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
            message = _safe(str(fault), server)
            if fault.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise UsageError(f"{shown}: MLflow says {message}", "look up run, model and version there") from fault
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server does not do what was asked ({message})", f"curl -sS {shown}/health"
            ) from fault
        except OSError as fault:  # of requests, or of a disk
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server or the disk fails ({_safe(str(fault), server)})",
                f"curl -sS {shown}/health; df -h",
            ) from fault
