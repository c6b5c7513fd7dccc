"""Read the reference table and the traps.

The table has measured statistics of real checkpoints, each with its source; traps must not pass.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import DATA
from .profile import STATISTICS

TABLE = "reference_statistics.csv"
TRAPS = "traps.csv"
MEASURED_ON = "2026-11-28"  # UTC day on which the table was last measured; a test holds it together with its digest
TRAP = "trap"  # group of a simulated or derived set
TWO_SIDED = 1 / 3  # a set below it is one-sided


class Reference(NamedTuple):
    """The statistics of one set of representations. A checkpoint made them of some images."""

    set: str
    group: str
    checkpoint: str
    model: str
    """which weights these are: sets of the same are left out together"""
    n: int
    d: int
    strength: float
    kurtosis: float
    persistence_ratio: float
    top3_share: float
    outlier_frequency: float
    negative_energy: float
    negative_z_energy: float
    two_sidedness: float
    persistent_outlier_features: str
    expected: str
    """present | absent: whether the set shows the indication (`indication.py`); verdict expected PASS | WARN"""
    excluded: str
    """why the set is not evidence for a rate; empty if it is"""
    source: str
    training: str = ""
    """image_text, supervised, self_supervised or identity, as the source says; empty where it was not asked"""
    ends_in: str = ""
    """what makes the representation (`ends.End`), as the source says; empty where it does not"""
    trap: bool = False
    """no evidence, and must not pass"""


def table_text(name: str = TABLE) -> str:
    """Return a packaged table as CSV text. It is the reference table, or the simulated traps."""
    return (DATA / name).read_text(encoding="utf-8")


def table_digest(text: str) -> str:
    """Return the `sha256:` digest of the table's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def references(text: str | None = None) -> tuple[Reference, ...]:
    """Read the reference table (columns: docs/data.md).

    Args:
        text: CSV text; None = the table that ships with the package.
    """
    return _rows(table_text() if text is None else text)


def traps(text: str | None = None) -> tuple[Reference, ...]:
    """Read the simulated sets that must not pass. text: CSV, None = those that ship with the package."""
    # whatever its label: one that showed the indication by its estimates would else be no trap, unnoticed
    return tuple(row._replace(trap=True) for row in _rows(table_text(TRAPS) if text is None else text))


def _rows(text: str) -> tuple[Reference, ...]:
    return tuple(
        Reference(
            set=row["set"],
            group=row["group"],
            checkpoint=row["checkpoint"],
            model=row["model"],
            n=int(row["n"]),
            d=int(row["d"]),
            **_floats(row),
            persistent_outlier_features=row["persistent_outlier_features"],
            expected=row["expected"],
            excluded=row["excluded"],
            source=row["source"],
            training=row["training"],
            ends_in=row["ends_in"],
            trap=bool(row["excluded"]) and row["expected"] == "absent",
        )
        for row in csv.DictReader(io.StringIO(text))
    )


def _floats(row: dict[str, str]) -> dict[str, Any]:
    return {name: float(row[name]) for name in STATISTICS}


def derived_traps(table: Sequence[Reference]) -> tuple[Reference, ...]:
    """Make two traps of each one-sided set. One has outlier features of any strength, one an added constant.

    The first leaves only the two-sidedness to turn it away (it is measured without the three strongest features). The
    second has its energy about zero moved at will, and keeps the energy about the median.
    """
    out = []
    for row in table:
        if row.expected == "present" or row.two_sidedness >= TWO_SIDED:
            continue
        strong: dict[str, Any] = dict.fromkeys(
            ("strength", "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency"), math.inf
        )
        about_median = min(row.negative_z_energy, 1 - row.negative_z_energy)
        offset: dict[str, Any] = {"negative_energy": 0.5, "two_sidedness": about_median}
        for suffix, moved in (("planted", strong), ("offset", offset)):
            out.append(row._replace(set=f"{row.set}, {suffix}", excluded="derived", trap=True, **moved))
    return tuple(out)
