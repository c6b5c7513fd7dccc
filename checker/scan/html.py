"""Write `robustcheck scan` as an HTML page. Frame, style and rules are those of a check's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustcheck_onnx.checker.report.html import page
from robustcheck_onnx.checker.text import number_text

from .records import Layer, ScanReport
from .terminal import features_through_depth, persistent_text

TEMPLATES = Path(__file__).parent / "templates"
BASE, ROOM = 190.0, 150.0
"""of the picture, px: where the axis is, and the room for the tallest bar above it"""
BAR, NARROWEST, WIDEST = 26.0, 300.0, 720.0
"""px a layer, and the limits of the picture's width: with few layers its words stay readable on a phone"""
TICK = 44.0
"""px between two words below the axis at least"""


class Bar(NamedTuple):
    """The kurtosis of one layer."""

    x: float
    y: float
    width: float
    height: float
    marked: bool
    """the layer has a persistent outlier feature"""
    middle: float
    text: str


class Profile(NamedTuple):
    """Kurtosis through depth."""

    width: float
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    """x and number of the layers that are named below the axis"""
    top: str
    """the largest kurtosis"""


def profile(layers: Sequence[Layer]) -> Profile | None:
    """Draw the kurtosis of each layer from 0 up. None where no layer has one."""
    values = [layer.statistics.kurtosis for layer in layers]
    top = max((value for value in values if value is not None), default=0.0)
    if top <= 0:
        return None
    width = min(max(BAR * len(layers), NARROWEST), WIDEST)
    step = width / len(layers)
    bars = tuple(
        Bar(
            x=index * step + step * 0.1,
            y=BASE - ROOM * (value or 0.0) / top,
            width=step * 0.8,
            height=ROOM * (value or 0.0) / top,
            marked=layer.statistics.has_outliers,
            middle=(index + 0.5) * step,
            text=f"layer {index + 1} ({layer.kind}, {layer.tensor}): kurtosis {number_text(value, missing='unknown')}",
        )
        for index, (layer, value) in enumerate(zip(layers, values, strict=True))
    )
    every, last = math.ceil(TICK / step), len(layers) - 1
    named = [*(index for index in range(0, last, every) if last - index >= every), last]
    ticks = tuple((bars[index].middle, str(index + 1)) for index in named)
    return Profile(width, bars, ticks, number_text(top))


def render(report: ScanReport) -> str:
    """Write one self-contained page. It ends in a newline."""
    measured = [layer.statistics for layer in report.layers]
    return page.written(
        "scan.html.j2",
        TEMPLATES,
        title=f"scan: {report.model.file}",
        versions=[report.tool_version],
        report=report,
        chart=profile(report.layers),
        persistent=[persistent_text(layer.statistics) for layer in report.layers],
        lists=features_through_depth(report),
        n_with=sum(each.has_outliers for each in measured),
        has_class=any(layer.class_token for layer in report.layers),
        n_images=max(each.n_images for each in measured),
    )
