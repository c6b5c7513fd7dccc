"""Published accuracies and effective robustness of known models. They are context, not evidence.

Columns and sources: docs/data.md. Nothing here was measured by robustcheck, and nothing here decides a verdict.

Taori et al. 2020, "Measuring Robustness to Natural Distribution Shifts in Image Classification": on logit axes the
accuracies of models trained on ImageNet alone lie close to a line; what a model has above that line is its effective
robustness. These lines are also the baselines of accuracies that `shift` measures.
"""

import csv
import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import DATA, Fields, Texts
from .context import Context
from .records import Frozen

Values = NDArray[np.float64]

PERCENTAGE_POINTS = 100.0  # in an accuracy of 1
LOWEST_ACCURACY = 0.55  # ImageNet top-1; Taori et al. leave out models below, and few of the fitted ones lie there


class BaselineFit(Frozen):
    """The line logit(shift accuracy) = a · logit(ImageNet accuracy) + b over models without effective robustness."""

    a: float
    b: float
    n: int
    """models"""
    r2: float
    """squared correlation on logit axes"""
    residual_sd_pp: float
    """standard deviation of accuracy minus baseline about its mean (divided by n), percentage points"""
    low: float
    """lowest ImageNet accuracy it was fitted on"""
    high: float
    """highest ImageNet accuracy it was fitted on"""


class EffectiveRobustness(NamedTuple):
    """The effective robustness of models for one shift."""

    points: Values
    """accuracy minus baseline, percentage points"""
    extrapolated: NDArray[np.bool_]
    """True: the ImageNet accuracy is outside what the baseline was fitted on, or below LOWEST_ACCURACY"""


def logit(accuracy: ArrayLike) -> Values:
    """Compute log(p / (1 − p)) of accuracies as fractions.

    Equal to scipy.special.logit.
    accuracy: any shape, each in (0, 1). Returns float64 of the same shape.
    Raises ValueError naming the first accuracy that is not between 0 and 1: 0 and 1 have no logit.

    >>> float(logit(0.5))
    0.0
    """
    p = fractions("accuracy", accuracy)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: ArrayLike) -> Values:
    """Compute 1 / (1 + exp(−x)), the inverse of logit.

    Equal to scipy.special.expit. x: any shape, finite. Returns float64 in [0, 1]; large x gives exactly 0 or 1.

    >>> float(sigmoid(0))
    0.5
    """
    values = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(values))  # never overflows
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def expected_accuracy(acc_in: ArrayLike, baseline: BaselineFit) -> Values:
    """Return the shift accuracy that the baseline expects, sigmoid(a · logit(acc_in) + b).

    acc_in: any shape, fractions in (0, 1). Returns the same shape, fractions.
    Raises ValueError naming an accuracy that is not between 0 and 1.
    """
    return sigmoid(baseline.a * logit(acc_in) + baseline.b)


def effective_robustness(acc_in: ArrayLike, acc_shift: ArrayLike, baseline: BaselineFit) -> EffectiveRobustness:
    """Return the shift accuracy above the baseline in percentage points, 0 for models trained on ImageNet alone.

    100 · (acc_shift − sigmoid(a · logit(acc_in) + b)) (Taori et al. 2020).
    acc_in: (model,) or one number, fractions in (0, 1). acc_shift: of the same shape, fractions in [0, 1]: a shift on
    which a model gets everything wrong, or right, still has a value. Returns both fields in that shape.
    Raises ValueError naming an accuracy outside its range, or for shapes that differ.
    """
    x = fractions("ImageNet accuracy", acc_in)
    y = np.asarray(acc_shift, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"accuracies have shapes {x.shape} and {y.shape}; they must be the same")
    outside = ~((y >= 0) & (y <= 1))
    if outside.any():
        raise ValueError(f"accuracy on the shift is {y[outside].flat[0]:g}; it must be a fraction from 0 to 1")
    points = PERCENTAGE_POINTS * (y - expected_accuracy(x, baseline))
    too_low = x < max(baseline.low, LOWEST_ACCURACY)
    return EffectiveRobustness(points, too_low | (x > baseline.high))


def fractions(label: str, accuracy: ArrayLike) -> Values:
    """Return accuracies as an array. Raises ValueError naming one that is not between 0 and 1."""
    p = np.asarray(accuracy, dtype=np.float64)
    outside = ~((p > 0) & (p < 1))  # NaN too
    if outside.any():
        raise ValueError(f"{label} is {p[outside].flat[0]:g}; it must be a fraction between 0 and 1")
    return p


