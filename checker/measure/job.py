"""Say what is measured, and add up what an image set gives. A job is one model on one image set.

A shard is a contiguous piece of the seeded order of the images. Shards measured apart and merged in their order hold
what one run over all images holds; so one machine or many give the same evidence.

First in the seeded order, so that batches, workers, shards and an early stop change nothing but rounding. Of every run
the first `DESCRIBED` described images are kept, duplicates too: which of them are varied is known in their whole order
only, and only the first images of a set are described. So memory is `DESCRIBED` rows of float32, however many images
there are.

Of every run are kept the first `SHOWN` usable images of the seeded order, and those of the `EXTREME` largest and
smallest kurtosis, each with its standardised representation: which features will be listed is known only at the end.
So memory is `SHOWN` + 2 · `EXTREME` rows of float32, however many images there are.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...thresholds.profile import Profile
from ..arrays import AnyArray, Float32s, GenericArray
from ..errors import CannotAssessError, RobustcheckError, UsageError, unfit
from ..evidence import (
    CONTENT_IMAGES,
    Content,
    Evidence,
    Execution,
    Gallery,
    ImageFacts,
    InputLevels,
    ModelFacts,
    Options,
    Preprocessing,
    PreprocessingFacts,
    SeenImage,
    Skips,
)
from ..images import sanity
from ..images.preprocess import LevelSums, apply_uint8, as_photo, level_sums
from ..images.sanity import DESCRIBED, ImageSetState, Sketch, digest_of_pixels, varied
from ..images.source import Digests, ImageSource, Item, Skipped, Tensor, check_bad, digest_of_set
from ..model.layers import show_shape
from ..model.open import ModelFile
from ..statistics import state as sums
from ..statistics.definitions import LOOK_EVERY, effective_rank, mean_of_rest, relative_variance, unit_rows
from ..text import VERSION, Texts, frozen, quoted


@dataclass(frozen=True, eq=False)
class DescribedRow:
    """A described image with a usable representation."""

    sketch: Sketch
    u: Float32s
    """(feature,) the representation scaled to length 1"""


DescribedRows = tuple[DescribedRow, ...]
"""the first `DESCRIBED`, in the order of the run, of one tensor"""


def described_rows(h: npt.ArrayLike, sketches: Sequence[Sketch | int | None]) -> DescribedRows:
    """Select the described rows of one batch.

    Args:
        h: (image, feature) usable representations, finite and not constant; any float dtype.
        sketches: of the same images; what is not a whole sketch is left out.
    """
    described = [(index, sketch) for index, sketch in enumerate(sketches) if isinstance(sketch, Sketch)]
    u = unit_rows(np.asarray(h)[[index for index, _ in described]]) if described else ()
    # astype copies each row: a view would keep the whole batch
    return tuple(DescribedRow(sketch, row.astype(np.float32)) for (_, sketch), row in zip(described, u, strict=True))


def merge_described(a: DescribedRows, b: DescribedRows) -> DescribedRows:
    """Join rows in order, up to `DESCRIBED`. One pass over both gives exactly the same. Associative."""
    return (a + b)[:DESCRIBED]


def first_varied(rows: DescribedRows) -> DescribedRows:
    """Return the first `CONTENT_IMAGES` varied rows. Duplicates and near-duplicates of earlier ones are left out."""
    return tuple(rows[place] for place in varied([row.sketch for row in rows], CONTENT_IMAGES))


def is_complete(rows: DescribedRows) -> bool:
    """Return whether there are `CONTENT_IMAGES` varied rows. More images change nothing then."""
    return len(first_varied(rows)) == CONTENT_IMAGES


def content_of(rows: DescribedRows) -> Content | None:
    """Measure the content of a whole run. None where no image was described."""
    chosen = first_varied(rows)
    if not chosen:
        return None
    u = np.stack([row.u for row in chosen])
    return Content(
        n=len(chosen),
        effective_rank=effective_rank(u),
        relative_variance=relative_variance(u),
        mean_of_rest=mean_of_rest(u),
    )


SHOWN: Final = 64  # images of the outlier-feature map
EXTREME: Final = 5  # images of the largest kurtosis, and of the smallest
FEATURES: Final = 8  # features whose z is recorded
DECIMALS: Final = 3  # of z in the report: far finer than a colour or a bar shows


@dataclass(frozen=True, eq=False)
class SeenRow:
    """A usable image."""

    name: str
    digest: str
    kurtosis: float
    z: Float32s
    """(feature,) standardised representation"""


@frozen
class SeenRows:
    """The selected images of one tensor so far."""

    first: tuple[SeenRow, ...] = ()
    """the first `SHOWN`, in the order of the run"""
    most: tuple[SeenRow, ...] = ()
    """the `EXTREME` of the largest kurtosis, largest first; of equal ones the earlier first"""
    least: tuple[SeenRow, ...] = ()
    """the `EXTREME` of the smallest, smallest first; of equal ones the earlier first"""


def seen_rows(batch: sums.Measured, names: Sequence[str], digests: Sequence[str]) -> SeenRows:
    """Select the rows of one batch. `merge_seen` adds them to those that came before.

    Args:
        batch: from `state.update`; images that it could not use are left out.
        names, digests: of all images of the batch, in its order.
    """
    # float32 is a copy: a view would keep the whole batch
    rows = tuple(
        SeenRow(names[place], digests[place], float(kurtosis), z.astype(np.float32))
        for place, kurtosis, z in zip(np.flatnonzero(batch.usable).tolist(), batch.kurtosis, batch.z, strict=True)
    )
    return merge_seen(SeenRows(), SeenRows(rows, rows, rows))


def merge_seen(a: SeenRows, b: SeenRows) -> SeenRows:
    """Merge the selections of two runs of images.

    `a`'s images come before `b`'s; one pass over both gives exactly the same. Associative.
    """
    return SeenRows(
        first=(a.first + b.first)[:SHOWN],
        # sorted is stable, so of equal ones a's stay before b's
        most=tuple(sorted(a.most + b.most, key=lambda row: -row.kurtosis)[:EXTREME]),
        least=tuple(sorted(a.least + b.least, key=lambda row: row.kurtosis)[:EXTREME]),
    )


def gallery_of(rows: SeenRows, features: Sequence[int]) -> Gallery | None:
    """Return the report's record of the gallery.

    It has z of the first `FEATURES` features, rounded; None where no image was selected.

    Args:
        rows: of the whole run.
        features: indices of the listed features, strongest first (`Statistics.features`).
    """
    if not rows.first:
        return None
    listed = list(features[:FEATURES])

    def seen(row: SeenRow) -> SeenImage:
        z = np.round(row.z[listed].astype(np.float64), DECIMALS) + 0.0  # no minus before a zero
        return SeenImage(name=row.name, digest=row.digest, kurtosis=row.kurtosis, z=tuple(map(float, z)))

    return Gallery(
        features=tuple(listed),
        shown=tuple(map(seen, rows.first)),
        most=tuple(map(seen, rows.most)),
        least=tuple(map(seen, rows.least)),
    )


@frozen
class Prepared:
    """An image that is ready for the model."""

    name: str
    digest: str
    notes: Texts
    pixels: GenericArray
    """(height, width, channel): uint8 of a photo, as `preprocess.apply_uint8` gives it; a tensor's own float values"""
    sketch: Sketch | int | None
    """a digest alone past the images that are described; None where the set is not looked at"""
    levels: LevelSums
    """of `pixels`"""


