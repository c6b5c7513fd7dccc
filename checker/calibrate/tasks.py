"""The tasks of a calibration, one per model. Each has the key that identifies its measurement.

The key is a digest of everything that influences the numbers: weights, export, images, settings, versions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.images.source import digest_of_set, open_images
from robustcheck_onnx.checker.isolation import NO_LIMITS, Limits
from robustcheck_onnx.checker.model import file_digest, read_onnx
from robustcheck_onnx.checker.statistics import STATISTIC_VERSION
from robustcheck_onnx.checker.text import VERSION
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.suite import CHECKPOINT_SUFFIXES, Entry, Member, Opened

EXPORTERS = {  # source → distributions whose versions decide what is exported
    "open_clip": ("open_clip_torch", "timm", "torchvision"),
    "timm": ("timm", "torchvision"),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "torch": (),
}
EVERY_EXPORT = ("torch", "onnx", "onnxscript")
MEASURING = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "Pillow")
RECORD = "export.json"  # next to a cached export and written after it: without it the export is not complete


@dataclass(frozen=True)
class Settings:
    """The settings of a calibration's measurements. Where exports are kept is among them."""

    options: Options
    cache: Path
    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    limits: Limits = NO_LIMITS
    """of the measurement of each model, with the local engine"""


@dataclass(frozen=True)
class Task:
    """One model of the suite, with its measurement's key. Its ONNX file may have to be exported first."""

    member: Member
    model: Path
    export: Mapping[str, Any] | None
    """everything that influences the export; None for a ready file"""
    key: str
    """identifies the measurement; empty with a fault"""
    fault: RobustcheckError | None = None

    @property
    def is_exported(self) -> bool:
        """Whether the ONNX file is there and complete."""
        return self.export is None or ((self.model.parent / RECORD).is_file() and self.model.is_file())


def cache_folder() -> Path:
    """Return the default folder of exports.

    It is in the user's cache folder; a calibration that was killed goes on from it.
    """
    return platformdirs.user_cache_path("robustcheck") / "exports"


def check_labels(suite: Opened) -> None:
    """Raise UsageError unless the suite has both labels. Nothing could be fitted to one."""
    for label in ("present", "absent"):
        if not any(member.label == label for member in suite.members):
            raise UsageError(
                f"suite {suite.suite.name}: number of models labelled {label} is 0; a fit needs models of both labels",
                "add models, or look at the labels: robustcheck calibrate --plan",
            )


def image_set(settings: Settings) -> tuple[str, int]:
    """Digest and number of the images of a calibration. The digest is the sha256 over the images' sorted digests.

    Raises UsageError, CannotAssessError, EnvironmentFaultError as `images.open_images`.
    """
    options = settings.options
    source = open_images(options.images, seed=options.seed, limit=options.max_images)
    # an unreadable image is skipped by the run, but the set with a readable one in its place is another set
    digests = (source.digest(i) or f"unreadable {source.entries[i].name}" for i in range(len(source)))
    return digest_of_set(digests), len(source)


def tasks(suite: Opened, settings: Settings, images_digest: str) -> tuple[Task, ...]:
    """Return the tasks of a suite. A model whose files can't be read becomes a task with a fault."""
    measuring = {
        "images": images_digest,
        "seed": settings.options.seed,
        "max_bad": settings.options.max_bad,
        "device": settings.options.device,
        "statistic_version": STATISTIC_VERSION,
        "alpha": profiles.load().alpha,
        "versions": versions_of(MEASURING),
    }
    return tuple(_task(suite.folder, member, settings.cache, measuring) for member in suite.members)


def _task(folder: Path, member: Member, cache: Path, measuring: Mapping[str, Any]) -> Task:
    entry = member.entry
    if entry.model is not None:
        path = folder / entry.model
        try:
            file = read_onnx(path)
            preprocessing = _digest_of(folder, entry.preprocessing)
        except RobustcheckError as fault:
            return Task(member, path, None, "", fault)
        digests = [file.model_digest, *(part.digest for part in file.external)]
        return Task(member, path, None, _key({**measuring, "model": digests, "preprocessing": preprocessing}))
    try:
        export = _export_inputs(folder, entry)
    except EnvironmentFaultError as fault:
        return Task(member, cache, {}, "", fault)
    key = _key(export)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", member.id)[:100]
    return Task(member, cache / key[:24] / f"{name}.onnx", export, _key({**measuring, "export": key}))


def _export_inputs(folder: Path, entry: Entry) -> dict[str, Any]:
    """Return everything that influences an export. These are its arguments, the files that it reads, the versions."""
    assert entry.source is not None
    weights = weights_path(folder, entry)
    inputs: dict[str, Any] = {
        "source": entry.source,
        "name": entry.name,
        "weights": entry.weights if weights is None else _digest_of(folder, str(weights)),
        "random_weights": entry.random_weights,
        "preprocessing": _digest_of(folder, entry.preprocessing),
        "head": entry.head,
        "versions": versions_of((*EVERY_EXPORT, *EXPORTERS[entry.source])),
    }
    if str(entry.name).startswith("local-dir:"):
        weights_folder = folder / str(entry.name).partition(":")[2]
        inputs["files"] = {path.name: file_digest(path) for path in sorted(weights_folder.glob("*")) if path.is_file()}
    if entry.source == "torch":
        module = folder / (str(entry.name).partition(":")[0].replace(".", "/") + ".py")
        inputs["code"] = file_digest(module) if module.is_file() else ""
    return inputs


def weights_path(folder: Path, entry: Entry) -> Path | None:
    """Return the checkpoint file of an entry. None where its weights are a library's tag."""
    if not entry.weights:
        return None
    path = folder / entry.weights
    named = "/" in entry.weights or path.suffix in CHECKPOINT_SUFFIXES
    return path if named or path.is_file() else None


def _digest_of(folder: Path, name: str | None) -> str:
    if not name:
        return ""
    path = folder / name
    if not path.is_file():
        raise EnvironmentFaultError(f"{path}: file is missing; the suite names it", f"place it at {path}")
    return file_digest(path)


def _key(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package and others. Whichever distribution brought it, and what else is installed."""
    versions = {"robustcheck-onnx": VERSION}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # one of the two ONNX Runtime wheels, or an exporter
            versions[name] = metadata.version(name)
    return versions
