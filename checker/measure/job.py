"""Add up a job's images and conclude evidence. A job is one model on one image set; pure.

A shard is a contiguous piece of the seeded order of the images. Shards measured apart and merged in their order hold
what one run over all images holds; so one machine or many give the same evidence.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError
from robustcheck_onnx.checker.evidence import (
    Evidence,
    Execution,
    ImageFacts,
    InputLevels,
    ModelFacts,
    Options,
    PreprocessingFacts,
)
from robustcheck_onnx.checker.images.preprocess import LevelSums
from robustcheck_onnx.checker.images.sanity import ImageSetState
from robustcheck_onnx.checker.images.source import Digests, ImageSource, Skipped, check_bad, digest_of_set
from robustcheck_onnx.checker.statistics import LOOK_EVERY
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.checker.text import VERSION, quoted
from robustcheck_onnx.thresholds.profile import Profile

from . import content, gallery
from .prepared import Prepared

NAMED_SKIPS = 20  # skipped images named in the report
SHARD_IMAGES = 32 * LOOK_EVERY
"""Images of a shard, 512: whole looks, so that a shard's batches are those of a single run; some seconds of work, so
that a lost worker costs little and an opened model, not its loading, is what takes time."""


@dataclass(frozen=True)
class Job:
    """A model and an image set to measure."""

    model: Path
    options: Options = field(default_factory=Options)
    named: tuple[str | None, ...] | None = None
    """tensors to measure in one run, None for the one found by rule; None alone = the one of the options"""

    @property
    def tensors(self) -> tuple[str | None, ...]:
        """Return the measured tensors, in this order."""
        return (self.options.tensor,) if self.named is None else self.named


@dataclass
class ImagesRead:
    """The images that a run has read."""

    sanity: ImageSetState = field(default_factory=ImageSetState)
    digests: Digests = field(default_factory=Digests)
    """of the usable images, in their order"""
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    n_usable: int = 0
    levels: LevelSums = field(default_factory=LevelSums)
    """of the usable images, as they were prepared"""

    @property
    def n_read(self) -> int:
        """Count the images tried, usable or not."""
        return self.n_usable + len(self.skipped)

    def add(self, image: Prepared) -> None:
        """Count a usable image."""
        self.n_usable += 1
        self.levels += image.levels
        if image.sketch is not None:
            self.sanity.add(image.sketch)
        self.digests.append(image.digest)
        self.notes.update(image.notes)

    def merged(self, later: ImagesRead) -> ImagesRead:
        """Append later images of the same set."""
        sanity = ImageSetState()
        sanity.merge(self.sanity)
        sanity.merge(later.sanity)
        return ImagesRead(
            sanity=sanity,
            digests=self.digests + later.digests,
            skipped=self.skipped + later.skipped,
            notes=self.notes + later.notes,
            n_usable=self.n_usable + later.n_usable,
            levels=self.levels + later.levels,
        )

    def check_usable(self, source: ImageSource, max_bad: float = 1.0, *, sampled: bool = False) -> None:
        """Refuse a set of which too much is unusable. Arguments and errors as for `images.check_bad`."""
        check_bad(self.n_read, len(self.skipped), max_bad, self.skipped, source.named, sampled=sampled)

    def facts(self, source: ImageSource) -> ImageFacts:
        """Return the record for the evidence. The source's entries are not read. Its entries are not looked at."""
        return ImageFacts(
            source=source.named,
            bundled=source.kind == "bundled",
            n_available=source.n_found,
            n_read=self.n_read,
            n_skipped=len(self.skipped),
            skipped=named_skips(self.skipped),
            notes=dict(sorted(self.notes.items())),
            digest=digest_of_set(self.digests),
            seed=source.seed,
            sanity=self.sanity.facts(),
            given=source.given,
        )


def input_levels(levels: LevelSums, facts: Facts) -> InputLevels | None:
    """Record the levels that entered the model. They have 6 digits, so that no order of sums shows; None if not finite.

    Args:
        levels: of the pixels, or of tensors.
        facts: say what was done to the pixels; nothing is to tensors, and to those of a model that takes bytes.
    """
    mean, sd = levels.mean, levels.sd
    if facts.source.kind != "tensors" and facts.models[0].input_type != "uint8":
        mean, sd = facts.preprocessing.preprocessing.scaled(mean, sd)
    if not mean or not all(map(math.isfinite, (*mean, *sd))):
        return None
    return InputLevels(mean=tuple(float(f"{m:.6g}") for m in mean), sd=tuple(float(f"{s:.6g}") for s in sd))


def named_skips(skipped: Sequence[Skipped]) -> tuple[tuple[str, str], ...]:
    """Return names and reasons of the first skips. A report shows at most `NAMED_SKIPS`."""
    return tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS])


@dataclass
class Measurement:
    """The sums over a run's images."""

    states: list[sums.State | None]
    """one a tensor, in the job's order; None before the first image"""
    galleries: list[gallery.Rows]
    """one a tensor; empty where nobody keeps any"""
    contents: list[content.Rows]
    """one a tensor"""
    images: ImagesRead = field(default_factory=ImagesRead)


