"""The records of the evidence: how images become inputs, what was measured, on what, and how; no opinion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ...thresholds.ends import End
from ...thresholds.records import Frozen, ReprArgs
from ...thresholds.statistics import Bounds
from ..text import short_provider
from .preprocessing import Preprocessing

OUTLIER_SD = 4.0  # of an image's features; docs/statistics.md
TOP_FEATURES = 3  # features counted in the top-3 share: real encoders had one to three (reference table)
WRITTEN_ZERO_AT = {
    "QuantizeLinear": 2,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QGemm": 8,
    "QLinearGlobalAveragePool": 4,
    "QLinearAveragePool": 4,
    "QLinearConcat": 1,
}
"""The position of the zero point among the inputs of an operator that writes a quantised tensor."""
ROUNDINGS = 3  # distances of two reference runs beyond which a difference is more than rounding
NONFINITE = "nonfinite_share"  # among the shifts of a reference run
CONTENT_IMAGES = 50  # varied images that content is measured on: the effective rank grows with their number


SAME_SCALING = 0.01  # of the largest factor: an int8 constant is off by 0.4 % of the largest value

Arithmetic = Literal["machine", "exact"]
"""whose int8 sums a verdict is about"""


class Interval(Frozen):
    """An estimate with the bounds that the verdict uses; None = not measurable."""

    estimate: float | None
    low: float | None
    high: float | None


Skips = tuple[tuple[str, str], ...]  # names of images that were skipped, and why


class OutlierFeature(Frozen):
    """A feature with much of the activation kurtosis."""

    index: int
    share: float
    """share of the activation kurtosis, 0–1"""
    frequency: float
    """share of the images in which z is beyond 4 SD on the feature's usual side (that of its mean z), 0–1"""
    mean_z: float
    """mean over images of z (SD units); its sign is the feature's sign"""
    persistent: bool
    """frequency ≥ 0.5"""
    relative_sd: float | None
    """SD over images of the raw value / its absolute mean; 0 = a constant, None = mean 0 of a feature that varies"""


class Statistics(Frozen):
    """The measured numbers (definitions: docs/statistics.md)."""

    statistic_version: int
    n_images: int
    n_nonfinite: int
    n_constant: int
    n_features: int
    alpha: float
    """error rate of the deciding bounds, at all looks together"""
    bounds: Bounds
    """each: every lower bound has `alpha` to itself and the upper ones share it; looks: as each, and the lower ones
    hold at the looks of a run only"""
    kurtosis: Interval
    persistence_ratio: Interval
    top3_share: Interval
    outlier_frequency: Interval
    """share of the images in which the strongest feature is beyond 4 SD on its usual side, 0–1"""
    negative_energy: Interval
    negative_z_energy: Interval
    strength: Interval
    two_sidedness: Interval
    """smallest share of the energy on one side of zero or of each image's median, 0–0.5"""
    centred_kurtosis: float | None
    rms_kurtosis: float | None
    max_median_ratio: float | None
    zero_share: float | None
    negative_share: float | None
    spread: float | None
    """share of the z energy outside the top three features that varies between images; near 0 = all alike"""
    distinct_share: float
    """different values of the per-image kurtosis, as a share; near 0 = a few representations, repeated"""
    kurtosis_quantiles: tuple[float, float, float, float, float] | None
    """5, 25, 50, 75, 95 %"""
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    features: tuple[OutlierFeature, ...]
    """those with the largest shares, and every persistent one, strongest first"""

    @property
    def persistent(self) -> tuple[OutlierFeature, ...]:
        """Return the persistent outlier features."""
        return tuple(f for f in self.features if f.persistent)


