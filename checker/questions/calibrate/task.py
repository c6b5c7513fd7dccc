"""Make a task of each model of a suite: what is exported and measured, and the key of its measurement.

The key is a digest of everything that influences the numbers: weights, export, images, settings, versions.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import platformdirs

from ....thresholds import profile as profiles
from ....thresholds.suite import CHECKPOINT_SUFFIXES, Member, OpenedSuite, SuiteEntry
from ...core.images.source import digest_of_set
from ...core.model.file import read_onnx
from ...core.model.watched import file_digest
from ...core.options import Options
from ...core.statistics.definitions import STATISTIC_VERSION
from ...errors import EnvironmentFaultError, RobustcheckError, UsageError
from ...outside.image_sets.open import open_images
from ...outside.isolation import NO_LIMITS, Limits
from ...text import VERSION, Fields, frozen

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


@frozen
class CalibrationSettings:
    """What a calibration measures with, and where it keeps exports."""

    options: Options
    cache: Path
    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    limits: Limits = NO_LIMITS
    """of the measurement of each model; with Ray only the time"""


@frozen
class Task:
    """One model of the suite, which may have to be exported first, and the key of its measurement."""

    member: Member
    model: Path
    export: Fields | None
    """everything that influences the export; None for a ready file"""
    key: str
    """identifies the measurement; empty with a fault"""
    fault: RobustcheckError | None = None

    @property
    def is_exported(self) -> bool:
        """Return whether the ONNX file is there and complete."""
        if self.export is None:
            return True
        record = self.model.with_name(RECORD)
        return record.is_file() and self.model.is_file()

    @property
    def is_to_export(self) -> bool:
        """Return whether the ONNX file has to be exported first."""
        return not (self.fault or self.is_exported)


def cache_folder() -> Path:
    """Return the default folder of exports, from which a calibration that was killed goes on."""
    return platformdirs.user_cache_path("robustcheck") / "exports"


def check_labels(suite: OpenedSuite) -> None:
    """Raise UsageError unless the suite has both labels: nothing could be fitted to one."""
    for label in ("present", "absent"):
        if not any(member.label == label for member in suite.members):
            raise UsageError(
                f"suite {suite.suite.name}: number of models labelled {label} is 0; a fit needs models of both labels",
                "add models, or look at the labels: robustcheck calibrate --plan",
            )


def image_set(settings: CalibrationSettings) -> tuple[str, int]:
    """Return the sha256 over the sorted digests of a calibration's images, and their number.

    Raises UsageError, CannotAssessError, EnvironmentFaultError as `images.open_images`.
    """
    options = settings.options
    source = open_images(options.images, seed=options.seed, limit=options.max_images)
    # an unreadable image is skipped by the run, but the set with a readable one in its place is another set
    digests = (source.digest(i) or f"unreadable {source.entries[i].name}" for i in range(len(source)))
    return digest_of_set(digests), len(source)


def tasks(suite: OpenedSuite, settings: CalibrationSettings, images_digest: str) -> tuple[Task, ...]:
    """Return the tasks of a suite, with a fault where a model's files can't be read."""
    options = settings.options
    measuring = {
        "images": images_digest,
        "seed": options.seed,
        "max_bad": options.max_bad,
        "device": options.device,
        "statistic_version": STATISTIC_VERSION,
        "alpha": profiles.load().alpha,
        "versions": versions_of(MEASURING),
    }
    return tuple(_task(suite.folder, member, settings.cache, measuring) for member in suite.members)


def _task(folder: Path, member: Member, cache: Path, measuring: Fields) -> Task:
    entry = member.entry
    if entry.model is not None:
        path = folder / entry.model
        try:
            file = read_onnx(path)
            preprocessing = _digest_of(folder, entry.preprocessing)
        except RobustcheckError as fault:
            return Task(member, path, None, "", fault)
        digests = [file.file_digest, *(part.digest for part in file.external)]
        key = _key({**measuring, "model": digests, "preprocessing": preprocessing})
        return Task(member, path, None, key)
    try:
        export = _export_inputs(folder, entry)
    except EnvironmentFaultError as fault:
        return Task(member, cache, {}, "", fault)
    of_export = _key(export)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", member.id)[:100]
    path = cache / of_export[:24] / f"{name}.onnx"
    return Task(member, path, export, _key({**measuring, "export": of_export}))


def _export_inputs(folder: Path, entry: SuiteEntry) -> Fields:
    """Return everything that influences an export: its arguments, the files that it reads, the versions."""
    assert entry.source is not None
    checkpoint = weights_path(folder, entry)
    weights = entry.weights
    if checkpoint is not None:
        weights = _digest_of(folder, str(checkpoint))
    inputs = {
        "source": entry.source,
        "name": entry.name,
        "weights": weights,
        "random_weights": entry.random_weights,
        "preprocessing": _digest_of(folder, entry.preprocessing),
        "head": entry.head,
        "versions": versions_of((*EVERY_EXPORT, *EXPORTERS[entry.source])),
    }
    before, _, after = str(entry.name).partition(":")
    if before == "local-dir":
        inside = sorted((folder / after).glob("*"))
        inputs["files"] = {path.name: file_digest(path) for path in inside if path.is_file()}
    if entry.source == "torch":
        module = folder / (before.replace(".", "/") + ".py")
        inputs["code"] = file_digest(module) if module.is_file() else ""
    return inputs


def weights_path(folder: Path, entry: SuiteEntry) -> Path | None:
    """Return the checkpoint file of an entry, or None where its weights are a library's tag."""
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


def _key(content: Fields) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package and of those of the others that are installed."""
    versions = {"robustcheck-onnx": VERSION}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # one of the two ONNX Runtime wheels, or an exporter
            versions[name] = metadata.version(name)
    return versions