def prepare(
    item: Item, model: ModelFile, preprocessing: Preprocessing, described: Container[str] | None
) -> Prepared | Skipped:
    """Preprocess and sketch one image. One that this model can't take is skipped.

    Args:
        item: from the image set.
        model: takes the pixels.
        preprocessing: makes them of a photo; a tensor is preprocessed already.
        described: names of the images whose sketches are made whole; None = no sketch of any.

    Raises:
        UsageError: a tensor of another shape than the model takes.
    """
    if isinstance(item, Skipped):
        return item
    if isinstance(item, Tensor):
        takes = (model.image_input.channels or 3, *preprocessing.size)
        if takes != item.values.shape:
            raise UsageError(
                f"{item.name}: tensor (channel, height, width) is {item.values.shape}; {model.path} takes "
                f"{show_shape(takes)}",
                f"robustcheck inspect {quoted(model.path)}",
            )
        pixels = np.ascontiguousarray(np.moveaxis(item.values, 0, -1))
        sketch = _sketch(as_photo(preprocessing, pixels), item.name, described)
        return Prepared(item.name, item.digest, (), pixels, sketch, level_sums(pixels))
    try:
        array = apply_uint8(preprocessing, item.image)
    except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
        return Skipped(item.name, fault.message)
    sketch = _sketch(item.image, item.name, described)
    return Prepared(item.name, item.digest, item.notes, array, sketch, level_sums(array))


