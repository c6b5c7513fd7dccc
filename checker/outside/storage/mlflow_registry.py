"""Find and fetch models in MLflow's registry, with its own client (the extra `mlflow`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import EnvironmentFaultError, RobustcheckError, UsageError, install_hint
from ...text import Texts, frozen, is_onnx
from .places import Url, redact, secrets, without_secrets
from .stores import environment, limit_bytes, too_large

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
_MODELS = re.compile(r"models:/(?P<name>[^/:]+?)(/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))?")
_LOGGED = re.compile(r"models:/m-[0-9a-f]+")
_RUNS = re.compile(r"runs:/(?P<run>[0-9a-f]{8,64})(/(?P<path>.+?))?/?")


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
    """The fetched files."""

    folder: Path
    models: Texts
    """paths of the ONNX files in the folder, sorted"""


def resolve_mlflow(client: MlflowClient, url: Url) -> MlflowEntry:
    """Return the entry that `models:/name/version`, `models:/name@alias`, `models:/m-…` or `runs:/id[/path]` means.

    Raises UsageError: an address of another form; EnvironmentFaultError: an answer about another model or version, or a
    server that names a folder of this machine; MLflow's own errors (no such model, version, alias or run).
    """
    shown = str(url)
    with _mlflow_errors(shown):
        entry = _resolved_at_mlflow(client, url, shown)
        place = entry.uri
        if run := _RUNS.fullmatch(place):
            place = client.get_run(run["run"]).info.artifact_uri
        elif _LOGGED.fullmatch(place):
            place = client.get_logged_model(place.rpartition("/")[2]).artifact_location
        is_folder = len(urlsplit(place).scheme) < 2 or place.startswith("file:")  # C:\ is one, too
        # each may be where the place is named
        servers = (client.tracking_uri, os.environ.get("MLFLOW_REGISTRY_URI", ""))
        # who keeps runs in a folder or database of one's own names the folder oneself
        if is_folder and any(server.startswith(("http", "databricks", "uc:")) for server in servers):
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server names a folder of this machine ({place}); it must name a store",
                "mlflow server --serve-artifacts, or an --artifacts-destination that is a store",
            )
        return entry


def logged_model_of(client: MlflowClient, address: str, revision: str) -> str | None:
    """Return the id of the logged model that was fetched, or None where the address or the server has none.

    address, revision: as the report of its check names them.
    """
    if _LOGGED.fullmatch(address):
        return revision
    named = _MODELS.fullmatch(address)
    if named is None:
        return None
    versions = client.search_model_versions(f"name = '{named['name']}'")
    for version in versions:
        source = str(version.source)
        if f"version {version.version}" == revision and _LOGGED.fullmatch(source):
            return source.rpartition("/")[2]
    return None


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
    name = named["name"]
    version = named["version"]
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
    if place.is_file():
        files = [place]
        place = place.parent
    else:
        files = sorted(path for path in place.rglob("*") if path.is_file())
    names = [path.relative_to(place).as_posix() for path in files]
    return MlflowFiles(place, tuple(filter(is_onnx, names)))


def _listed_bytes(entry: MlflowEntry, tracking_uri: str) -> int:
    """Return the listed bytes of all files below an address; 0 for the address of a file."""
    from mlflow.artifacts import list_artifacts  # noqa: PLC0415 # an extra

    n_bytes = 0
    n_files = 0
    waiting = [entry.uri.rstrip("/")]
    while waiting:
        place = waiting.pop()
        for listed in list_artifacts(artifact_uri=place, tracking_uri=tracking_uri):
            n_files += 1
            if n_files > MOST_FILES:
                raise EnvironmentFaultError(
                    f"{entry.shown}: number of files is more than {MOST_FILES:,}; that is the limit",
                    "name the model's folder",
                )
            n_bytes += listed.file_size or 0
            if listed.is_dir:
                waiting.append(f"{place}/{listed.path.rpartition('/')[2]}")  # its path may start at the run, or here
    return n_bytes


@contextmanager
def _mlflow_errors(shown: str) -> Iterator[None]:
    """Turn what a store's package or an odd answer raises in MLflow's client into EnvironmentFaultError."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 # an extra

    try:
        yield
    except (RobustcheckError, MlflowException, OSError, MemoryError):
        raise
    except Exception as fault:
        reason = _without_secrets(f"{type(fault).__name__}: {fault}")
        raise EnvironmentFaultError(
            f"{shown}: MLflow's client or store fails ({reason})",
            "look at the server's answer, and at the store's credentials",
        ) from fault


def _without_secrets(text: str, server: str = "") -> str:
    """Return another library's message in one line, without passwords and tokens."""
    passwords = [os.environ.get(name, "") for name in PASSWORDS]
    return without_secrets(text, [*secrets(server), *passwords])


@contextmanager
def mlflow_client(tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """Yield a client that does not retry for minutes, and turn its errors into this package's, without passwords.

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
            reason = _without_secrets(str(fault), server)
            raise EnvironmentFaultError(
                f"{shown}: MLflow's server or the disk fails ({reason})",
                f"curl -sS {shown}/health; df -h",
            ) from fault
