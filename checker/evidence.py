"""The evidence: frozen records of what was measured and how, without an opinion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from robustcheck_onnx.checker.imageset import ImageSetFacts
from robustcheck_onnx.checker.preprocess import Preprocessing
from robustcheck_onnx.thresholds.frozen import Frozen


class Interval(Frozen):
    """An estimate with the bounds that the verdict uses. None = it could not be measured."""

    estimate: float | None
    low: float | None
    high: float | None


class OutlierFeature(Frozen):
    """One feature that carries much of the activation kurtosis."""

    index: int
    share: float
    """share of the activation kurtosis, 0–1"""
    frequency: float
    """share of the images in which abs(z) > 6, 0–1"""
    mean_z: float
    """mean over images of z (SD units); its sign is the feature's sign"""
    persistent: bool
    """frequency ≥ 0.5: a persistent outlier feature"""
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
    """error rate of the deciding intervals together, at all looks together"""
    kurtosis: Interval
    persistence_ratio: Interval
    top3_share: Interval
    outlier_frequency: Interval
    """share of the images in which the strongest feature is beyond 4 SD on its usual side, 0–1"""
    negative_energy: Interval
    negative_z_energy: Interval
    """negative energy of the standardised representation: no offset and no image's norm moves it"""
    centred_kurtosis: float | None
    rms_kurtosis: float | None
    max_median_ratio: float | None
    """None where a median is 0"""
    zero_share: float | None
    negative_share: float | None
    spread: float | None
    """share of the z energy outside the top three features that varies between images; near 0 = all alike"""
    distinct_share: float
    """different values of the per-image kurtosis, as a share of the images (of 1,000 evenly spaced ranks at most);
    near 0 = a few representations, repeated"""
    kurtosis_quantiles: tuple[float, float, float, float, float] | None
    """5, 25, 50, 75, 95 % of the per-image kurtosis"""
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    features: tuple[OutlierFeature, ...]
    """the features with the largest shares and every persistent outlier feature, strongest first"""

    @property
    def persistent(self) -> tuple[OutlierFeature, ...]:
        """The persistent outlier features."""
        return tuple(f for f in self.features if f.persistent)


class ModelFacts(Frozen):
    """The model that was measured and the tensor that was read."""

    file: str
    digest: str
    """sha256:… of the model file, or over its digest and those of its external files"""
    file_digest: str = ""
    """sha256:… of the model file alone, as `sha256sum` prints it"""
    external_digests: dict[str, str]
    size_bytes: int
    opset: dict[str, int]
    producer: str
    tensor: str
    rule: str
    """encoder_output | head_input | pooled | logits | user"""
    pool: str
    """none | spatial_mean | token_cls | token_mean"""
    ends_in: str
    """what produces the representation: linear, linear_of:Relu, change_of_basis, normalisation, activation:Relu, …"""
    why: str
    tensor_assumed: bool
    random_weights: bool | None
    """None: no contract says"""
    source: str
    """what the contract says the model is; empty without a contract"""
    synthetic: str
    """what was planted by hand, as the contract says; empty for a real model"""
    batch_difference: float | None
    """largest relative difference of a representation between batches; None = not checked"""
    output_difference: float | None
    """largest relative difference of the model's own output with and without the added output"""


class PreprocessingFacts(Frozen):
    """What was done to the pixels, and who said so."""

    preprocessing: Preprocessing
    source: Literal["contract", "sidecar", "user", "assumed", "tensors"]
    fields: tuple[tuple[str, str, str], ...]
    """(field, value, where it came from)"""
    against_contract: bool = False
    """whether an option overruled what the file's contract says"""


class ImageFacts(Frozen):
    """The calibration images."""

    source: str
    bundled: bool
    n_available: int
    n_read: int
    n_skipped: int
    skipped: tuple[tuple[str, str], ...]
    """(name, reason), the first few"""
    notes: dict[str, int]
    """how many images were converted, by what was done"""
    digest: str
    seed: int
    sanity: ImageSetFacts


class Execution(Frozen):
    """What was asked for, what was obtained, and what ran where."""

    requested: str
    """auto, cpu, cuda, cuda:N or tensorrt"""
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
    fallback_reason: str = ""
    """why `auto` uses the CPU"""
    engine: str = ""
    """what spread the images over several workers: ray; empty where one process measured them all"""
    workers: int = 1


class SeenImage(Frozen):
    """One calibration image beside its numbers, for people to look at; it decides nothing."""

    name: str
    digest: str
    kurtosis: float
    """activation kurtosis of this image"""
    z: tuple[float, ...]
    """of the features of `Gallery.features`, in their order (SD units)"""


class Gallery(Frozen):
    """A few images and features to look at; they decide nothing."""

    features: tuple[int, ...]
    """those of `Statistics.features`, in their order, the first few"""
    shown: tuple[SeenImage, ...]
    """the first usable images in the seeded order: the outlier-feature map"""
    most: tuple[SeenImage, ...]
    """the largest activation kurtosis of all measured images, largest first"""
    least: tuple[SeenImage, ...]
    """the smallest, smallest first"""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text must be one line of printable characters")
    return text


Word = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_printable)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]


class DetectorResult(Frozen):
    """What a plug-in found (`detectors.py`): another signal, which can add a WARN and never take one away."""

    name: Word
    version: Word
    values: Annotated[dict[Word, float | None], Field(max_length=64)]
    """its numbers by name; None = could not be measured"""
    finding: Literal["ok", "warn"]
    text: Line
    """what it saw, in a sentence"""


class Evidence(Frozen):
    """Everything measured in one run: the only input of the verdict beside the threshold profile."""

    statistics: Statistics
    model: ModelFacts
    preprocessing: PreprocessingFacts
    images: ImageFacts
    execution: Execution
    stopped: Literal["decided", "all images", "image limit"]
    gallery: Gallery | None = None
    """None where it was not kept"""
    detectors: tuple[DetectorResult, ...] = ()
    """of the plug-ins that were asked for"""
