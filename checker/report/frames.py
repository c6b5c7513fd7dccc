"""Make data frames of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ...thresholds.profile import Profile
from ...thresholds.statistics import STATISTICS
from ..core.evidence import Statistics
from ..core.verdict.kinds import NAMES
from ..errors import EnvironmentFaultError
from .numbers import clears

if TYPE_CHECKING:
    import pandas as pd


Row = Mapping[str, str | float | bool | None]
"""one line of a data frame: column, value"""


def check_frame(statistics: Statistics, profile: Profile) -> pd.DataFrame:
    """Return a check's measured statistics. A row has estimate, interval, and threshold where it decides."""
    rows: list[Row] = []
    for name in STATISTICS:
        interval = getattr(statistics, name)
        minimum = profile.minimum_of(name) if name in profile.deciding else None
        rows.append(
            {
                "statistic": name,
                "name": NAMES[name],
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "minimum": minimum,
                "clears": None if minimum is None else clears(interval, minimum),
            }
        )
    return frame(rows, "statistic")


def frame(rows: Sequence[Row], index: str) -> pd.DataFrame:
    """Make a data frame of rows.

    Args:
        rows: all with the same columns.
        index: the column that names the rows.

    Raises:
        EnvironmentFaultError: pandas is not installed.
    """
    pandas = library("pandas", "a data frame needs it", "pip install pandas")
    data: pd.DataFrame = pandas.DataFrame(list(rows)).set_index(index)
    return data


def library(name: str, why: str, hint: str) -> ModuleType:
    """Import a library that is installed with an extra. why: it is needed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as fault:
        package = name.partition(".")[0]
        raise EnvironmentFaultError(f"package {package} is not installed; {why}", hint) from fault