def nothing_yet(n_tensors: int) -> Measurement:
    """Return the measurement of no image."""
    return Measurement([None] * n_tensors, [gallery.Rows()] * n_tensors, [()] * n_tensors)


def merge(a: Measurement, b: Measurement) -> Measurement:
    """Add two measurements over disjoint images. Both have the same tensors; `a`'s images come before `b`'s.

    Associative up to rounding; the digests come in the order of a single run where shards are merged in theirs.

    Raises:
        ValueError: other tensors: their number or a width differs.
    """
    return Measurement(
        states=[sums.merge(x, y) if x and y else x or y for x, y in zip(a.states, b.states, strict=True)],
        galleries=[gallery.merge(x, y) for x, y in zip(a.galleries, b.galleries, strict=True)],
        contents=[content.merge(x, y) for x, y in zip(a.contents, b.contents, strict=True)],
        images=a.images.merged(b.images),
    )


@dataclass(frozen=True)
class Facts:
    """The facts that evidence needs with a measurement. They are small, and the same from every worker."""

    models: tuple[ModelFacts, ...]
    """one a tensor"""
    executions: tuple[Execution, ...]
    """one a tensor"""
    preprocessing: PreprocessingFacts
    source: ImageSource
    """without its entries"""
    n_images: int
    names: str
    """digest of the images' names in their order"""

    @property
    def n_shards(self) -> int:
        """Count the pieces of `SHARD_IMAGES` images. The last one is smaller; there is at least one."""
        return -(-self.n_images // SHARD_IMAGES)

    def differs_from(self, other: Facts) -> str:
        """Name the difference between two workers' facts. Their sums must then not be merged; "" if nothing differs.

        Sums must come from the same model, preprocessing and list of images, on the same execution provider.
        """
        pairs = {
            "model": [(m.digest, m.tensor, m.pool) for m in self.models]
            == [(m.digest, m.tensor, m.pool) for m in other.models],
            "preprocessing": self.preprocessing == other.preprocessing,
            "list of images": (self.n_images, self.names) == (other.n_images, other.names),
            "execution": [(e.providers, e.optimization, e.runtime) for e in self.executions]
            == [(e.providers, e.optimization, e.runtime) for e in other.executions],
        }
        return ", ".join(what for what, same in pairs.items() if not same)


def conclude(
    job: Job, facts: Facts, measurement: Measurement, profile: Profile, *, decided: bool = False
) -> tuple[Evidence, ...]:
    """Conclude the evidence, one record per tensor.

    Args:
        job: what was asked for.
        facts: from `measure.probe`.
        measurement: over all images of the job, or over those read when the evidence decided.
        profile: its alpha sets the bounds.
        decided: whether the run stopped because the evidence decided.

    Raises:
        CannotAssessError: too many unusable images; a tensor without a finite, not constant representation.
    """
    read = measurement.images
    read.check_usable(facts.source)
    statistics = []
    for model, state in zip(facts.models, measurement.states, strict=True):
        if state is None or state.n == 0:
            raise CannotAssessError(
                f"{model.file}: number of finite, not constant representations"
                f"{f' of {model.tensor}' if len(facts.models) > 1 else ''} is 0 of {read.n_usable}; "
                "at least one is needed",
                f"robustcheck inspect {quoted(model.file)}",
            )
        statistics.append(sums.statistics(state, profile.alpha, profile.bounds))
    read.check_usable(facts.source, job.options.max_bad, sampled=decided)
    images, levels = read.facts(facts.source), input_levels(read.levels, facts)
    limited = facts.source.n_found > facts.n_images
    return tuple(
        Evidence(
            statistics=numbers,
            model=model,
            preprocessing=facts.preprocessing,
            images=images,
            execution=execution,
            levels=levels,
            stopped="decided" if decided else "image limit" if limited else "all images",
            content=content.record(described),
            gallery=gallery.record(rows, [feature.index for feature in numbers.features]),
        )
        for numbers, rows, described, model, execution in zip(
            statistics, measurement.galleries, measurement.contents, facts.models, facts.executions, strict=True
        )
    )


TRIES: Final = 3  # times a job or shard is begun whose worker process ends without a word


@dataclass(frozen=True)
class Outcome:
    """The outcome of one job."""

    job: Job
    evidence: tuple[Evidence, ...]
    """one a tensor; empty if the job failed"""
    error: RobustcheckError | None
    wall_s: float
    """from the job's start to its end"""


def died(job: Job) -> CannotAssessError:
    """Return the error of a job whose workers died. Their processes ended without a message."""
    return CannotAssessError(
        f"{job.model}: worker process ended {TRIES} times while it measured this model; a crash in native code or "
        "too little memory does that",
        f"robustcheck {job.model} --batch-size 1",
    )


def versions() -> dict[str, str]:
    """Return the versions of everything that computes here."""
    import onnxruntime  # noqa: PLC0415 # two distributions hold this package: only it knows its version

    installed = {name: version(name) for name in ("numpy", "onnx", "Pillow")}
    installed |= {"robustcheck": VERSION, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    return dict(sorted(installed.items()))
