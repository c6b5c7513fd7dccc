"""Read and write tables of measured sets.

The reference table has measured statistics of real checkpoints, each with its source; traps must not pass. A results
table of a calibration has one JSON line per model and tensor, with everything that influences the numbers.

A line is written whole and flushed before the next model starts; a last line without its end is what an interruption
left, and is not read. docs/calibration.md describes the fields.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import ValidationError, model_validator

from . import DATA
from .profile import DECIDING, STATISTICS, End, Frozen, HintedError, Statistic, first_fault, refuse_version

TABLE = "reference_statistics.csv"
TRAPS = "traps.csv"
MEASURED_ON = "2026-11-28"  # UTC day on which the table was last measured; a test holds it together with its digest
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
    """present | absent: whether the set shows the indication (`fit.py`); verdict expected PASS | WARN"""
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


def traps() -> tuple[Reference, ...]:
    """Read the simulated sets that must not pass."""
    # whatever its label: one that showed the indication by its estimates would else be no trap, unnoticed
    return tuple(row._replace(trap=True) for row in _rows(table_text(TRAPS)))


def _rows(text: str) -> tuple[Reference, ...]:
    kinds: dict[str, Callable[[str], Any]] = {"n": int, "d": int, **dict.fromkeys(STATISTICS, float)}
    return tuple(
        Reference(
            **{name: kinds.get(name, str)(row[name]) for name in Reference._fields if name != "trap"},
            trap=bool(row["excluded"]) and row["expected"] == "absent",
        )
        for row in csv.DictReader(io.StringIO(text))
    )


def derived_traps(table: Sequence[Reference]) -> tuple[Reference, ...]:
    """Make two traps of each one-sided set. One has outlier features of any strength, one an added constant.

    The first leaves only the two-sidedness to turn it away (it is measured without the three strongest features). The
    second has its energy about zero moved at will, and keeps the energy about the median.
    """
    strong: dict[str, Any] = dict.fromkeys(
        ("strength", "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency"), math.inf
    )
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


SCHEMA_VERSION = 1
SIGNIFICANT_DIGITS = 6  # of a measured number: far below its uncertainty, far above the order of summing
ALIKE_SPREAD = 0.2  # below it a check gives WARN whatever the statistics say (checker/verdict/rule.py)
TENSORS = ("representation", "pooled")  # that a contract may have, in order of preference
MIN_IMAGES = 50  # varied images below which a row takes no part in a fit
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


class Measured(Frozen):
    """A statistic with the verdict's confidence bounds. None = it could not be measured."""

    estimate: float | None
    low: float | None
    high: float | None

    @model_validator(mode="after")
    def _bounds_hold_the_estimate(self) -> Self:
        known = [value for value in (self.low, self.estimate, self.high) if value is not None]
        if known != sorted(known) or (known and known[0] < 0):
            raise ValueError(f"low {self.low}, estimate {self.estimate}, high {self.high}: must rise from 0 or more")
        return self


class Result(Frozen):
    """A row: one model's tensor on an image set."""

    schema_version: Literal[1] = 1
    id: str
    """of the suite entry"""
    tensor: str
    """representation or pooled"""
    tensors: tuple[str, ...]
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
    export: dict[str, Any]
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
    preprocessing: dict[str, Any]
    preprocessing_source: str
    images_digest: str
    n_images: int
    n_varied: int
    n_skipped: int
    image_findings: tuple[str, ...]
    seed: int
    statistic_version: int
    alpha: float
    n_nonfinite: int
    n_constant: int
    statistics: dict[Statistic, Measured]
    context: dict[str, float | None]
    """statistics that decide nothing"""
    persistent: tuple[int, ...]
    """persistent outlier features, strongest first"""
    versions: dict[str, str]
    execution: dict[str, Any]
    date: str
    """UTC day of the measurement"""
    wall_s: float

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        for name, value in self.statistics.items():
            if name not in ("strength", "kurtosis", "persistence_ratio") and value.high is not None and value.high > 1:
                raise ValueError(f"statistics.{name} is {value.high:g}; a share is at most 1")
        return self


