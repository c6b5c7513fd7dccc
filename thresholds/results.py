"""The results table of a calibration: one JSON line per model and tensor, with everything that influences the numbers.

A line is written whole and flushed before the next model starts; a last line without its end is what an interruption
left, and is not read. docs/calibration.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from . import Fields, Texts, read_bytes
from .ends import End
from .records import Frozen, HintedError, first_fault, refuse_version
from .statistics import DECIDING, STATISTICS, Statistic
from .tables import ReferenceSet

SCHEMA_VERSION = 1
SIGNIFICANT_DIGITS = 6  # of a measured number: far below its uncertainty, far above the order of summing
ALIKE_SPREAD = 0.2  # below it a check gives WARN whatever the statistics say (checker/core/verdict/rule.py)
TENSORS = ("representation", "pooled")  # that a contract may have, in order of preference
MIN_IMAGES = 50  # varied images below which a row takes no part in a fit
LARGEST_BYTES = 1 << 24  # of a table; a row has some KB
NO_SHARES = ("strength", "kurtosis", "persistence_ratio")  # statistics that may exceed 1
ALIKE = (
    ("statistic_version", "statistic version", "measure the older ones again: their table is stale"),
    ("alpha", "error rate of the bounds", "measure them with one version of robustcheck"),
    ("images_digest", "image set", "a fit needs all models on one image set; leave out a table"),
)
"""Fields that all rows of a fit share, each in words, and what to do where they differ."""
NOT_CONTENT = (
    "date",
    "wall_s",
    "execution",
    "suite",
    "suite_digest",
    "file",
    "key",
    "batch_difference",
    "output_difference",
)
"""Fields that may differ between runs that measured the same."""


class ResultsError(HintedError):
    """A results table that cannot be used."""


class BoundedStatistic(Frozen):
    """A statistic with the verdict's confidence bounds. None = it could not be measured."""

    estimate: float | None
    low: float | None
    high: float | None

    @model_validator(mode="after")
    def _bounds_hold_the_estimate(self) -> Self:
        values = [value for value in (0, self.low, self.estimate, self.high) if value is not None]
        if values != sorted(values):
            raise ValueError(f"low {self.low}, estimate {self.estimate}, high {self.high}: must rise from 0 or more")
        return self


class Result(Frozen):
    """A row: one model's tensor on an image set."""

    schema_version: Literal[1] = 1
    id: str
    """of the suite entry"""
    tensor: str
    """representation or pooled"""
    tensors: Texts
    """all that were measured in one pass with this one"""
    checkpoint: str
    group: str
    label: Literal["present", "absent", "unlabelled"]
    hard_case: bool
    effective_robustness_pp: float | None
    """mean over V2, Sketch, R and A, published or measured; None = not known"""
    suite: str
    suite_digest: str
    key: str
    """sha256 over everything that influences the measurement and was known before it; the same key, no new run"""
    file: str
    """name of the ONNX file"""
    size_bytes: int
    """of the graph and its weights"""
    model_digest: str
    external_digests: dict[str, str]
    source: str
    """what the contract says the model is"""
    export: Fields
    """everything that influenced the export; empty for a ready ONNX file"""
    random_weights: bool | None
    synthetic: str
    graph_tensor: str
    """name in the graph"""
    rule: str
    pool: str
    ends_in: End
    n_features: int
    batch_difference: float | None
    output_difference: float | None
    preprocessing: Fields
    preprocessing_source: str
    images_digest: str
    n_images: int
    n_varied: int
    n_skipped: int
    image_findings: Texts
    seed: int
    statistic_version: int
    alpha: float
    n_nonfinite: int
    n_constant: int
    statistics: dict[Statistic, BoundedStatistic]
    context: dict[str, float | None]
    """statistics that decide nothing"""
    persistent: tuple[int, ...]
    """persistent outlier features, strongest first"""
    versions: dict[str, str]
    execution: Fields
    date: str
    """UTC day of the measurement"""
    wall_s: float

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        for name, value in self.statistics.items():
            if name not in NO_SHARES and (value.high or 0) > 1:
                raise ValueError(f"statistics.{name} is {value.high:g}; a share is at most 1")
        return self