IMAGENET = "imagenet1k"
SHIFTS = ("imagenetv2", "sketch", "imagenet_r", "imagenet_a", "objectnet")
MEAN_SHIFTS = SHIFTS[:4]  # timm publishes no ObjectNet accuracies
SHIFT_WORDS = {"imagenetv2": "V2", "sketch": "Sketch", "imagenet_r": "R", "imagenet_a": "A", "objectnet": "ObjectNet"}
SOURCES = ("timm", "testbed")
FITTED_ON = {
    "timm": "timm's models trained on ImageNet-1k only",
    "testbed": "imagenet-testbed's standard models of 55 % ImageNet top-1 or more",
}
LIBRARIES = ("open_clip", "timm", "testbed")
DECIMALS = 2  # of percentage points in documents: the accuracies have four or five digits
MIDDLE = (5, 95)  # percentiles that a group's spread is told by

# Whose weights were measured: set of the reference table → published row. Only sets whose source names the weights;
# the EfficientNets, Keras and Inception sets could be of several, and finetuned checkpoints have no row.
_CLIP_B32 = ("open_clip", "ViT-B-32", "openai")
MEASURED: dict[str, tuple[str, str, str]] = {
    "chia_b32_flickr8k": _CLIP_B32,
    "cards_b32": _CLIP_B32,
    "watches_b32": _CLIP_B32,
    "imas_imagenet_b32": _CLIP_B32,
    "clipv_caltech_rn50": ("open_clip", "RN50", "openai"),
    "mygraph_fgvc_rn50": ("open_clip", "RN50", "openai"),
    "ik_clip_l14_openai": ("open_clip", "ViT-L-14", "openai"),
    "ik_siglip_so400m_14_384": ("open_clip", "ViT-SO400M-14-SigLIP-384", "webli"),
    "ashirvad_openclip_b32_laion2b": ("open_clip", "ViT-B-32", "laion2b_s34b_b79k"),
    "mahlet_openclip_l14_laion2b": ("open_clip", "ViT-L-14", "laion2b_s32b_b82k"),
    "ik_openclip_bigG_laion2b": ("open_clip", "ViT-bigG-14", "laion2b_s39b_b160k"),
    "michaengeser_b32_drawings": _CLIP_B32,
    "physicist_b16_pathmnist": ("open_clip", "ViT-B-16", "openai"),
    "shoezap_b16_shoes": ("open_clip", "ViT-B-16", "openai"),
    "fairouz_openclip_b32_laion2b": ("open_clip", "ViT-B-32", "laion2b_s34b_b79k"),
    "shopthelook_openclip_b32_laion2b": ("open_clip", "ViT-B-32", "laion2b_s34b_b79k"),
    "shopthelook_openclip_l14_laion2b": ("open_clip", "ViT-L-14", "laion2b_s32b_b82k"),
    "satsight_openclip_h14_laion2b": ("open_clip", "ViT-H-14", "laion2b_s32b_b79k"),
    "imiz_openclip_h14_laion2b": ("open_clip", "ViT-H-14", "laion2b_s32b_b79k"),
    "oilpaint_openclip_h14_laion2b": ("open_clip", "ViT-H-14", "laion2b_s32b_b79k"),
    "hypergallery_swinv2_l": ("timm", "swinv2_large_window12to24_192to384", "ms_in22k_ft_in1k"),
    "brkfst_resnet50_v1": ("timm", "resnet50", "tv_in1k"),  # torchvision's IMAGENET1K_V1
    "nasir_resnet50_v1": ("timm", "resnet50", "tv_in1k"),
    "cbir_resnet50_v2": ("timm", "resnet50", "tv2_in1k"),  # torchvision's IMAGENET1K_V2
    "densenet121_histo": ("timm", "densenet121", "tv_in1k"),
    "aavc_vgg16": ("timm", "vgg16", "tv_in1k"),
}


class Published(NamedTuple):
    """A row of published accuracies, with the effective robustness that follows."""

    library: str
    """open_clip, timm or testbed (imagenet-testbed)"""
    model: str
    weights: str
    """pretrained tag; empty in testbed, whose names say it all"""
    group: str
    image_size_px: int | None
    """edge length it was evaluated at, where the source says so"""
    accuracy: Mapping[str, float]
    """IMAGENET and those of SHIFTS that were published: top-1, fractions"""
    effective_robustness_pp: Mapping[str, float]
    """of those of SHIFTS that were published, percentage points"""
    extrapolated: frozenset[str]
    """those of SHIFTS for which the ImageNet accuracy is outside the baseline's range"""
    mean_pp: float | None
    """mean effective robustness over MEAN_SHIFTS, percentage points; None unless all four were published"""
    source: str
    """repository@commit:path"""

    @property
    def name(self) -> str:
        """Return the checkpoint's name as its library writes it: model/weights, or model.weights for timm."""
        separator = "/" if self.library == "open_clip" else "."
        return f"{self.model}{separator}{self.weights}" if self.weights else self.model


