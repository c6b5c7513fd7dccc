"""Features through depth, as lists of text: which feature stands out in which layers; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from robustcheck_onnx.checker.text import percent_text, range_text

from .depth import LayerStatistics, Place
from .records import ScanReport

IN_A_LIST = 8  # features or places named in a list

_ByName = dict[str, list[tuple[int, float, float]]]
"""By the name of a feature, or of a feature at a place: layer number, share of the rows or images, largest value."""


class FeatureList(NamedTuple):
    """The features, or the places, of one kind."""

    title: str
    remark: str
    """what the shares are of, and how many are left out"""
    rows: tuple[tuple[str, str], ...]
    """name, and its layers with their shares; at most IN_A_LIST, those in most layers first"""


def features_through_depth(report: ScanReport) -> tuple[FeatureList, ...]:
    """List features with their layers, tokens and positions: a list for each kind that there is."""
    persistent: _ByName = defaultdict(list)
    of_class_token: _ByName = defaultdict(list)
    fixed: _ByName = defaultdict(list)
    massive: _ByName = defaultdict(list)
    for number, layer in enumerate(report.layers, 1):
        measured = layer.statistics
        for by_name, features in (
            (persistent, measured.persistent),
            (of_class_token, measured.class_token_persistent),
        ):
            for each in features:
                by_name[f"feature {each.feature}"].append((number, each.frequency, 0.0))
        if measured.fixed_outlier is not None:
            outlier = measured.fixed_outlier
            fixed[_place(outlier)].append((number, outlier.frequency, outlier.largest_z))
        for place in measured.massive:
            massive[_place(place)].append((number, place.frequency, place.value))
    lists = []
    for title, remark, by_name, largest in (
        ("Persistent outlier features", "beyond 6 SD, share of the tokens or positions", persistent, ""),
        ("Persistent in class tokens", "beyond 6 SD, share of the images", of_class_token, ""),
        ("Largest |z| at one place", "in at least half of the images", fixed, ", up to {:.3g} SD"),
        ("Massive activations", "share of the images", massive, ", largest value {:.4g}"),
    ):
        if by_name:
            longest = sorted(by_name.items(), key=lambda item: -len(item[1]))[:IN_A_LIST]
            rows = tuple((name, _layers_text(layers, largest)) for name, layers in longest)
            lists.append(FeatureList(title, _more(remark, len(by_name)), rows))
    return tuple(lists)


def _place(place: Place) -> str:
    return f"feature {place.feature}" + (f", {place.where}" if place.where else "")


def _layers_text(layers: Sequence[tuple[int, float, float]], largest: str) -> str:
    """Write the layers, the share of the rows or images, and the largest value."""
    numbers, shares, values = zip(*layers, strict=True)
    return f"{_layers(numbers)}, {_shares(shares)}" + largest.format(max(values, key=abs))


def _more(remark: str, count: int) -> str:
    return f"{remark}; {IN_A_LIST} of {count}, the others in JSON" if count > IN_A_LIST else remark


def _layers(numbers: Sequence[int]) -> str:
    """Write layer numbers with their runs joined: layers 3–10, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    named = ", ".join("–".join(map(str, run)) for run in runs)
    return f"layer {named}" if len(numbers) == 1 else f"layers {named}"


def _shares(shares: Sequence[float]) -> str:
    return range_text(percent_text(min(shares)), percent_text(max(shares)), between=" – ")


def persistent_text(measured: LayerStatistics, named: int = 3) -> str:
    """Write the layer's persistent outlier features, the most frequent first; "–" where there is none."""
    if not measured.n_persistent:
        return "–"
    more = measured.n_persistent - named
    first = ", ".join(str(each.feature) for each in measured.persistent[:named])
    return f"{first} + {more} more" if more > 0 else first