class GraphScaling(Frozen):
    """The scaling of the image input inside a graph, before its first layer: each channel is factor · value + offset.

    Equal to (value − mean) / std, the other way to write a normalisation.
    """

    channels: tuple[int, ...]
    """which channel of the input each one is: (2, 1, 0) where the graph turns RGB to BGR"""
    factor: tuple[float, ...]
    """not 0"""
    offset: tuple[float, ...]
    ops: tuple[str, ...]
    """of the graph, in their order"""

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the input value that becomes 0, per channel."""
        return tuple(-offset / factor for factor, offset in zip(self.factor, self.offset, strict=True))

    @property
    def std(self) -> tuple[float, ...]:
        """Return the input difference that becomes 1, per channel."""
        return tuple(1 / factor for factor in self.factor)

    def is_like(self, other: GraphScaling) -> bool:
        """Return whether another scaling has the same channels and nearly the same values, as after quantisation."""
        if self.channels != other.channels:
            return False
        within = SAME_SCALING * max(map(abs, self.factor))
        pairs = zip((*self.factor, *self.offset), (*other.factor, *other.offset), strict=True)
        return all(math.isclose(ours, theirs, rel_tol=SAME_SCALING, abs_tol=within) for ours, theirs in pairs)


def scaled_alike(ours: Sequence[GraphScaling], theirs: Sequence[GraphScaling]) -> bool:
    """Return whether two graphs scale their image input in the same ways."""
    pairs = ((ours, theirs), (theirs, ours))
    return all(any(one.is_like(other) for other in others) for some, others in pairs for one in some)


class Content(Frozen):
    """How much the representations of the first varied images differ, and in how many directions."""

    n: int
    """images: the first 50 of the seeded order that are neither duplicates nor near-duplicates of earlier ones; fewer
    where there are fewer"""
    effective_rank: float
    """directions in which the L2-normalised representations vary: 1 to n − 1; 0 = they do not"""
    relative_variance: float
    """share of their energy that varies between images, 0–1"""
    mean_of_rest: float
    """share of the energy outside of the three strongest features that their mean holds, 0–1; about 0 in the basis of
    an SVD"""


class Origin(Frozen):
    """The place that a model was fetched from, as its address meant at that time."""

    address: str
    """as it was given, without secrets"""
    revision: str
    """the commit of a repository, the version of a registered model, or the run"""
    file: str
    """path of the ONNX file there"""


class ModelFacts(Frozen):
    """The measured model and its tensor."""

    file: str
    origin: Origin | None = None
    """of a model that a hub or a registry holds; None: a file on this machine, or a plain URL"""
    digest: str
    """sha256:… of the model file, or over its digest and those of its external files"""
    file_digest: str = ""
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    external_digests: dict[str, str]
    size_bytes: int
    opset: dict[str, int]
    producer: str
    left_out: tuple[str, ...] = ()
    """of a file with several inputs, what needs more than the image and was not opened: input NAME, output NAME"""
    input_type: str = ""
    """of the image input; pixels of photos go into uint8 as they are: rescale, mean and std are not applied"""
    scaling: GraphScaling | None = None
    """what the graph itself does to its image input; None: nothing, or nothing that can be told"""
    other_scalings: tuple[GraphScaling, ...] = ()
    """what its other branches do, where they scale the image in another way; factor 1 and offset 0 for nothing"""
    tensor: str
    rule: str
    """encoder_output | head_input | pooled | logits | user"""
    pool: str
    """none | spatial_mean | token_cls | token_mean"""
    ends_in: End
    """the layer that makes the representation"""
    why: str
    tensor_assumed: bool
    random_weights: bool | None
    """None: no contract says"""
    source: str
    """what the contract says the model is; empty without a contract"""
    synthetic: str
    """what was planted by hand, as the contract says; empty for a real model"""
    matched_to: str | None = None
    """the encoder whose vectors it was trained to give, as the contract says; "none": it was not; None: not said"""
    file_changed: bool | None = None
    """whether the graph or weights are others than those the contract was written for; None: no contract says"""
    contract_digest: str = ""
    """of the graph and weights that the contract was written for; empty: no contract says"""
    batch_difference: float | None
    """largest relative difference of a representation between batches; None = not checked"""
    fixed_scale_difference: float | None = None
    """the same with the scales held fixed that quantisers take over the whole batch; only measured where every image
    ran alone, and then what counts; None = not measured"""
    output_difference: float | None
    """largest relative difference of the model's own output with and without the added output"""
    saturating_pairs: float | None = None
    """share of the pairs of int8 weights whose products with activations of 255 need more than 16 bits; None: no such
    weights"""