def stack(images_: Sequence[Prepared]) -> GenericArray:
    """Stack a batch's pixels, (image, height, width, 3).

    Raises TypeError for photos among tensors: their bytes would pass for values that are scaled already.
    """
    return np.stack([item.pixels for item in images_], casting="no")


def _sketch(image: Image.Image, name: str, described: Container[str] | None) -> Sketch | int | None:
    if described is None:
        return None
    return sanity.describe(image) if name in described else digest_of_pixels(image)


NAMED_SKIPS = 20  # skipped images named in the report
SHARD_IMAGES = 32 * LOOK_EVERY
"""Images of a shard, 512: whole looks, so that a shard's batches are those of a single run; some seconds of work, so
that a lost worker costs little and an opened model, not its loading, is what takes time."""


@frozen
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

    def check_usable(self, source: ImageSource, max_bad: float = 1.0, *, sampled: bool | None = None) -> None:
        """Refuse a set of which too much is unusable. Arguments and errors as for `images.check_bad`.

        sampled: None = whether the source has fewer images than were found.
        """
        sampled = source.n_available > len(source) if sampled is None else sampled
        check_bad(self.n_read, len(self.skipped), max_bad, self.skipped, source.named, sampled=sampled)

    def facts(self, source: ImageSource) -> ImageFacts:
        """Return the record for the evidence. The source's entries are not read. Its entries are not looked at."""
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


def named_skips(skipped: Sequence[Skipped]) -> Skips:
    """Return names and reasons of the first skips. A report shows at most `NAMED_SKIPS`."""
    return tuple((bad.name, bad.reason) for bad in skipped[:NAMED_SKIPS])


IMAGES_OF_CHECK: Final = 8  # that run once more by reference arithmetic


@dataclass
class FirstImages:
    """The first images of a run, with the representations that were measured."""

    limit: int = IMAGES_OF_CHECK
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

    state: sums.State | None = None
    """None before the first image"""
    seen: SeenRows = field(default_factory=SeenRows)
    """empty where nobody keeps any"""
    described: DescribedRows = ()


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
    """Add two measurements over disjoint images. Both have the same tensors; `a`'s images come before `b`'s.

    Associative up to rounding; the digests come in the order of a single run where shards are merged in theirs.

    Raises:
        ValueError: other tensors: their number or a width differs.
    """
    tensors = [
        TensorSums(
            sums.merge(x.state, y.state) if x.state and y.state else x.state or y.state,
            merge_seen(x.seen, y.seen),
            merge_described(x.described, y.described),
        )
        for x, y in zip(a.tensors, b.tensors, strict=True)
    ]
    return Measurement(tensors, a.images.merged(b.images))


@frozen
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
    for model, tensor in zip(facts.models, measurement.tensors, strict=True):
        if tensor.state is None or tensor.state.n == 0:
            raise unfit(
                model.file,
                "number of finite, not constant representations"
                f"{f' of {model.tensor}' if len(facts.models) > 1 else ''} is 0 of {read.n_usable}; "
                "at least one is needed",
            )
        statistics.append(sums.statistics(tensor.state, profile.alpha, profile.bounds))
    read.check_usable(facts.source, job.options.max_bad, sampled=decided)
    images, levels = read.facts(facts.source), input_levels(read.levels, facts)
    limited = facts.source.n_available > facts.n_images
    return tuple(
        Evidence(
            statistics=numbers,
            model=model,
            preprocessing=facts.preprocessing,
            images=images,
            execution=execution,
            levels=levels,
            stopped="decided" if decided else "image limit" if limited else "all images",
            content=content_of(tensor.described),
            gallery=gallery_of(tensor.seen, [feature.index for feature in numbers.features]),
        )
        for numbers, tensor, model, execution in zip(
            statistics, measurement.tensors, facts.models, facts.executions, strict=True
        )
    )


TRIES: Final = 2  # times a job or shard is begun whose worker process ends without a word


@frozen
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
        "too little memory is a usual cause",
        f"robustcheck {job.model} --batch-size 1",
    )


def versions() -> dict[str, str]:
    """Return the versions of everything that computes here."""
    import onnxruntime  # noqa: PLC0415 # two distributions hold this package: only it knows its version

    installed = {name: version(name) for name in ("numpy", "onnx", "Pillow")}
    installed |= {"robustcheck": VERSION, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    return dict(sorted(installed.items()))