class Spread(NamedTuple):
    """The mean effective robustness over a group's models, percentage points."""

    n: int
    median: float
    low: float
    """5th percentile"""
    high: float
    """95th percentile"""


def sources() -> dict[str, dict[str, str | int]]:
    """Return of each library the source (repository@commit:path), the repository's licence and the number of rows."""
    return _data("published_sources.json")


def _data(name: str) -> Fields:
    content: Fields = json.loads((DATA / name).read_text(encoding="utf-8"))
    return content


@cache
def baselines_of(source: str) -> Mapping[str, BaselineFit]:
    """Return the baseline of each shift, fitted on a source's models (`studies/build_published.py`)."""
    fitted = _data("published_baselines.json")
    return MappingProxyType({shift: BaselineFit(**fitted[library_of(source, shift)][shift]) for shift in SHIFTS})


@cache
def published() -> tuple[Published, ...]:
    """Return all published rows in order of sources, with their effective robustness."""
    rows = [row for library in LIBRARIES for row in _read(library)]
    points: list[dict[str, float]] = [{} for _ in rows]
    beyond: list[set[str]] = [set() for _ in rows]
    for shift in SHIFTS:
        indices = [i for i, row in enumerate(rows) if row.accuracy.keys() >= {IMAGENET, shift}]
        inside = [rows[i].accuracy[IMAGENET] for i in indices]
        shifted = [rows[i].accuracy[shift] for i in indices]
        result = effective_robustness(inside, shifted, baselines_of("timm")[shift])
        for i, value, is_outside in zip(indices, result.points.tolist(), result.extrapolated.tolist(), strict=True):
            points[i][shift] = value
            if is_outside:
                beyond[i].add(shift)
    return tuple(
        row._replace(effective_robustness_pp=er, extrapolated=frozenset(shifts), mean_pp=_mean(er))
        for row, er, shifts in zip(rows, points, beyond, strict=True)
    )


def find(library: str, name: str, weights: str) -> tuple[Published, ...]:
    """Return the published rows of the checkpoint that a contract's source names, none unless the match is certain.

    open_clip: model name and pretrained tag, or the hub repository that open_clip itself loads a tag from.
    timm: name with tag; one row an image size. torchvision: the entries whose weights timm downloads from torchvision.
    transformers: OpenAI's and LAION's own repositories of CLIP checkpoints. Names and tags are compared, in full and in
    their case; the digest of the weights is not (none is published), so a checkpoint file has no row.
    """
    if not weights:
        return ()  # random weights
    if library == "timm":
        model, _, tag = name.removeprefix("hf-hub:timm/").partition(".")
        if weights not in {tag, name} and tag:
            return ()  # the name of one checkpoint, the weights of a file
        return _keyed().get((library, model, tag or weights), ())
    if library == "open_clip" and (rows := _keyed().get((library, name, weights))):
        return rows
    aliases = _aliases()
    target = aliases.get((library, name, weights)) or aliases.get((library, name, ""))
    return _keyed()[target] if target else ()


def nearest(name: str, n: int = 3) -> list[str]:
    """Return the published checkpoints with the nearest names as `library:name`, best first."""
    by_lower = {row.name.lower(): f"{row.library}:{row.name}" for row in published()}
    near = difflib.get_close_matches(name.lower(), by_lower, n)
    return [by_lower[each] for each in near]


def context_for(
    library: str,
    name: str,
    weights: str,
    *,
    random_weights: bool = False,
    synthetic: str = "",
    image_size_px: int | None = None,
) -> Context | None:
    """Return the published facts about a contract's checkpoint, which the report shows.

    image_size_px: edge of the model's input; of rows at several sizes the one at this size counts, else the one with
    the highest ImageNet accuracy. The sentence says the size. None for an unknown, random or synthetic model, and where
    no shift was published.
    """
    rows = () if random_weights or synthetic else find(library, name, weights)
    rows = tuple(row for row in rows if row.effective_robustness_pp)
    if not rows:
        return None
    row = max(rows, key=lambda r: (r.image_size_px == image_size_px, r.accuracy[IMAGENET]))
    return Context(
        library=row.library,
        model=row.model,
        weights=row.weights,
        image_size_px=row.image_size_px,
        effective_robustness_pp={s: round(er, DECIMALS) for s, er in row.effective_robustness_pp.items()},
        mean_pp=None if row.mean_pp is None else round(row.mean_pp, DECIMALS),
        extrapolated=bool(row.extrapolated),
        source=row.source,
        sentence=_sentence(row),
    )


