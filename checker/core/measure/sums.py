"""Add up what a run measures, and conclude the evidence from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ....thresholds.profile import Profile
from ...arrays import AnyArray, GenericArray
from ...errors import unfit
from ...text import frozen
from ..evidence import Evidence, Execution, ImageFacts, InputLevels, ModelFacts, PreprocessingFacts, Skips
from ..images.preprocess import LevelSums
from ..images.sanity import ImageSetState
from ..images.source import Digests, ImageSource, Skipped, check_bad, digest_of_set
from ..statistics.state import State, statistics
from ..statistics.state import merge as merge_states
from .content import DescribedRows, content_of, merge_described
from .gallery import SeenRows, gallery_of, merge_seen
from .job import SHARD_IMAGES, Job
from .prepare import Prepared

NAMED_SKIPS = 20  # skipped images named in the report


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

    def require_any(self, source: ImageSource) -> None:
        """Refuse a set without a usable image. Raises as `images.source.check_bad`."""
        check_bad(self.n_read, len(self.skipped), 1.0, self.skipped, source.named)

    def require_share(self, source: ImageSource, max_bad: float, *, sampled: bool) -> None:
        """Refuse a set of which too much is unusable. Arguments and errors as for `images.source.check_bad`."""
        check_bad(self.n_read, len(self.skipped), max_bad, self.skipped, source.named, sampled=sampled)

    def facts(self, source: ImageSource) -> ImageFacts:
        """Return the record for the evidence, without a look at the source's entries."""
        return ImageFacts(
            source=source.named,
            bundled=source.kind == "bundled",
            n_available=source.n_available,
            n_read=self.n_read,
            n_skipped=len(self.skipped),
            skipped=named_skips(self.skipped),
            notes=dict(sorted(self.notes.items())),
            digest=digest_of_set(self.digests),
            seed=source.seed,
            sanity=self.sanity.facts(),
            given=source.given,
        )


def input_levels(levels: LevelSums, facts: RunFacts) -> InputLevels | None:
    """Record the levels that entered the model, in 6 digits, so that no order of sums shows; None if not finite.

    Args:
        levels: of the pixels, or of tensors.
        facts: what was done to the pixels: nothing to tensors, nor to those of a model that takes bytes.
    """
    mean = levels.mean
    sd = levels.sd
    if facts.source.kind != "tensors" and facts.models[0].input_type != "uint8":
        mean, sd = facts.preprocessing.preprocessing.scaled(mean, sd)
    if not mean or not all(map(math.isfinite, (*mean, *sd))):
        return None
    return InputLevels(mean=_rounded(mean), sd=_rounded(sd))


def _rounded(levels: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{level:.6g}") for level in levels)


def named_skips(skipped: Sequence[Skipped]) -> Skips:
    """Return names and reasons of the first `NAMED_SKIPS` skipped images, for a report."""
    return tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS])


@dataclass
class FirstImages:
    """The first usable images of a run, with the representations that were measured."""

    limit: int
    pixels: list[GenericArray] = field(default_factory=list)
    """(height, width, channel) of each, as it was fed"""
    rows: list[list[AnyArray]] = field(default_factory=list)
    """by image: (feature,) of each tensor"""

    def add(self, pixels: Sequence[GenericArray], rows: Sequence[AnyArray]) -> None:
        """Add a batch, up to the limit. rows: (image, feature) of each tensor."""
        for index in range(min(len(pixels), self.limit - len(self.pixels))):
            self.pixels.append(pixels[index])
            self.rows.append([array[index] for array in rows])


@dataclass
class TensorSums:
    """The sums over the representations of one tensor."""

    state: State | None = None
    """None before the first image"""
    seen: SeenRows = field(default_factory=SeenRows)
    """empty where nobody keeps any"""
    described: DescribedRows = ()

    def merged(self, later: TensorSums) -> TensorSums:
        """Add the sums over later images."""
        state = self.state or later.state
        if self.state and later.state:
            state = merge_states(self.state, later.state)
        seen = merge_seen(self.seen, later.seen)
        return TensorSums(state, seen, merge_described(self.described, later.described))


@dataclass
class Measurement:
    """The sums over a run's images."""

    tensors: list[TensorSums]
    """in the job's order"""
    images: ImagesRead = field(default_factory=ImagesRead)


def nothing_yet(n_tensors: int) -> Measurement:
    """Return the measurement of no image."""
    return Measurement([TensorSums() for _ in range(n_tensors)])


def merge(a: Measurement, b: Measurement) -> Measurement:
    """Add two measurements of the same tensors over disjoint images, of which `a`'s come before `b`'s.

    Associative up to rounding; the digests come in the order of a single run where shards are merged in theirs.

    Raises:
        ValueError: other tensors: their number or a width differs.
    """
    tensors = [x.merged(y) for x, y in zip(a.tensors, b.tensors, strict=True)]
    return Measurement(tensors, a.images.merged(b.images))


@frozen
class RunFacts:
    """The facts that evidence needs with a measurement: small, and the same from every worker."""

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
        """Count the shards, of which the last may have fewer than `SHARD_IMAGES` images."""
        return -(-self.n_images // SHARD_IMAGES)

    def differs_from(self, other: RunFacts) -> str:
        """Name what two workers' facts differ in, so that their sums must not be merged; "" if nothing differs.

        Sums must come from the same model, preprocessing and list of images, on the same execution provider.
        """
        theirs = other._shared
        return ", ".join(name for name, ours in self._shared.items() if ours != theirs[name])

    @property
    def _shared(self) -> dict[str, object]:
        return {
            "model": [(m.digest, m.tensor, m.pool) for m in self.models],
            "preprocessing": self.preprocessing,
            "list of images": (self.n_images, self.names),
            "execution": [(e.providers, e.optimization, e.runtime, e.int8_sums) for e in self.executions],
        }


def conclude(
    job: Job, facts: RunFacts, measurement: Measurement, profile: Profile, *, decided: bool = False
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
    read.require_any(facts.source)
    measured = []
    for model, tensor in zip(facts.models, measurement.tensors, strict=True):
        if tensor.state is None or tensor.state.n == 0:
            where = f" of {model.tensor}" if len(facts.models) > 1 else ""
            raise unfit(
                model.file,
                f"number of finite, not constant representations{where} is 0 of {read.n_usable}; "
                "at least one is needed",
            )
        measured.append(statistics(tensor.state, profile.alpha, profile.bounds))
    is_limited = facts.source.n_available > facts.n_images
    read.require_share(facts.source, job.options.max_bad, sampled=decided or is_limited)
    images = read.facts(facts.source)
    levels = input_levels(read.levels, facts)
    stopped: Literal["decided", "all images", "image limit"] = "all images"
    if decided:
        stopped = "decided"
    elif is_limited:
        stopped = "image limit"
    of_tensors = zip(measured, measurement.tensors, facts.models, facts.executions, strict=True)
    return tuple(
        Evidence(
            statistics=numbers,
            model=model,
            preprocessing=facts.preprocessing,
            images=images,
            execution=execution,
            levels=levels,
            stopped=stopped,
            content=content_of(tensor.described),
            gallery=gallery_of(tensor.seen, [feature.index for feature in numbers.features]),
        )
        for numbers, tensor, model, execution in of_tensors
    )
