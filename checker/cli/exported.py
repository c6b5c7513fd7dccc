"""Addresses that name a checkpoint of a library: exported in a process of its own, and kept for the next check.

`open_clip:ViT-B-32/openai`, `timm:NAME`, `torchvision:NAME`, `transformers:NAME`; with --export also a repository of
the hub without an ONNX file. What is kept is as safe as the cache's records are (`storage.own_files`): another user, or
a commit, can't put a file in its place. What no name pins (a folder, a repository's newest commit) is exported anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustcheck_onnx.checker.errors import (
    CannotAssessError,
    EnvironmentFaultError,
    RobustcheckError,
    UsageError,
)
from robustcheck_onnx.checker.text import VERSION

if TYPE_CHECKING:
    from robustcheck_onnx.checker.evidence import Origin
    from robustcheck_onnx.checker.limits import Limits
    from robustcheck_onnx.checker.storage.hub import Repository

_ADDRESS: Final = re.compile(r"(open_clip|timm|torchvision|transformers):(?!//)(.+)")
_TAGGED: Final = ("open_clip", "torchvision")  # libraries whose weights have names of their own: NAME/WEIGHTS
_SCHEMA: Final = ("hf-hub:", "hf_hub:", "local-dir:")  # names that bring their weights
_OWN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a library's own list: no folder and no repository
_PACKAGES: Final = {"open_clip": "open_clip_torch"}
_ERRORS: Final = {2: UsageError, 3: CannotAssessError}


@dataclass(frozen=True)
class Export:
    """A checkpoint, and where its address pointed."""

    address: str
    source: str
    """the library"""
    name: str
    weights: str | None
    commit: str
    """of the hub's repository; empty for a name of the library"""
    repository: Repository | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether source, name, weights, commit and versions say which weights these are.

        They don't for a folder, nor for a repository of which the library takes the newest commit.
        """
        return bool(self.commit) or (self.source != "transformers" and _OWN_NAME.fullmatch(self.name) is not None)


def planned(word: str, *, allowed: bool) -> Export | None:
    """What must be exported before a word can be checked; None where it names an ONNX file, or something else.

    allowed: whether a repository of the hub may be exported (--export).

    Raises UsageError: offline; a revision that the library can't load; otherwise as `storage.hub.open_repository`.
    """
    from robustcheck_onnx.checker.storage import Url, hub, parse_place

    named = _ADDRESS.fullmatch(word)
    if named is not None and not os.path.lexists(word):
        _refuse_offline(word)
        source, name = named[1], named[2]
        weights = None
        if source in _TAGGED and not name.startswith(_SCHEMA):
            name, _, weights = name.partition("/")
        return Export(word, source, name, weights or None, "")
    if not allowed:
        return None
    place = parse_place(word, is_model=True) if "://" in word else None
    address = hub.parse_hub(place) if isinstance(place, Url) else None
    if address is None:
        return None
    repository = hub.open_repository(address)
    if any(name.lower().endswith(".onnx") for name in repository.files):
        return None
    library = hub.library_of(repository)
    if library is None or address.path:
        return None  # `on_this_machine` says what is wrong
    if library != "timm" and address.revision is not None:
        raise UsageError(
            f"{address}: revision is {address.revision}; {library} loads the main one only",
            f"robustcheck hf://{address.repo} --export",
        )
    if library == "transformers" and os.path.isdir(address.repo):  # noqa: PTH112
        raise UsageError(
            f"{address}: folder {address.repo} is here; transformers would load it in place of the hub's repository",
            "cd to another folder",
        )
    name = f"hf-hub:{address.repo}" if library != "transformers" else address.repo
    name = name if library != "timm" else f"{name}@{repository.commit}"
    return Export(str(address), library, name, None, repository.commit, repository)


@contextlib.contextmanager
def on_disk(export: Export, limits: Limits, tell: Callable[[str], None]) -> Iterator[tuple[str, Origin]]:
    """The ONNX file of a checkpoint: kept from an earlier call, or exported now.

    Where nothing can be kept, or nothing pins the weights (`Export.is_pinned`), it is a file for this block.

    Raises the exporter's error; CannotAssessError: it took longer than `limits.timeout_s`; EnvironmentFaultError: the
    folder can't be written to; for a repository as `_fetch`.
    """
    from robustcheck_onnx.checker.evidence import Origin
    from robustcheck_onnx.checker.storage import own_files, private_folder

    keeps = export.is_pinned and not own_files.is_off()
    own = own_files.own_folder(make=True) if keeps else None
    with contextlib.ExitStack() as stack:
        name = f"{_slug(export)}-{_key(export)}.onnx"
        if own is None:
            path = stack.enter_context(private_folder()) / name
            tell(f"exporting {export.address}")
            _exported(export, path, limits)
        else:
            path = own.path / own_files.EXPORTS / name
            if not _is_kept(path, own.key):
                tell(f"exporting {export.address}")
                _keep(export, path, own.key, limits)
        library = f"{export.source} {_version(export.source)}"
        revision = export.commit or library
        yield str(path), Origin(address=export.address, revision=revision, file=str(path))


def _keep(export: Export, path: Path, key: bytes, limits: Limits) -> None:
    """Export beside the place, then move what was made there: another process may be reading what it made itself."""
    from robustcheck_onnx.checker.storage import own_files

    try:
        own_files.make_folder(path.parent)
        with tempfile.TemporaryDirectory(
            prefix=own_files.DRAFTS, dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            draft = Path(folder) / path.name
            _exported(export, draft, limits)
            if _is_kept(path, key):
                return
            path.with_suffix(".mac").unlink(missing_ok=True)
            for made, place in ((_weights(draft), _weights(path)), (draft, path)):
                if made.exists():
                    made.replace(place)
                else:
                    place.unlink(missing_ok=True)
            own_files.write_own(path.with_suffix(".mac"), _mac(path, key))
    except RobustcheckError:
        raise
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{export.address}: export can't be kept in {path.parent} ({fault.strerror or fault}); it must be writable",
            f"df -h; export {own_files.OFF}=1",
        ) from fault


def _exported(export: Export, path: Path, limits: Limits) -> None:
    """Run `robustcheck export` in a process, as it would be typed; its error becomes this process's."""
    from robustcheck_onnx.checker.storage import hub_client
    from robustcheck_onnx.checker.storage.urls import HUB_OFFLINE

    words = [export.source, export.name, "-o", str(path), "--quiet"]
    words += ["--weights", export.weights] if export.weights else []
    command = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", "export", *words]
    environment = hub_client.ENVIRONMENT | os.environ
    if export.repository is not None:
        _fetch(export.repository)
        environment |= {HUB_OFFLINE: "1"}
    try:
        done = subprocess.run(  # noqa: S603 # this Python, and words that its own parser reads
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as fault:
        raise CannotAssessError(
            f"{export.address}: export took more than {limits.timeout_s:g} s; --timeout is that long",
            "--timeout SECONDS",
        ) from fault
    if done.returncode != 0:
        raise _told(export, done.returncode, done.stderr)


def _told(export: Export, code: int, said: str) -> RobustcheckError:
    """The exporter's own error: its last line `error: …`, and the hint behind it."""
    from robustcheck_onnx.checker.storage import hub, redact_text
    from robustcheck_onnx.checker.storage.urls import HIDDEN

    lines = said.splitlines()
    error = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    hint = next((line.removeprefix("hint: ") for line in reversed(lines) if line.startswith("hint: ")), "")
    if not error:
        for secret in hub.secrets_of_client():
            said = said.replace(secret, HIDDEN)
        error = f"export ended with {code}: {redact_text(' '.join(said.split()))[-300:]}"
    return _ERRORS.get(code, EnvironmentFaultError)(f"{export.address}: {error}", hint)


def _fetch(repository: Repository) -> None:
    """Fetch what a library loads of a repository, at the commit that was listed, each file with the digest listed.

    The library then finds it in the client's cache, offline: it can't load an older one where the hub fails, nor a
    newer one that comes meanwhile.

    Raises as `HubFile.stream`; EnvironmentFaultError: more bytes than a download may have.
    """
    from robustcheck_onnx.checker.storage import hub, limit_bytes
    from robustcheck_onnx.checker.storage.remote import LIMIT

    safe = any(name.endswith(".safetensors") for name in repository.files)
    endings = (".json", ".txt", ".model", ".safetensors", *(() if safe else (".bin", ".pt", ".pth", ".npz")))
    wanted = {name: listed for name, listed in repository.files.items() if name.endswith(endings)}
    if sum(listed.size_bytes or 0 for listed in wanted.values()) > limit_bytes():
        raise EnvironmentFaultError(
            f"{repository.address}: download is more than {limit_bytes():,} bytes; that is the limit",
            f"export {LIMIT}=BYTES",
        )
    for name in sorted(wanted):
        for _ in hub.open_hub_file(repository, name).stream():
            pass


def _is_kept(path: Path, key: bytes) -> bool:
    """Whether a file is there that this user's own tool exported, unchanged."""
    from robustcheck_onnx.checker.storage import own_files

    try:
        return hmac.compare_digest(own_files.read_own(path.with_suffix(".mac")), _mac(path, key))
    except (OSError, own_files.NotOwn):
        return False


def _mac(path: Path, key: bytes) -> bytes:
    digests = b""
    for part in (path, _weights(path)):
        digests += b"\0"
        if part.exists():
            with part.open("rb") as file:
                digests += hashlib.file_digest(file, "sha256").digest()
    return hmac.digest(key, b"export\0" + path.name.encode() + digests, "sha256")


def _weights(path: Path) -> Path:
    """Where the exporter puts weights that are too large for the file itself."""
    return path.with_name(f"{path.name}.data")


def _key(export: Export) -> str:
    """Names an export by everything that makes its bytes: source, name, weights, commit, versions."""
    versions = {name: _version(name) for name in (export.source, "torch")} | {"robustcheck": VERSION}
    file = None
    if export.weights and Path(export.weights).is_file():
        with Path(export.weights).open("rb") as weights:
            file = hashlib.file_digest(weights, "sha256").hexdigest()
    parts = [export.source, export.name, export.weights, export.commit, file, versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _slug(export: Export) -> str:
    text = f"{export.source}-{export.name}" + (f"-{export.weights}" if export.weights else "")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80]


def _version(package: str) -> str:
    try:
        return version(_PACKAGES.get(package, package))
    except PackageNotFoundError:
        return "not installed"


def _refuse_offline(word: str) -> None:
    from robustcheck_onnx.checker.storage import OFFLINE
    from robustcheck_onnx.checker.storage.urls import is_offline

    if is_offline():
        raise UsageError(
            f"{word}: library may have to download weights; offline ({OFFLINE} or --offline) only files of this "
            "machine are read",
            "robustcheck export first, or leave out --offline",
        )
