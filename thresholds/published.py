"""Published accuracies of known models, and the effective robustness that follows from them: context, no evidence.

Columns and sources: docs/published.md. Nothing here was measured by robustcheck, and nothing here decides a verdict.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from . import DATA
from .context import Context
from .effective_robustness import LOWEST_ACCURACY, PERCENTAGE_POINTS, Baseline, effective_robustness, fit_baseline

IMAGENET = "imagenet1k"
SHIFTS = ("imagenetv2", "sketch", "imagenet_r", "imagenet_a", "objectnet")
MEAN_SHIFTS = SHIFTS[:4]  # timm publishes no ObjectNet accuracies
SHIFT_WORDS = {"imagenetv2": "V2", "sketch": "Sketch", "imagenet_r": "R", "imagenet_a": "A", "objectnet": "ObjectNet"}
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
    """One row of published accuracies, with the effective robustness that follows."""

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
        """The name of the checkpoint: model/weights for open_clip, model.weights for timm, as these write it."""
        separator = {"open_clip": "/", "timm": "."}.get(self.library, " ")
        return f"{self.model}{separator}{self.weights}" if self.weights else self.model


class Spread(NamedTuple):
    """Mean effective robustness over the models of a group, percentage points."""

    n: int
    median: float
    low: float
    """5th percentile"""
    high: float
    """95th percentile"""


def sources() -> dict[str, dict[str, str | int]]:
    """Per library: source (repository@commit:path), licence of the repository, number of rows."""
    found: dict[str, dict[str, str | int]] = json.loads((DATA / "published_sources.json").read_text(encoding="utf-8"))
    return found


@cache
def baselines() -> Mapping[str, Baseline]:
    """The baseline of each of SHIFTS, fitted on the published accuracies.

    V2, Sketch, R, A: timm's models trained on ImageNet-1k only. ObjectNet: imagenet-testbed's standard models from
    55 % ImageNet top-1, less the retrained copies that its own line fits leave out ("aws", "batch64" in the name).
    """
    timm = [row for row in _read("timm") if row.group == "in1k_only"]
    testbed = [row for row in _read("testbed") if is_standard(row)]
    return MappingProxyType({s: baseline_on(testbed if s == "objectnet" else timm, s) for s in SHIFTS})


@cache
def published() -> tuple[Published, ...]:
    """All published rows with their effective robustness, in the order of the sources."""
    rows = [row for library in LIBRARIES for row in _read(library)]
    points: list[dict[str, float]] = [{} for _ in rows]
    beyond: list[set[str]] = [set() for _ in rows]
    for shift in SHIFTS:
        known = [i for i, row in enumerate(rows) if IMAGENET in row.accuracy and shift in row.accuracy]
        x, y = ([rows[i].accuracy[name] for i in known] for name in (IMAGENET, shift))
        found = effective_robustness(x, y, baselines()[shift])
        for i, value, outside in zip(known, found.points.tolist(), found.extrapolated.tolist(), strict=True):
            points[i][shift] = value
            if outside:
                beyond[i].add(shift)
    return tuple(
        row._replace(effective_robustness_pp=er, extrapolated=frozenset(out), mean_pp=_mean(er))
        for row, er, out in zip(rows, points, beyond, strict=True)
    )


def find(library: str, name: str, weights: str) -> tuple[Published, ...]:
    """The rows of the checkpoint that a contract's source names; none unless the match is certain.

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
    target = _aliases().get((library, name, weights)) or _aliases().get((library, name, ""))
    return _keyed()[target] if target else ()


def nearest(name: str, n: int = 3) -> list[str]:
    """The published checkpoints whose names are most like `name`, as `library:name`, best first; maybe none."""
    by_lower = {row.name.lower(): f"{row.library}:{row.name}" for row in published()}
    return [by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, n)]


