"""The tables of measured sets that ship with the package.

The reference table has measured statistics of real checkpoints, each with its source. The traps are simulated sets
that must not pass. docs/data.md describes the columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import DATA, Fields
from .statistics import STATISTICS

TABLE = "reference_statistics.csv"
TRAPS = "traps.csv"
MEASURED_ON = "2026-11-28"  # UTC day on which the table was last measured; a test holds it together with its digest
TWO_SIDED = 1 / 3  # a set below it is one-sided
DEFINITION = (
    "strong (its three strongest features make up a kurtosis of 4 or more; ordinary features give about 0.1), "
    "persistent "
    "(the strongest feature is beyond 4 SD on its usual side in at least half of the images) and two-sided (at least a "
    "third of the energy lies on either side of zero, and of each image's median, without the three strongest features)"
)
"""What the label of a reference set means; studies/measure_reference.py gives it."""


class ReferenceSet(NamedTuple):
    """The statistics of the representations that a checkpoint made of some images."""

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
    """present | absent: whether the set shows the indication (`DEFINITION`); verdict expected PASS | WARN"""
    excluded: str
    """why the set is not evidence for a rate; empty if it is"""
    source: str
    training: str = ""
    """image_text, supervised, self_supervised or identity, as the source says; empty where it was not asked"""
    ends_in: str = ""
    """what makes the representation (`profile.End`), as the source says; empty where it does not"""
    trap: bool = False
    """no evidence, and must not pass"""


def table_text(name: str = TABLE) -> str:
    """Return the reference table as CSV text, or the simulated traps."""
    return (DATA / name).read_text(encoding="utf-8")


def table_digest(text: str) -> str:
    """Return the `sha256:` digest of the table's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def references(text: str | None = None) -> tuple[ReferenceSet, ...]:
    """Read the reference table (columns: docs/data.md).

    Args:
        text: CSV text; None = the table that ships with the package.
    """
    return _rows(table_text() if text is None else text)


def traps() -> tuple[ReferenceSet, ...]:
    """Read the simulated sets that must not pass."""
    # whatever its label: one that showed the indication by its estimates would else be no trap, unnoticed
    return tuple(row._replace(trap=True) for row in _rows(table_text(TRAPS)))


def _rows(text: str) -> tuple[ReferenceSet, ...]:
    kinds: dict[str, Callable[[str], Any]] = {"n": int, "d": int, **dict.fromkeys(STATISTICS, float)}
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        row = ReferenceSet(
            **{name: kinds.get(name, str)(value) for name, value in line.items() if name in ReferenceSet._fields}
        )
        rows.append(row._replace(trap=bool(row.excluded) and row.expected == "absent"))
    return tuple(rows)


def derived_traps(table: Sequence[ReferenceSet]) -> tuple[ReferenceSet, ...]:
    """Make two traps of each one-sided set.

    The first has outlier features of any strength, so that only the two-sidedness can turn it away (which is measured
    without the three strongest features). The second has a constant added, which moves its energy about zero at will
    and keeps the energy about the median.
    """
    of_outliers = ("strength", "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")
    strong: Fields = dict.fromkeys(of_outliers, math.inf)
    out = []
    for row in table:
        if row.expected == "present" or row.two_sidedness >= TWO_SIDED:
            continue
        about_median = min(row.negative_z_energy, 1 - row.negative_z_energy)
        trap = row._replace(excluded="derived", trap=True)
        planted = trap._replace(set=f"{row.set}, planted", **strong)
        offset = trap._replace(set=f"{row.set}, offset", negative_energy=0.5, two_sidedness=about_median)
        out += [planted, offset]
    return tuple(out)
