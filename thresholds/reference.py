"""The reference table: measured statistics of real checkpoints, with the source of each."""

from __future__ import annotations

import csv
import hashlib
import io
from typing import NamedTuple

from . import DATA
from .profile import STATISTICS

TABLE = "reference_statistics.csv"
MEASURED_ON = "2026-11-24"  # UTC day on which the table was last measured; a test holds it together with its digest


class Reference(NamedTuple):
    """Statistics of one set of real representations (a checkpoint on some images)."""

    set: str
    group: str
    checkpoint: str
    n: int
    d: int
    kurtosis: float
    persistence_ratio: float
    top3_share: float
    outlier_frequency: float
    negative_energy: float
    negative_z_energy: float
    persistent_outlier_features: str
    expected: str
    """present | absent: whether the set shows outlier features; verdict expected PASS | WARN"""
    excluded: str
    """why the set takes no part in fitting thresholds; empty if it does"""
    low: dict[str, float]
    """smallest value of each statistic over random subsets of 50 images (the set's own where it is smaller)"""
    high: dict[str, float]
    source: str


def table_text() -> str:
    """The reference table as it ships (CSV text)."""
    return (DATA / TABLE).read_text(encoding="utf-8")


def table_digest(text: str) -> str:
    """`sha256:` over the table's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def references(text: str | None = None) -> tuple[Reference, ...]:
    """Read the reference table (columns: docs/data.md).

    Args:
        text: CSV text; None = the table that ships with the package.
    """
    rows = csv.DictReader(io.StringIO(table_text() if text is None else text))
    return tuple(
        Reference(
            set=row["set"],
            group=row["group"],
            checkpoint=row["checkpoint"],
            n=int(row["n"]),
            d=int(row["d"]),
            **{name: float(row[name]) for name in STATISTICS},
            persistent_outlier_features=row["persistent_outlier_features"],
            expected=row["expected"],
            excluded=row["excluded"],
            low={name: float(row[f"{name}_low"]) for name in STATISTICS},
            high={name: float(row[f"{name}_high"]) for name in STATISTICS},
            source=row["source"],
        )
        for row in rows
    )