class PreprocessingFacts(Frozen):
    """The preprocessing of the pixels and its source."""

    preprocessing: Preprocessing
    source: Literal["contract", "sidecar", "user", "assumed", "tensors"]
    fields: tuple[tuple[str, str, str], ...]
    """(field, value, where it came from)"""
    origin: str = ""
    """what states it: an option, a sidecar's name, or the contract, with what stated it there; empty in reports of an
    early version"""
    against_contract: bool = False
    """whether an option overruled what the file's contract says"""

    @property
    def is_claimed(self) -> bool:
        """Return whether an option alone states it, of this call or of the one that wrote the contract."""
        return self.source == "user" or (self.source == "contract" and "--preprocess" in self.origin)


class ImageFacts(Frozen):
    """The calibration images."""

    source: str
    bundled: bool
    n_available: int
    n_read: int
    n_skipped: int
    skipped: Skips
    """(name, reason), the first few"""
    notes: dict[str, int]
    """how many images were converted, by what was done"""
    digest: str
    seed: int
    sanity: ImageSetFacts
    given: bool = False
    """whether Python handed them over as objects (a list of paths, pictures, arrays): then `source` is not a name that
    can be opened again"""

    @property
    def n_usable(self) -> int:
        """Return the number of images that were read and not skipped."""
        return self.n_read - self.n_skipped


class InputLevels(Frozen):
    """The mean and SD of each input channel, in the model's own order, over all values of all usable images."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]


class Int8Sums(Frozen):
    """The share of an exact sum of uint8 by int8 products that ONNX Runtime gives on a CPU."""

    plain: float
    """in a session as every run opens it: below 1 where sums saturate"""
    exact: float
    """in a session with `session.x64quantprecision`: 1"""

    @property
    def saturates(self) -> bool:
        """Return whether sums saturate."""
        return self.plain < 1

    @property
    def words(self) -> str:
        """Return the predicate of a sentence about these sums."""
        return f"saturate at {100 * self.plain:.1f} % of the exact sum" if self.saturates else "are exact"


class ReferenceRun(Frozen):
    """A few of the measured images, run once more on the CPU by reference arithmetic."""

    by: Literal["exact int8 sums", "no graph optimisation"]
    n_images: int = 0
    cosine: float | None = None
    """median over the images of the cosine of the two representations; None: no reference run was possible"""
    worst_cosine: float | None = None
    """the smallest"""
    difference: float | None = None
    """largest relative difference, max |a − b| / rms(a) of an image"""
    floor: float | None = None
    """median cosine of two reference runs, which differ by rounding alone; None: not measured, as where the difference
    is small"""
    shifts: dict[str, float] = Field(default_factory=dict)
    """reference less machine of each statistic of the verdict and of the content, over these images, and of the share
    of the representations that are not finite"""
    failed: str = ""
    """why no reference run was possible, or not on all of the images that it was wanted on"""

    @property
    def words(self) -> str:
        """Name the reference: the CPU, and how it computed."""
        return "the CPU with exact int8 sums" if self.by == "exact int8 sums" else "the CPU without graph optimisation"

    @property
    def exceeds_rounding(self) -> bool:
        """Return whether the machine's difference is more than rounding (docs/dev/decisions/reference-run.md)."""
        if self.cosine is None or self.floor is None:
            return False
        return 1 - self.cosine > ROUNDINGS * (1 - self.floor)


