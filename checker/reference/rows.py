"""The rows of `robustcheck reference`: published checkpoints joined with measurements of the same weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import short_checkpoint
from robustcheck_onnx.thresholds import published as tables
from robustcheck_onnx.thresholds.published import IMAGENET, SHIFT_WORDS, SHIFTS, Published
from robustcheck_onnx.thresholds.reference import Reference, references


class Row(NamedTuple):
    """A checkpoint's published row and what was measured of the same weights."""

    entry: Published
    """without library and accuracies where there are only measurements"""
    measured: tuple[Reference, ...]


@cache
def reference_rows() -> tuple[Row, ...]:
    """All rows: the published ones in the order of their sources, then the checkpoints that were only measured."""
    sets: dict[tuple[str, str, str], tuple[Reference, ...]] = {}
    for reference in references():
        key = tables.MEASURED.get(reference.set, ("", reference.checkpoint, reference.group))
        sets[key] = (*sets.get(key, ()), reference)
    rows = [Row(entry, sets.get((entry.library, entry.model, entry.weights), ())) for entry in tables.published()]
    measured_only = [Row(_unpublished(of_one[0]), of_one) for key, of_one in sets.items() if not key[0]]
    return (*rows, *measured_only)


def _unpublished(reference: Reference) -> Published:
    return Published(
        library="",
        model=reference.checkpoint,
        weights="",
        group=reference.group,
        image_size_px=None,
        accuracy={},
        effective_robustness_pp={},
        extrapolated=frozenset(),
        mean_pp=None,
        source="",
    )


def select(
    text: str = "", group: str | None = None, sort: str = "mean", *, reverse: bool = False, everything: bool = False
) -> tuple[Row, ...]:
    """Select rows and sort them: names ascending, numbers descending, unknown values last.

    Without a text, a group or `everything`: open_clip's zero-shot models and all measured checkpoints.

    Args:
        text: words that must all occur in library, name, group or measured checkpoint; case does not matter.
        group: rows of this group only.
        sort: a key of SORTS.
        reverse: numbers ascending, names descending; unknown values stay last.
        everything: all rows, not only the default ones.

    Raises:
        UsageError: unknown group or sort column, or no row matches.
    """
    rows = reference_rows()
    groups = sorted({row.entry.group for row in rows})
    if group is not None and group not in groups:
        raise _unknown("--group", group, groups)
    if sort not in SORTS:
        raise _unknown("--sort", sort, list(SORTS))
    words = text.lower().split()
    chosen = [
        row
        for row in rows
        if (group is None or row.entry.group == group)
        and all(word in _searched(row) for word in words)
        and (everything or words or group or row.measured or row.entry.group == "zero_shot_clip")
    ]
    if not chosen:
        where = f" in group {group}" if group else ""
        near = tables.nearest(text, 1)
        raise UsageError(
            f"reference name is {text!r}; none of the {len(rows)} rows{where} has this in its name"
            + (f", closest: {', '.join(tables.nearest(text))}" if near else ""),
            f"robustcheck reference {near[0]}" if near else "robustcheck reference --all",
        )
    key = SORTS[sort]
    known = [row for row in chosen if key(row) is not None]
    descending = isinstance(key(known[0]), float) if known else False
    known.sort(key=key, reverse=descending != reverse)
    return (*known, *(row for row in chosen if key(row) is None))


def named(name: str) -> tuple[Row, ...]:
    """The rows whose name it is: of a checkpoint, of all weights of a model, or of a measured set; may be empty."""
    published, wanted = tables.named(name), name.lower()
    return tuple(
        row
        for row in reference_rows()
        if row.entry in published
        or any(
            wanted in {s.set.lower(), s.checkpoint.lower(), short_checkpoint(s.checkpoint).lower()}
            for s in row.measured
        )
    )


def _unknown(option: str, value: str, valid: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(value, valid, 1)
    message = f"{option} is {value!r}; it must be one of {', '.join(valid)}"
    return UsageError(message, f"{option} {near[0] if near else valid[0]}")


def _searched(row: Row) -> str:
    e = row.entry
    return " ".join((e.library, e.name, e.group, *(f"{s.set} {s.checkpoint}" for s in row.measured))).lower()


def counted(row: Row, statistic: str) -> list[float]:
    """The values of a statistic in those measured sets of a row that thresholds are fitted to; may be empty."""
    return [getattr(s, statistic) for s in row.measured if not s.excluded]


def _largest(statistic: str) -> Callable[[Row], float | None]:
    return lambda row: max(counted(row, statistic), default=None)


def _points(shift: str) -> Callable[[Row], float | None]:
    return lambda row: row.entry.effective_robustness_pp.get(shift)


SORTS: dict[str, Callable[[Row], Any]] = {
    "mean": lambda row: row.entry.mean_pp,
    "model": lambda row: row.entry.name.lower(),
    "weights": lambda row: row.entry.weights.lower() or None,
    "group": lambda row: row.entry.group,
    "library": lambda row: row.entry.library or None,
    "imagenet": lambda row: row.entry.accuracy.get(IMAGENET),
    **{SHIFT_WORDS[shift].lower(): _points(shift) for shift in SHIFTS},
    "kurtosis": _largest("kurtosis"),
    "ratio": _largest("persistence_ratio"),
}
"""By column: the value to sort by; of several measured sets the largest."""
