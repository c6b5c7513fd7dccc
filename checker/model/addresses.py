"""Addresses of models: a repository of the hub, an entry of MLflow's registry, or what no scheme knows."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import Origin
from robustcheck_onnx.checker.storage import Url, hub, private_folder, redact, registry
from robustcheck_onnx.checker.storage.urls import HTTP, HUB_OFFLINE, ON_THIS_MACHINE, REGISTRY
from robustcheck_onnx.checker.text import quoted

from .choose import choose_model

SCHEMES = ("hf", *HTTP, *REGISTRY, *ON_THIS_MACHINE)  # those of fsspec's stores have two slashes
LIBRARIES = ("open_clip", "timm", "torchvision", "transformers")  # of checkpoints: `robustcheck export` loads them
OTHERS = {"wandb": "wandb artifact get", "oci": "oras pull"}  # not read here: their own clients fetch them
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]+):(?!//)")


def refuse_unknown(text: str) -> None:
    """Refuse a word that is no file and starts with a scheme (`name:`) that is not read, or not here."""
    found = _SCHEME.match(text)
    if found is None or os.path.lexists(text) or found[1].lower() in SCHEMES:
        return
    scheme = found[1].lower()
    near = difflib.get_close_matches(scheme, [*SCHEMES, *LIBRARIES], 1)
    if text[found.end() :].startswith("/") and not near:
        return  # `Path("s3://bucket")` has one slash; parse_place says so
    raise _unknown(text, scheme, near)


def _unknown(text: str, scheme: str, near: Sequence[str]) -> UsageError:
    shown, name = redact(text), text.partition(":")[2]
    if scheme in LIBRARIES:
        return UsageError(
            f"{shown}: {scheme} is a library of checkpoints; a check needs an ONNX file", _export_first(scheme, name)
        )
    if scheme in OTHERS:
        return UsageError(
            f"{shown}: scheme {scheme} is not read; the file must be fetched first", f"{OTHERS[scheme]} …"
        )
    hint = f"{near[0]}:{name}" if near else "hf://org/repo, models:/name/1"
    return UsageError(
        f"{shown}: no such file, and {scheme} is no scheme; an address starts with {', '.join(SCHEMES)}",
        _export_first(near[0], name) if near and near[0] in LIBRARIES else hint,
    )


def _export_first(library: str, name: str) -> str:
    """The commands that export a checkpoint and check its file."""
    words = [name]
    if library in ("open_clip", "torchvision") and ":" not in name and "/" in name:  # NAME/WEIGHTS, no hf-hub:org/repo
        words = [name.partition("/")[0], "--weights", name.partition("/")[2]]
    return f"{shlex.join(['robustcheck', 'export', library, *words, '-o', 'model.onnx'])} && robustcheck model.onnx"


def in_repository(address: hub.Address, tell: Callable[[str], None] | None) -> tuple[hub.HubFile, Origin]:
    """The ONNX file that an address of the hub means, unread. Raises UsageError, StoreError."""
    if tell is not None:
        tell(f"asking what {address} holds")
    repository = hub.open_repository(address)
    below = f"{address.path}/" if address.path else ""
    models = [name for name in sorted(repository.files) if name.lower().endswith(".onnx")]
    if address.path in models:
        chosen = address.path
    elif inside := [name for name in models if name.startswith(below)]:
        chosen = choose_model(inside, str(address), lambda path: str(replace(address, path=path)))
    else:
        raise _no_model(address, repository, models)
    origin = Origin(address=str(address), revision=repository.commit, file=chosen)
    return hub.open_hub_file(repository, chosen, tell), origin


def _no_model(address: hub.Address, repository: hub.Repository, models: Sequence[str]) -> UsageError:
    if models and address.path:
        near = difflib.get_close_matches(address.path, models, 1) or models[:1]
        return UsageError(
            f"{address}: repository has no ONNX file there; it has {len(models)}",
            f"robustcheck {quoted(replace(address, path=near[0]))}",
        )
    if not repository.is_whole:
        return UsageError(
            f"{address}: number of ONNX files in the hub's cache is 0; {HUB_OFFLINE} forbids to fetch one",
            f"unset {HUB_OFFLINE}",
        )
    library = hub.library_of(repository)
    holds = f"it holds a checkpoint of {library}" if library else f"it holds {len(repository.files)} other files"
    return UsageError(
        f"{address}: number of ONNX files in the repository is 0; {holds}",
        _export_repository(library, address) if library else "export it, and name the ONNX file",
    )


def _export_repository(library: str, address: hub.Address) -> str:
    """The commands for a checkpoint of the hub; only timm loads another revision than main itself."""
    schema, folder = ("", "./") if library == "transformers" else ("hf-hub:", "local-dir:")
    if address.revision is None:
        return _export_first(library, f"{schema}{address.repo}")
    if library == "timm":
        return _export_first(library, f"{schema}{address.repo}@{address.revision}")
    fetched = shlex.join(["hf", "download", address.repo, "--revision", address.revision, "--local-dir", "checkpoint"])
    return f"{fetched} && {_export_first(library, f'{folder}checkpoint')}"


@contextlib.contextmanager
def from_registry(url: Url, tell: Callable[[str], None] | None) -> Iterator[tuple[Path, Origin]]:
    """A model of MLflow's registry, or of a run, with all that lies beside it, for as long as the block runs."""
    if tell is not None:
        tell(f"fetching {url}")
    with private_folder() as folder:
        with registry.connected() as client:
            entry = registry.resolve(client, url)
            found = registry.fetch(client, entry, folder)
        if not found.models:
            raise CannotAssessError(
                f"{url}: number of ONNX files there is 0; at least one is needed", "log the model in the ONNX flavour"
            )
        chosen = choose_model(found.models, str(url), lambda path: f"{str(url).rstrip('/')}/{path}")
        origin = Origin(address=str(url), revision=entry.revision, file=chosen)
        yield found.folder / chosen, origin
