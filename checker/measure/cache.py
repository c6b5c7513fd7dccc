"""Evidence of earlier runs, kept so that a second check of the same model on the same images is a look-up.

Nothing is taken on trust that can be checked: a record counts only if the model's bytes, its external weights, every
sidecar, every image that was read, the options, the profile, this package's own code, ONNX Runtime and the devices are
what they were. Only the evidence is kept; the verdict is judged anew. A record that another user could have written is
not read (`own_files.py`), nor one without the right code of authentication (HMAC-SHA256) by the key beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import platform
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import onnxruntime as ort
from pydantic import ValidationError

from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.images import ImageSource
from robustcheck_onnx.checker.model import (
    PRESETS,
    file_digest,
    locate_weights,
    models_below,
    sidecar_paths,
)
from robustcheck_onnx.checker.runtime import cpu_name, cpu_threads, list_gpus
from robustcheck_onnx.checker.storage.own_files import (
    DRAFTS,
    EXPORTS,
    KEY,
    TEMPORARY,
    NotOwn,
    folder,
    own_folder,
    read_own,
    why_unused,
    write_own,
)
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.context import Context
from robustcheck_onnx.thresholds.frozen import Frozen
from robustcheck_onnx.thresholds.profile import Profile

from .job import Job, versions

FORMAT = 2  # of a record
LIMIT_BYTES = 64 * 2**20  # 64 MiB for all records; the ones not used for the longest time go first
DEVICES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # environment that changes where and how a model runs


class Record(Frozen):
    """One run's evidence and what it depends on beside the key."""

    format: int
    key: str
    measured: str
    """UTC, ISO 8601"""
    external: dict[str, str]
    """the model's files of weights: location, sha256"""
    images: tuple[str, ...]
    """sha256 of each image that was read, in order"""
    evidence: Evidence
    published: Context | None
    mac: str = ""
    """HMAC-SHA256 of the record without this field: one that was damaged, or written without the key, is none"""


class Size(Frozen):
    """What is in the cache."""

    folder: str
    unused: str
    """why it is not used, with the next step; empty where it is"""
    records: int
    size_bytes: int
    limit_bytes: int


def key_of(job: Job, model_digest: str, profile: Profile, source: ImageSource) -> str:
    """Digest of everything a run depends on but the images' content and the external weights.

    Args:
        job: what was asked for; of one tensor.
        model_digest: of the model's own file, sha256:….
        profile: it decides when a run stops.
        source: the image set, opened as the job says.

    Raises:
        OSError: a sidecar can't be read.
    """
    options = job.options.model_dump() | {"model": str(job.model), "tensors": job.tensors}
    preprocess = job.options.preprocess
    beside = list(sidecar_paths(job.model))
    named = [Path(preprocess)] if preprocess and preprocess not in PRESETS else []
    depends = {
        "format": FORMAT,
        "code": _code(),
        "versions": versions(),
        "machine": [
            platform.platform(), cpu_name(), cpu_threads(), ort.get_available_providers(), list(map(str, list_gpus())),
            {name: os.environ.get(name) for name in DEVICES},
        ],
        "options": options,
        "profile": profile.digest,
        "model": model_digest,
        "sidecars": {str(path): file_digest(path) for path in (*beside, *named) if path.is_file()},
        "models beside": [list(map(str, models_below(folder))) for folder in {path.parent: 0 for path in beside}],
        "images": [source.kind, source.n_found, source.seed, source.names_digest],
    }  # fmt: skip
    return _sha256(json.dumps(depends, sort_keys=True, default=str).encode("utf-8", "surrogateescape"))


