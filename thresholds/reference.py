"""The reference table: measured statistics of real checkpoints, each with its source; and traps that must not pass."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import DATA
from .indication import LEAST, on_either_side
from .profile import ENERGIES, STATISTICS, Statistic

TABLE = "reference_statistics.csv"
TRAPS = "traps.csv"
MEASURED_ON = "2026-11-26"  # UTC day on which the table was last measured; a test holds it together with its digest
TRAP = "trap"  # group of a simulated or derived set


class Reference(NamedTuple):
    """Statistics of one set of representations (a checkpoint on some images)."""

    set: str
    group: str
    checkpoint: str
    model: str
    """which weights these are: sets of the same are left out together"""
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
    """present | absent: whether the set shows the indication (`indication.py`); verdict expected PASS | WARN"""
    excluded: str
    """why the set is no evidence for a rate; empty if it is"""
    low: dict[str, float]
    """smallest value of each statistic over random subsets of 50 images (the set's own where it is smaller)"""
    high: dict[str, float]
    source: str
    training: str = ""
    """image_text, supervised, self_supervised or identity, as the source says; empty where it was not asked"""
    ends_in: str = ""
    """what makes the representation (`ends.End`), as the source says; empty where it does not"""
    trap: bool = False
    """no evidence, and must not pass"""

    def estimate(self, name: Statistic) -> float:
        """The estimate of one statistic, as limits see it (`indication.on_either_side`)."""
        return on_either_side(name, float(getattr(self, name)))

    def least(self, name: Statistic) -> float:
        """The smallest that 50 images showed of it."""
        if name not in ENERGIES:
            return self.low[name]
        return min(on_either_side(name, self.low[name]), on_either_side(name, self.high[name]))

    def most(self, name: Statistic) -> float:
        """The largest that 50 images showed of it."""
        if name not in ENERGIES:
            return self.high[name]
        if self.low[name] <= 0.5 <= self.high[name]:
            return 0.5
        return max(on_either_side(name, self.low[name]), on_either_side(name, self.high[name]))


def table_text(name: str = TABLE) -> str:
    """A table as it ships (CSV text): the reference table, or the simulated traps."""
    return (DATA / name).read_text(encoding="utf-8")


def table_digest(text: str) -> str:
    """`sha256:` over the table's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def references(text: str | None = None) -> tuple[Reference, ...]:
    """Read the reference table (columns: docs/data.md).

    Args:
        text: CSV text; None = the table that ships with the package.
    """
    return _rows(table_text() if text is None else text)


def traps(text: str | None = None) -> tuple[Reference, ...]:
    """Read the simulated sets that must not pass; text: CSV, None = those that ship with the package."""
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
            low={name: float(row[f"{name}_low"]) for name in STATISTICS},
            high={name: float(row[f"{name}_high"]) for name in STATISTICS},
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
    """Two traps of every one-sided set: with outlier features of any strength put in, and with a constant added to it.

    The first leaves only the energies to turn it away (they are measured without the three strongest features), the
    second takes the energy about zero from them: an offset moves it at will, and leaves that about the median.
    """
    out = []
    for row in table:
        if row.expected == "present" or min(row.estimate(name) for name in ENERGIES) >= min(LEAST[n] for n in ENERGIES):
            continue
        strong: dict[str, Any] = {name: math.inf for name in STATISTICS if name not in ENERGIES}
        offset: dict[str, Any] = {"negative_energy": 0.5}
        for suffix, moved in (("planted", strong), ("offset", offset)):
            out.append(
                row._replace(
                    set=f"{row.set}, {suffix}",
                    excluded="derived",
                    trap=True,
                    low={**row.low, **moved},
                    high={**row.high, **moved},
                    **moved,
                )
            )
    return tuple(out)