def rounded(value: float | None) -> float | None:
    """Round a number to a table's digits.

    >>> rounded(17.0312345678), rounded(None)
    (17.0312, None)
    """
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def to_line(result: Result) -> str:
    """Return the row as one line of JSON. It ends with a line feed."""
    text = json.dumps(result.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def read(path: Path) -> list[Result]:
    """Read the rows of one table, in order. A torn last line is left out.

    Raises:
        ResultsError: not readable, a line that is not a row, or of a newer schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ResultsError(f"{path}: results table cannot be read ({fault}); JSON lines") from fault
    lines = text.split("\n")
    whole, torn = lines[:-1], lines[-1]
    rows = [_row(path, number, line) for number, line in enumerate(whole, 1) if line.strip()]
    if torn.strip() and not rows:
        rows.append(_row(path, len(lines), torn))  # a file of one line without its end, made by hand
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
    """Join the rows of several tables. They are sorted by id and tensor; rows that are the same count once.

    Raises:
        ResultsError: no row at all; one model and tensor with other numbers; other statistic versions, confidence
            levels or image sets, which are not comparable.
    """
    merged: dict[tuple[str, str], tuple[Path, Result]] = {}
    for path, rows in tables:
        for row in rows:
            place = (row.id, row.tensor)
            if place in merged and content(merged[place][1]) != content(row):
                raise ResultsError(
                    f"{path}: {row.id}, {row.tensor}: row differs from the one in {merged[place][0]}; "
                    "one model and tensor has one measurement",
                    "leave out a table, or remove one of the two lines",
                )
            merged.setdefault(place, (path, row))
    where = ", ".join(str(path) for path, _ in tables)
    if not merged:
        raise ResultsError(f"{where}: no rows found; a fit needs measured models", "robustcheck calibrate --help")
    rows = [row for _, row in sorted(merged.values(), key=lambda pair: (pair[1].id, pair[1].tensor))]
    for field, words, hint in (
        ("statistic_version", "statistic version", "measure the older ones again: their table is stale"),
        ("alpha", "error rate of the bounds", "measure them with one version of robustcheck"),
        ("images_digest", "image set", "a fit needs all models on one image set; leave out a table"),
    ):
        (first, value), *others = ((row.id, getattr(row, field)) for row in rows)
        for name, other in others:
            if other != value:
                raise ResultsError(
                    f"{where}: {words} of {name} is {other}, of {first} {value}; only rows of one kind can be compared",
                    hint,
                )
    return tuple(rows)


def content(result: Result) -> dict[str, Any]:
    """Return a row's measurement and its subject. When, where and for which suite is left out."""
    return result.model_dump(mode="json", exclude=set(NOT_CONTENT))


def digest_of(rows: Iterable[Result]) -> str:
    """Return the `sha256:` digest of the rows' content.

    It depends neither on their order nor on the engine that measured them.
    """
    texts = sorted(json.dumps(content(row), sort_keys=True, separators=(",", ":"), allow_nan=False) for row in rows)
    return "sha256:" + hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def excluded(row: Result) -> str:
    """Return why a fit leaves a row out. Empty if it takes part."""
    if row.n_nonfinite or row.n_constant:
        return f"{row.n_nonfinite + row.n_constant} representations not finite or constant"
    if unknown := [name for name in DECIDING if None in row.statistics[name].model_dump().values()]:
        return f"not measurable: {', '.join(unknown)}"
    if row.image_findings:
        return f"images: {', '.join(row.image_findings)}"
    if min(row.n_varied, row.n_images) < MIN_IMAGES:
        return f"{min(row.n_varied, row.n_images)} varied images"
    if row.preprocessing_source == "assumed":
        return "preprocessing was assumed"
    if row.label == "present" and (row.context.get("spread") or 0.0) < ALIKE_SPREAD:
        return "representations of all images alike, which never passes"
    return "unlabelled" if row.label == "unlabelled" else ""


def as_references(rows: Iterable[Result]) -> tuple[Reference, ...]:
    """Return the rows as sets for fitting thresholds.

    A set that can't take part has the reason in `excluded`, and 0 for what could not be measured.
    """
    out = []
    for row in rows:
        estimates: dict[str, Any] = {name: row.statistics[name].estimate or 0.0 for name in STATISTICS}
        out.append(
            Reference(
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