def rounded(value: float | None) -> float | None:
    """Round a number to a table's digits.

    >>> rounded(17.0312345678), rounded(None)
    (17.0312, None)
    """
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def to_line(result: Result) -> str:
    """Return the row as a line of JSON with its line feed."""
    text = json.dumps(result.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def read(path: Path) -> list[Result]:
    """Read the rows of one table in order, without a torn last line.

    Raises:
        ResultsError: not readable, a line that is not a row, or of a newer schema.
    """
    try:
        text = read_bytes(path, LARGEST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", fault)
        raise ResultsError(f"{path}: results table cannot be read ({why}); JSON lines") from fault
    lines = text.split("\n")
    torn = lines.pop()
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if torn.strip() and not rows:
        rows.append(_row(path, len(lines) + 1, torn))  # a file of one line without its end, made by hand
    return rows


def _row(path: Path, number: int, line: str) -> Result:
    where = f"{path}: line {number}"
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise ResultsError(
            f"{where}: row is not JSON ({fault}); one row per line is needed", f"sed -i {number}d {path}"
        ) from fault
    refuse_version(raw, SCHEMA_VERSION, where, ResultsError, "give a table that `robustcheck calibrate` wrote")
    try:
        result = Result.model_validate(raw)
    except ValidationError as fault:
        raise ResultsError(f"{where}: {first_fault(fault)}") from fault
    if missing := [name for name in STATISTICS if name not in result.statistics]:
        raise ResultsError(f"{where}: statistics lack {', '.join(missing)}", "measure the model again")
    return result


def joined(tables: Sequence[tuple[Path, Sequence[Result]]]) -> tuple[Result, ...]:
    """Join the rows of several tables, sorted by id and tensor; rows that are the same count once.

    Raises:
        ResultsError: no row at all; one model and tensor with other numbers; other statistic versions, confidence
            levels or image sets, which are not comparable.
    """
    merged: dict[tuple[str, str], tuple[Path, Result]] = {}
    for path, rows in tables:
        for row in rows:
            other_path, other = merged.setdefault((row.id, row.tensor), (path, row))
            if content(other) != content(row):
                raise ResultsError(
                    f"{path}: {row.id}, {row.tensor}: row differs from the one in {other_path}; "
                    "one model and tensor has one measurement",
                    "leave out a table, or remove one of the two lines",
                )
    where = ", ".join(str(path) for path, _ in tables)
    if not merged:
        raise ResultsError(f"{where}: no rows found; a fit needs measured models", "robustcheck calibrate --help")
    joined_rows = [row for _, (_, row) in sorted(merged.items())]
    _require_one_kind(joined_rows, where)
    return tuple(joined_rows)


def _require_one_kind(rows: Sequence[Result], where: str) -> None:
    """Refuse rows that were not measured in one way on one image set."""
    first = rows[0]
    for field, words, hint in ALIKE:
        value = getattr(first, field)
        for row in rows:
            other = getattr(row, field)
            if other != value:
                raise ResultsError(
                    f"{where}: {words} of {row.id} is {other}, of {first.id} {value}; only rows of one kind can be "
                    "compared",
                    hint,
                )


def content(result: Result) -> Fields:
    """Return a row's measurement and its subject, without when, where and for which suite."""
    return result.model_dump(mode="json", exclude=set(NOT_CONTENT))


def digest_of(rows: Iterable[Result]) -> str:
    """Return the `sha256:` digest of the rows' content, whatever their order and the engine that measured them."""
    texts = sorted(json.dumps(content(row), sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    text = "\n".join(texts)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def excluded(row: Result) -> str:
    """Return why a fit leaves a row out, "" if it takes part."""
    if row.n_nonfinite or row.n_constant:
        return f"{row.n_nonfinite + row.n_constant} representations not finite or constant"
    if unknown := [name for name in DECIDING if None in row.statistics[name].model_dump().values()]:
        return f"not measurable: {', '.join(unknown)}"
    if row.image_findings:
        return f"images: {', '.join(row.image_findings)}"
    varied = min(row.n_varied, row.n_images)
    if varied < MIN_IMAGES:
        return f"{varied} varied images"
    if row.preprocessing_source == "assumed":
        return "preprocessing was assumed"
    if row.label == "present" and (row.context.get("spread") or 0.0) < ALIKE_SPREAD:
        return "representations of all images alike, which never passes"
    return "unlabelled" if row.label == "unlabelled" else ""


def as_references(rows: Iterable[Result]) -> tuple[ReferenceSet, ...]:
    """Return the rows as sets for fitting thresholds.

    A set that can't take part has the reason in `excluded`, and 0 for what could not be measured.
    """
    out = []
    for row in rows:
        estimates: Fields = {name: row.statistics[name].estimate or 0.0 for name in STATISTICS}
        out.append(
            ReferenceSet(
                set=row.id,
                group=row.group,
                checkpoint=row.checkpoint,
                model=row.checkpoint.split(" (")[0],  # without the note on how it was loaded
                n=row.n_images,
                d=row.n_features,
                **estimates,
                persistent_outlier_features=" ".join(map(str, row.persistent)),
                expected=row.label,
                excluded=excluded(row),
                source=row.model_digest,
                ends_in=str(row.ends_in),
            )
        )
    return tuple(out)