def load(key: str, model: Path, source: ImageSource) -> Record | None:
    """The record of this key, if the external weights and every image that was read are still the same.

    Args:
        key: from `key_of`.
        model: the model's file, beside which its external weights are looked for.
        source: the image set, in the order in which the earlier run read it.

    Returns:
        None where there is no such record, where others could have written it, where it is damaged or of another
        format, or where anything changed.
    """
    own = own_folder(make=False)
    if own is None:
        return None
    path = own.path / f"{key}.json"
    try:
        record = Record.model_validate_json(read_own(path))
    except (OSError, NotOwn, ValidationError):  # none, or none that can be read
        return None
    if record.format != FORMAT or record.key != key or not hmac.compare_digest(record.mac, _mac(record, own.key)):
        return None
    if record.external != external_digests(model, record.external) or len(record.images) > len(source):
        return None
    if any(source.digest(index) != digest for index, digest in enumerate(record.images)):
        return None
    with contextlib.suppress(OSError):  # another process may just have cleared it: what was read still holds
        os.utime(path)
    return record


def store(key: str, measured: str, read: Iterable[str], evidence: Evidence, published: Context | None) -> bool:
    """Keep a run's evidence; False where it can't be kept, which harms nothing but the next run's speed.

    Not kept are runs with skipped images: what a skipped image held is not known. Written whole or not at all, so
    that two processes may keep the same run at once.

    Args:
        key: from `key_of`, computed before the run.
        measured: UTC, ISO 8601.
        read: digest of each image, in the order of the image set.
        evidence, published: what the run found.
    """
    if evidence.images.n_skipped:
        return False
    record = Record(
        format=FORMAT,
        key=key,
        measured=measured,
        external=dict(evidence.model.external_digests),
        images=tuple(read),
        evidence=evidence,
        published=published,
    )
    own = own_folder(make=True)  # None where it is read-only, or others can write to it
    if own is None:
        return False
    try:
        record = record.model_copy(update={"mac": _mac(record, own.key)})
        write_own(own.path / f"{key}.json", record.model_dump_json().encode())
        _bound(own.path)
    except (OSError, ValueError):  # a full disk; a file name that is no text: JSON has no such name
        return False
    return True


def size() -> Size:
    """How much is kept, and where."""
    records = _records(folder())
    return Size(
        folder=str(folder()),
        unused=why_unused(),
        records=len(records),
        size_bytes=sum(bytes_ for _, bytes_, _ in records),
        limit_bytes=LIMIT_BYTES,
    )


def clear() -> int:
    """Remove all records, the key, exported models, and what a killed process left; the number of records removed.

    Other files in the folder are left alone.
    """
    removed = 0
    for _, _, path in _records(folder()):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.unlink()
            removed += 1
    if folder().is_dir():
        exports = folder() / EXPORTS
        left = [*folder().glob(TEMPORARY.format("?" * 32)), *exports.glob("*.onnx*"), *exports.glob("*.mac")]
        for path in (folder() / KEY, *left):
            path.unlink(missing_ok=True)
        for draft in exports.glob(f"{DRAFTS}*"):  # of an export that was killed
            shutil.rmtree(draft, ignore_errors=True)
    return removed


def external_digests(model: Path, locations: Iterable[str]) -> dict[str, str] | None:
    """sha256 of each file of weights that a model names; None where one is missing or out of place."""
    try:
        _, targets = locate_weights(model, sorted(locations))
        return {name: file_digest(target) for name, target in targets.items()}
    except (RobustcheckError, OSError):
        return None


def _records(where: Path) -> list[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of every record, oldest first."""
    records = []
    for path in where.glob("*.json") if where.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if len(path.stem) == 64:  # a sha256: nothing else in the folder is ours
                records.append((stat.st_mtime, stat.st_size, path))
    return sorted(records)


def _bound(where: Path) -> None:
    records = _records(where)
    total = sum(bytes_ for _, bytes_, _ in records)
    for _, bytes_, path in records:
        if total <= LIMIT_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= bytes_


def _mac(record: Record, key: bytes) -> str:
    return hmac.new(key, record.model_dump_json(exclude={"mac"}).encode(), hashlib.sha256).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this package's own code and tables: another code may measure otherwise."""
    rooms = [Path(__file__).parent.parent, Path(profiles.__file__).parent]
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted({path for pattern in ("*.py", "data/*") for path in room.rglob(pattern)}):
            name = path.relative_to(room).as_posix()
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
