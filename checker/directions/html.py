"""Write `robustcheck directions` as an HTML page.

Frame, style and rules are those of a check's page; both curves are drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustcheck_onnx.checker.report.html import page
from robustcheck_onnx.checker.text import percent_text

from .records import Analysis, DirectionsReport
from .terminal import outliers_text

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, TOP, BASE = 420.0, 20.0, 190.0
"""of a picture, px: its width, where 100 % and where 0 % is"""
GRID = (0, 25, 50, 75, 100)  # percent that have a line
SHAPES = {"importance": "range", "singular value": "mark", "random": "threshold"}
"""how the line of each order is drawn: in colour, in ink, dashed"""
SPECTRUM_POINTS = 51  # of the curve of the importance


class Segment(NamedTuple):
    """A straight piece of a line."""

    x1: float
    y1: float
    x2: float
    y2: float


class Line(NamedTuple):
    """One curve."""

    name: str
    shape: str
    """its class in the style sheet"""
    segments: tuple[Segment, ...]
    whiskers: tuple[Segment, ...]
    """intervals, upright"""
    text: str
    """every point in words"""


def x_of(percent: float) -> float:
    """Where a share of the directions is, px."""
    return WIDTH * percent / 100


def y_of(share: float) -> float:
    """Where a share 0–1 is, px."""
    return BASE - (BASE - TOP) * share


def _joined(points: Sequence[tuple[float, float]]) -> tuple[Segment, ...]:
    return tuple(Segment(*a, *b) for a, b in itertools.pairwise(points))


def pruning_lines(analysis: Analysis) -> tuple[Line, ...]:
    """Draw the share of the same predictions. It is over the share of the directions kept, one line per order."""
    lines = []
    for curve in analysis.curves:
        rising = curve.points[::-1]
        points = [(x_of(point.percent), y_of(point.same.value)) for point in rising]
        whiskers = [Segment(x_of(p.percent), y_of(p.same.low), x_of(p.percent), y_of(p.same.high)) for p in rising]
        text = "; ".join(f"{point.percent} % keep {percent_text(point.same.value)}" for point in rising)
        shown = tuple(whiskers) if curve.order == "importance" else ()
        lines.append(Line(f"by {curve.order}", SHAPES[curve.order], _joined(points), shown, text))
    return tuple(lines)


def importance_line(name: str, shape: str, analysis: Analysis) -> Line:
    """Draw the cumulated importance of the directions. The most important come first."""
    held = np.cumsum(np.sort(analysis.importances)[::-1]) / np.sum(analysis.importances)
    held = np.minimum(np.concatenate([[0.0], held]), 1.0)
    at = np.unique(np.linspace(0, analysis.n_directions, SPECTRUM_POINTS).round().astype(int))
    points = [(x_of(100 * k / analysis.n_directions), y_of(float(held[k]))) for k in at]
    words = [f"{k} hold {percent_text(float(held[k]))}" for k in at[1 :: max(1, len(at) // 5)]]
    return Line(name, shape, _joined(points), (), "; ".join(words))


def render(report: DirectionsReport) -> str:
    """Write one self-contained page. It ends in a newline."""
    spectrum = (
        importance_line("raw", "range", report.raw),
        importance_line("class mean removed", "threshold", report.centred),
    )
    return page.written(
        "directions.html.j2",
        TEMPLATES,
        title=f"directions: {report.model.file}",
        versions=[report.tool_version],
        report=report,
        pruning=pruning_lines(report.raw),
        spectrum=spectrum,
        outliers=outliers_text(report.outliers),
        grid=[(y_of(percent / 100), f"{percent} %") for percent in GRID],
        ticks=[(x_of(percent), f"{percent} %") for percent in GRID],
        width=WIDTH,
        base=BASE,
    )