def spread(group: str, library: str) -> Spread:
    """Median and 5–95 % of the mean effective robustness over a group's models of 55 % ImageNet top-1 or more.

    Raises ValueError when the group has no such model.
    """
    values = [
        row.mean_pp
        for row in published()
        if (row.group, row.library) == (group, library)
        and row.mean_pp is not None
        and row.accuracy[IMAGENET] >= LOWEST_ACCURACY
    ]
    if not values:
        raise ValueError(f"group is {group} of {library}; it has no model with a mean effective robustness")
    return spread_of(values)


def spread_of(values: Sequence[float]) -> Spread:
    """Median and 5–95 % of some models' mean effective robustness, percentage points; at least one model."""
    low, high = np.percentile(values, MIDDLE)
    return Spread(len(values), float(np.median(values)), float(low), float(high))


def context_for(
    library: str,
    name: str,
    weights: str,
    *,
    random_weights: bool = False,
    synthetic: str = "",
    image_size_px: int | None = None,
) -> Context | None:
    """What is published about the checkpoint of a contract's source, for the report: it never decides.

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
    shown = MEAN_SHIFTS if row.mean_pp is not None else tuple(row.effective_robustness_pp)
    if row.mean_pp is None:
        values = ", ".join(f"{SHIFT_WORDS[s]} {value:+.1f}" for s, value in row.effective_robustness_pp.items())
        what = f"{values} points; no average, since not all of {_words(MEAN_SHIFTS)} were published"
    else:
        what = f"{row.mean_pp:+.1f} points on average over {_words(MEAN_SHIFTS)}"
    if beyond := [shift for shift in shown if shift in row.extrapolated]:
        accuracy = PERCENTAGE_POINTS * row.accuracy[IMAGENET]
        what += f" (extrapolated for {_words(beyond)}: no baseline at {accuracy:.1f} % on ImageNet)"
    usual = spread("in1k_only", "timm")
    return (
        f"published effective robustness of {row.name} ({row.library}{where}): {what}; models trained on ImageNet-1k "
        f"only have {usual.low:+.1f} to {usual.high:+.1f} on average ({MIDDLE[0]}–{MIDDLE[1]} %). Source: {row.source}"
    )


def _words(shifts: Iterable[str]) -> str:
    return ", ".join(SHIFT_WORDS[shift] for shift in shifts)


def _mean(points: Mapping[str, float]) -> float | None:
    values = [points[shift] for shift in MEAN_SHIFTS if shift in points]
    return sum(values) / len(values) if len(values) == len(MEAN_SHIFTS) else None


def is_standard(row: Published) -> bool:
    """Whether a row of imagenet-testbed is one that its own baselines are fitted on (see `baselines`)."""
    retrained = "aws" in row.model or "batch64" in row.model
    return row.group == "standard" and not retrained and row.accuracy.get(IMAGENET, 0) >= LOWEST_ACCURACY


def baseline_on(rows: Sequence[Published], shift: str) -> Baseline:
    """The baseline of a shift, fitted on those of the rows that have an accuracy on ImageNet and on the shift."""
    both = [(row.accuracy[IMAGENET], row.accuracy[shift]) for row in rows if {IMAGENET, shift} <= row.accuracy.keys()]
    return fit_baseline(*zip(*both, strict=True))


@cache
def _keyed() -> Mapping[tuple[str, str, str], tuple[Published, ...]]:
    found: dict[tuple[str, str, str], tuple[Published, ...]] = {}
    for row in published():
        key = (row.library, row.model, row.weights)
        found[key] = (*found.get(key, ()), row)
    return found


@cache
def _aliases() -> Mapping[tuple[str, str, str], tuple[str, str, str]]:
    """(library, name, weights) → (library, model, weights) of a row; no weights = the name brings its own."""
    with (DATA / "published_aliases.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["library"], row["name"], row["weights"]): (
                row["published_in"],
                row["published_model"],
                row["published_weights"],
            )
            for row in csv.DictReader(file)
        }


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
