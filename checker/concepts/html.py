"""Write `robustcheck concepts` as an HTML page. Frame, style and rules are those of a check's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustcheck_onnx.checker.report.html import page

from .records import ConceptsReport, ap_text

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, BASE, ROOM = 400.0, 110.0, 90.0
"""of the picture, px: its width, where the axis is, and the room for the tallest bar above it"""


class Bar(NamedTuple):
    """The number of best APs in a bin."""

    x: float
    y: float
    width: float
    height: float
    text: str


def histogram(counts: Sequence[int], edges: Sequence[float]) -> tuple[Bar, ...]:
    """Draw counts from 0 up. Bins lie from AP 0 to 1."""
    top = max(counts) or 1
    step = WIDTH / len(counts)
    return tuple(
        Bar(
            x=index * step + step * 0.1,
            y=BASE - ROOM * count / top,
            width=step * 0.8,
            height=ROOM * count / top,
            text=f"AP {edges[index]:g} to {edges[index + 1]:g}: {count}",
        )
        for index, count in enumerate(counts)
    )


def render(report: ConceptsReport) -> str:
    """Write one self-contained page. It ends in a newline."""
    chance = report.chance
    return page.written(
        "concepts.html.j2",
        TEMPLATES,
        title=f"concepts: {report.model.file}",
        versions=[report.tool_version],
        report=report,
        ap_text=ap_text,
        charts=(
            (
                "shuffled",
                f"Best AP of all concepts in {chance.shuffles} shuffles",
                histogram(chance.shuffled, chance.edges),
            ),
            ("measured", "Best AP of the concepts as they are", histogram(chance.measured, chance.edges)),
        ),
        width=WIDTH,
        n_images=report.images.n_read - report.images.n_skipped,
    )