def _sentence(row: Published) -> str:
    where = f" at {row.image_size_px} px" if row.image_size_px else ""
    shown: Iterable[str] = MEAN_SHIFTS
    if row.mean_pp is None:
        shown = row.effective_robustness_pp
        values = ", ".join(f"{SHIFT_WORDS[s]} {value:+.1f}" for s, value in row.effective_robustness_pp.items())
        points = f"{values} points; no average, since not all of {_words(MEAN_SHIFTS)} were published"
    else:
        points = f"{row.mean_pp:+.1f} points on average over {_words(MEAN_SHIFTS)}"
    if beyond := [shift for shift in shown if shift in row.extrapolated]:
        accuracy = PERCENTAGE_POINTS * row.accuracy[IMAGENET]
        points += f" (extrapolated for {_words(beyond)}: no baseline at {accuracy:.1f} % on ImageNet)"
    usual = usual_robustness("timm", MEAN_SHIFTS)
    return (
        f"published effective robustness of {row.name} ({row.library}{where}): {points}; models trained on ImageNet-1k "
        f"only have {usual.low:+.1f} to {usual.high:+.1f} on average ({MIDDLE[0]}–{MIDDLE[1]} %). Source: {row.source}"
    )


def _words(shifts: Iterable[str]) -> str:
    return ", ".join(SHIFT_WORDS[shift] for shift in shifts)


def _mean(points: Mapping[str, float]) -> float | None:
    if not points.keys() >= set(MEAN_SHIFTS):
        return None
    return sum(points[shift] for shift in MEAN_SHIFTS) / len(MEAN_SHIFTS)


@cache
def _keyed() -> Mapping[Texts, tuple[Published, ...]]:
    by_key: dict[Texts, tuple[Published, ...]] = {}
    for row in published():
        key = row.library, row.model, row.weights
        by_key[key] = (*by_key.get(key, ()), row)
    return by_key


@cache
def _aliases() -> Mapping[Texts, Texts]:
    """Return the (library, model, weights) of the row for each (library, name, weights) of a source.

    A source has no weights where its name brings them.
    """
    with (DATA / "published_aliases.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {tuple(row[:3]): tuple(row[3:]) for row in rows}


@cache
def _read(library: str) -> list[Published]:
    source = str(sources()[library]["source"])
    with (DATA / f"published_{library}.csv").open(encoding="utf-8", newline="") as file:
        return [
            Published(
                library=library,
                model=row["model"],
                weights=row["weights"],
                group=row["group"],
                image_size_px=int(row["image_size_px"]) if row["image_size_px"] else None,
                accuracy={name: float(row[name]) for name in (IMAGENET, *SHIFTS) if row[name]},
                effective_robustness_pp={},
                extrapolated=frozenset(),
                mean_pp=None,
                source=source,
            )
            for row in csv.DictReader(file)
        ]


def library_of(source: str, shift: str) -> str:
    """Return the library for the baseline of a shift: timm publishes no ObjectNet accuracies."""
    return "testbed" if shift == "objectnet" else source


@cache
def usual_robustness(source: str, shifts: Texts) -> Spread:
    """Return the spread over ordinary models of their mean effective robustness over `shifts`.

    Models of LOWEST_ACCURACY on ImageNet or more that have all of `shifts`; median and 5–95 %, percentage points.
    Raises ValueError when there is no such model.
    """
    ordinary = ordinary_models(library_of(source, shifts[0]), shifts[0])
    complete = [row.accuracy for row in ordinary if row.accuracy.keys() >= set(shifts)]
    models = [accuracy for accuracy in complete if accuracy[IMAGENET] >= LOWEST_ACCURACY]
    if not models:
        raise ValueError(f"shifts are {', '.join(shifts)}; no model of {source} has all of them")
    lines = baselines_of(source)
    inside = [accuracy[IMAGENET] for accuracy in models]
    points = [effective_robustness(inside, [accuracy[s] for accuracy in models], lines[s]).points for s in shifts]
    means = np.mean(points, axis=0)
    percentiles = (MIDDLE[0], 50, MIDDLE[1])
    low, median, high = np.percentile(means, percentiles).tolist()
    return Spread(len(means), median, low, high)


def ordinary_models(library: str, shift: str) -> list[Published]:
    """Return the models without effective robustness that a baseline is fitted on.

    timm: models trained on ImageNet-1k only. imagenet-testbed: its standard models from 55 % ImageNet top-1, less the
    retrained copies that its own line fits leave out ("aws", "batch64" in the name), and less those with an accuracy of
    0: it has no logit (ImageNet-A was made of images that ResNet-50 gets wrong).
    """
    rows = [row for row in _read(library) if {IMAGENET, shift} <= row.accuracy.keys()]
    if library == "timm":
        return [row for row in rows if row.group == "in1k_only"]
    standard = [row for row in rows if row.group == "standard"]
    fitted = [row for row in standard if "aws" not in row.model and "batch64" not in row.model]
    return [row for row in fitted if row.accuracy[IMAGENET] >= LOWEST_ACCURACY and row.accuracy[shift] > 0]