class Execution(Frozen):
    """The requested and the obtained execution, with counts of what ran where."""

    requested: str
    """auto, or a device, with the options of its provider behind commas"""
    providers: tuple[str, ...]
    """of the session, in its order of preference"""
    nodes: dict[str, int] | None
    """graph nodes for each provider, as the session counts them; None where ONNX Runtime can't tell"""
    heavy_on_cpu: dict[str, int]
    """convolutions and matrix products that a GPU run left on the CPU: op, count"""
    runtime: str
    """ONNX Runtime's version"""
    device: str
    """name of the processor or GPU"""
    threads: int
    precision: str
    optimization: str
    """graph optimisation level: all, basic or none"""
    int8_sums: Int8Sums | None = None
    """on the processor, of an int8 file"""
    arithmetic: Arithmetic | None = None
    """whose int8 sums were asked for; exact: they did not saturate, whatever the CPU does by itself"""
    reference: ReferenceRun | None = None
    """what reference arithmetic makes of the same images; None: not run, as for float32 on the CPU"""
    fallback_reason: str = ""
    """why `auto` uses the CPU"""
    engine: str = ""
    """what spread the images over several workers: ray; empty where one process measured them all"""
    workers: int = 1
    """those that measured images of this model"""

    @property
    def saturates(self) -> bool:
        """Return whether int8 sums of this run saturated."""
        return self.arithmetic != "exact" and self.int8_sums is not None and self.int8_sums.saturates

    @property
    def sums_words(self) -> str:
        """Return the predicate of a sentence about the int8 sums of this run; "" for other files."""
        if self.int8_sums is None:
            return ""
        return "are exact (--arithmetic exact)" if self.arithmetic == "exact" else self.int8_sums.words

    @property
    def machine(self) -> str:
        """Name what computed: a provider, the device, and what its int8 sums do where they saturate."""
        provider = short_provider(self.providers[0])
        if provider != "CPU":
            on_cpu = f" (int8 sums on its CPU {self.sums_words})" if self.saturates else ""
            return f"{provider} on {self.device}{on_cpu}"
        if self.saturates:
            return f"this CPU ({self.device}, whose int8 sums {self.sums_words})"
        return self.device


class SeenImage(Frozen):
    """An image of the gallery with its numbers, for people to look at."""

    name: str
    digest: str
    kurtosis: float
    """activation kurtosis of this image"""
    z: tuple[float, ...]
    """of the features of `Gallery.features`, in their order (SD units)"""


class Gallery(Frozen):
    """A few images and features for people, which decide nothing."""

    features: tuple[int, ...]
    """those of `Statistics.features`, in their order, the first few"""
    shown: tuple[SeenImage, ...]
    """the first usable images in the seeded order: the outlier-feature map"""
    most: tuple[SeenImage, ...]
    """the largest activation kurtosis of all measured images, largest first"""
    least: tuple[SeenImage, ...]
    """the smallest, smallest first"""


class Evidence(Frozen):
    """Everything that one run measured: with the threshold profile the only input of the verdict."""

    statistics: Statistics
    model: ModelFacts
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    stopped: Literal["decided", "all images", "image limit"]
    levels: InputLevels | None = None
    """None where it is not finite"""
    content: Content | None = None
    """None where it was not measured"""
    gallery: Gallery | None = None
    """None where it was not kept"""

    def __repr_args__(self) -> ReprArgs:
        """Return the fields that repr, str and rich show in a line."""
        return [("model", self.model.file), ("images", self.statistics.n_images), ("source", self.images.source)]


FindingId = Literal["duplicate_images", "near_duplicate_images", "images_not_varied", "images_not_photo_like"]


class ImageFinding(Frozen):
    """A fact about the images that a verdict must know."""

    id: FindingId
    seen: str
    """one sentence with the numbers"""


class ImageSetFacts(Frozen):
    """The measurements of an image set: shares of the images compared, medians of the distinct ones."""

    n_images: int
    n_compared: int
    """all, up to CAPACITY different ones; beyond, those with the smallest digests: a uniform sample"""
    n_duplicates: int
    """images with exactly the pixels of another one"""
    n_near_duplicates: int
    """different images with nearly the layout of another one, mirrored or turned too, or parts of the same photo"""
    n_varied: int
    """images compared that are neither"""
    unlike_share: float
    """share of distinct images that no photo looks like: flat, noise, unrelated colours"""
    neighbour_correlation: float | None
    """median; None where no image could be measured"""
    gradient_kurtosis: float | None
    """median"""
    channel_correlation: float | None
    """median"""
    kurtosis_spread: float | None
    """robust standard deviation of ln gradient kurtosis over the images"""
    findings: tuple[ImageFinding, ...]
