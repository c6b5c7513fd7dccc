"""A model among the reference checkpoints: kurtosis against effective robustness, and remarks on it; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from robustcheck_onnx.checker.text import count_text, number_text
from robustcheck_onnx.thresholds import published as tables

from ..record import Placed, Report
from ..words import group_text, widest_kurtosis
from .charts import PublishedCheckpoint, Scatter, scatter


class Suite(NamedTuple):
    """The picture, the checkpoints in it, and the remarks below it."""

    chart: Scatter | None
    checkpoints: tuple[PublishedCheckpoint, ...]
    remarks: tuple[str, ...]


def suite_of(report: Report) -> Suite:
    """Place a report's model among the reference checkpoints of which effective robustness is published."""
    checkpoints, others = _by_checkpoint(report.reference)
    own_pp = report.published.mean_pp if report.published else None
    threshold = report.profile.thresholds["kurtosis"].minimum
    chart = scatter(checkpoints, others, report.evidence.statistics.kurtosis, threshold, own_pp)
    return Suite(chart, checkpoints, _remarks(report, checkpoints, others))


def _by_checkpoint(reference: Sequence[Placed]) -> tuple[tuple[PublishedCheckpoint, ...], tuple[Placed, ...]]:
    """Group the reference sets by checkpoint where effective robustness is published, best first; return the others."""
    rows = {(row.library, row.model, row.weights): row for row in tables.published()}
    sets: dict[tuple[str, str, str], list[Placed]] = {}
    others = []
    for one in reference:
        key = tables.MEASURED.get(one.images)
        row = rows.get(key) if key else None
        if key is None or row is None or row.mean_pp is None:
            others.append(one)
        else:
            sets.setdefault(key, []).append(one)

    def mean(key: tuple[str, str, str]) -> float:
        return rows[key].mean_pp or 0.0

    checkpoints = tuple(
        PublishedCheckpoint(
            number=number,
            checkpoint=rows[key].name,
            group=group_text(sets[key][0].group),
            kurtosis=tuple(sorted(one.kurtosis for one in sets[key])),
            mean_pp=mean(key),
            shows=all(one.shows_outlier_features for one in sets[key]),
        )
        for number, key in enumerate(sorted(sets, key=lambda key: -mean(key)), 1)
    )
    return checkpoints, tuple(others)


def _remarks(report: Report, checkpoints: Sequence[PublishedCheckpoint], others: Sequence[Placed]) -> tuple[str, ...]:
    remarks = []
    if checkpoints:
        groups = sorted({row.group for row in checkpoints})
        one_kind = (
            f" All of them are {groups[0]} models, so the picture cannot show whether kurtosis parts robust from less "
            "robust ones."
        )
        remarks.append(
            f"Both numbers are known of {count_text(len(checkpoints), 'checkpoint')}."
            + (one_kind if len(groups) == 1 else "")
            + f" Of {count_text(len(others), 'reference set')} the average over the four shifts is not "
            "published, or the source does not name the weights: they stand in the strip at the picture's foot."
        )
    if report.published is not None:
        remarks.append(f"{report.published.sentence} Context only: it decides nothing.")
    else:
        remarks.append("Of this model no effective robustness is published here; its line shows the kurtosis only.")
    if widest := widest_kurtosis(report.reference):
        name, least, most = widest
        remarks.append(
            f"Kurtosis moves with the images: {name} reads {number_text(least)} on one set and {number_text(most)} on "
            "another."
        )
    return tuple(remarks)
