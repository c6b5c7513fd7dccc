"""Tables of measured sets, and thresholds fitted to them.

The reference table has measured statistics of real checkpoints, each with its source; traps must not pass. A results
table of a calibration has one JSON line per model and tensor, with everything that influences the numbers.

A line is written whole and flushed before the next model starts; a last line without its end is what an interruption
left, and is not read. docs/calibration.md describes the fields.

A set passes when each deciding statistic lies above its threshold. So any one of them turns away a set without the
label, or a trap. Each of those is given to the statistic that turns it away by the widest factor. The threshold of a
statistic lies `GAP_POSITION` of the way from the largest estimate that it was given to the smallest of a passing set.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError, model_validator

from . import DATA, read_bytes
from .ends import End
from .profile import Threshold
from .records import Frozen, HintedError, first_fault, refuse_version
from .statistics import DECIDING, STATISTICS, Statistic

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
ALIKE_SPREAD = 0.2  # below it a check gives WARN whatever the statistics say (checker/core/verdict/rule.py)
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
        values = [value for value in (self.low, self.estimate, self.high) if value is not None]
        if values != sorted(values) or (values and values[0] < 0):
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


LARGEST_BYTES = 1 << 24  # of a table; a row has some KB


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
        text = read_bytes(path, LARGEST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", fault)
        raise ResultsError(f"{path}: results table cannot be read ({why}); JSON lines") from fault
    lines = text.split("\n")
    complete, torn = lines[:-1], lines[-1]
    rows = [_row(path, number, line) for number, line in enumerate(complete, 1) if line.strip()]
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


GAP_POSITION = 2 / 3  # of the gap, from without to with: a false PASS costs more than a false WARN
SMALLEST = 0.01  # the least value for which a factor is computed
NO_SET = "none"
DIGITS = 3  # decimal places of a threshold

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class Scale(NamedTuple):
    """The placement rule of one statistic's threshold."""

    nothing: float = 0.0
    """what Gaussian features give"""
    logarithmic: bool = False
    least_gap: float = 0.0
    """the statistic turns nobody away by less"""
    most: float = math.inf
    """the highest threshold; the strongest that 50 images can show must clear it"""


SCALES: dict[str, Scale] = {
    "strength": Scale(0.1, logarithmic=True),
    "outlier_frequency": Scale(most=0.85),  # 50 images of 50 give a lower bound of 0.87
    "two_sidedness": Scale(least_gap=0.05),  # two-sided sets differ by as much among themselves
}


class Fit(NamedTuple):
    """The thresholds and their judgement of the fitted sets."""

    thresholds: dict[Any, Threshold]
    """by the name of the statistic"""
    missed: tuple[str, ...]
    """sets with the label that do not pass"""
    nearest: tuple[tuple[str, str, float], ...]
    """(set without the label or trap, the statistic that turns it away, by what factor it lies below the least of the
    passing sets), the nearest first"""

    @property
    def minimums(self) -> dict[str, float]:
        """Return the thresholds alone."""
        return {name: one.minimum for name, one in self.thresholds.items()}


class Rule(NamedTuple):
    """The settings of a fit. They are the same for every refit of a calibration."""

    position: float = GAP_POSITION
    """of the gap, from without to with"""
    all_must_pass: bool = True
    """True: sets with the label that overlap with others are an error; False: they are missed"""


STRICT_RULE = Rule()


def taking_part(table: Sequence[Reference]) -> list[Reference]:
    """Return the sets that are evidence."""
    return [row for row in table if not row.excluded]


def with_label(expected: str, sets: Sequence[Reference]) -> list[Reference]:
    """Return the sets that are `expected`: present or absent."""
    return [row for row in sets if row.expected == expected]


def models(table: Sequence[Reference]) -> list[str]:
    """Return the different checkpoints, in the table's order."""
    return list(dict.fromkeys(row.model for row in table))


class Sets(NamedTuple):
    """The rows of a table with their estimates. These are an array (set, statistic)."""

    rows: tuple[Reference, ...]
    names: tuple[str, ...]
    values: Array

    @classmethod
    def of(
        cls,
        rows: Sequence[Reference],
        names: Sequence[str] = DECIDING,
        value: Callable[[Reference, str], float] = getattr,
    ) -> Sets:
        """Read the estimates of some statistics from rows."""
        values = np.array([[value(row, name) for name in names] for row in rows], dtype=np.float64)
        return cls(tuple(rows), tuple(names), values.reshape(len(rows), len(names)))

    def keep(self, wanted: Mask) -> Sets:
        """Keep these rows only; wanted: (set,) bool."""
        return self._replace(rows=tuple(compress(self.rows, wanted)), values=self.values[wanted])

    def which(self, is_so: Callable[[Reference], bool]) -> Mask:
        """Return which rows satisfy a condition, (set,) bool."""
        return np.array([is_so(row) for row in self.rows], dtype=bool)

    @property
    def present(self) -> Mask:
        """Return which sets have evidence and label, (set,) bool."""
        return self.which(lambda row: not row.excluded and row.expected == "present")

    @property
    def without(self) -> Mask:
        """Return which sets must not pass, (set,) bool. They have evidence and no label, or are a trap."""
        return self.which(lambda row: row.trap or (not row.excluded and row.expected == "absent"))

    def passing(self, minimums: Mapping[Any, float]) -> Mask:
        """Return which sets lie above every threshold, (set,) bool. Their estimates are compared."""
        least = np.array([minimums.get(name, -math.inf) for name in self.names])
        return np.asarray((self.values > least).all(axis=1))


def passes(row: Reference, thresholds: Mapping[Statistic, Threshold]) -> bool:
    """Return whether a set lies above every threshold. Its estimates are compared."""
    return all(getattr(row, name) > threshold.minimum for name, threshold in thresholds.items())


def fit(sets: Sets, rule: Rule = STRICT_RULE, scales: Mapping[str, Scale] = SCALES) -> Fit:
    """Fit thresholds to the sets and the traps. Only sets that take part count.

    Args:
        sets: those with a reason in `excluded` are left out, unless they are traps.
        rule: how thresholds are placed, and what an overlap means.
        scales: of each statistic.

    Raises:
        ValueError: no set with, or none without the label; or the two overlap, and with `rule.all_must_pass` one is
            enough for that.
    """
    present, absent = np.flatnonzero(sets.present), np.flatnonzero(sets.without)
    if not len(present) or all(sets.rows[i].trap for i in absent):
        raise ValueError("the table needs sets with and without the indication")
    passing = present if rule.all_must_pass else _that_pass_together(sets, present, absent, scales)
    factors = _factors(sets, passing, absent, scales)
    best, factor = factors.argmax(axis=1), factors.max(axis=1)
    if (factor <= 0).any():
        worst = factor.argmin()
        lowest = passing[sets.values[passing, best[worst]].argmin()]
        raise ValueError(f"{sets.rows[absent[worst]].set} and {sets.rows[lowest].set} overlap: no threshold parts them")
    fitted = Fit({}, (), ())
    for column, name in enumerate(sets.names):
        values, rejected = sets.values[:, column], absent[best == column]
        high = passing[values[passing].argmin()]
        low, of = scales[name].nothing, NO_SET
        if len(rejected) and values[rejected].max() > low:
            highest = rejected[values[rejected].argmax()]
            low, of = float(values[highest]), sets.rows[highest].set
        top = float(values[high])
        fitted.thresholds[name] = Threshold(
            minimum=_between(low, top, scales[name], rule.position),
            highest_without=low,
            highest_without_set=of,
            lowest_with=top,
            lowest_with_set=sets.rows[high].set,
        )
    missed = sets.keep(sets.present & ~sets.passing(fitted.minimums)).rows
    order = np.argsort(factor, kind="stable")
    nearest = ((sets.rows[absent[i]].set, sets.names[best[i]], round(math.exp(factor[i]), DIGITS)) for i in order)
    return fitted._replace(missed=tuple(sorted(row.set for row in missed)), nearest=tuple(nearest))


def _between(low: float, high: float, scale: Scale, position: float) -> float:
    threshold = low * (high / low) ** position if scale.logarithmic else low + position * (high - low)
    return round(max(min(threshold, scale.most), low), DIGITS)


def _factors(sets: Sets, passing: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Array:
    """Return how far sets lie below the passing ones.

    (set without, statistic): the logarithm of the factor to the least of them.

    0 or less: it does not.
    """
    floor, without = sets.values[passing].min(axis=0), sets.values[absent]
    out = np.log(np.maximum(floor, SMALLEST)) - np.log(np.maximum(without, SMALLEST))
    gaps = np.array([scales[name].least_gap for name in sets.names])
    return np.where(floor - without < gaps, -math.inf, out)


def _that_pass_together(sets: Sets, present: Indices, absent: Indices, scales: Mapping[str, Scale]) -> Indices:
    """Find the sets with the label that pass together. The weakest are left out until the rest can.

    Each set without the label must lie below them by some statistic. Of the weakest by each statistic, the one goes
    whose going leaves the fewest sets that do not.
    """

    def n_not_below(passing: Indices) -> int:
        return int((_factors(sets, passing, absent, scales) <= 0).all(axis=1).sum())

    passing = present
    while n_not_below(passing):
        if len(passing) == 1:
            last = sets.rows[passing[0]].set
            raise ValueError(f"no set with the indication lies above all sets without it; the last was {last}")
        values = sets.values[passing]
        weakest = np.flatnonzero((values == values.min(axis=0)).any(axis=1))
        dropped = min(
            weakest,
            key=lambda at: (n_not_below(np.delete(passing, at)), values[at].tolist(), sets.rows[passing[at]].set),
        )
        passing = np.delete(passing, dropped)
    return passing


class Judged(NamedTuple):
    """The decisions of fits about left-out sets."""

    false_pass: tuple[str, ...]
    """sets without the label, and traps made of left-out sets"""
    false_warn: tuple[str, ...]
    no_fit: tuple[str, ...]
    """checkpoints or families without which there is no fit: they are not a trial"""


Refit = Callable[[Sets], Mapping[str, float]]
"""Gives the thresholds for some of the sets; raises ValueError where there are none."""


class Trial(NamedTuple):
    """A checkpoint or family, judged by a fit to the others."""

    name: str
    own: Sets
    """its sets, and the traps made of them"""
    passing: Mask | None
    """which of them pass; None: there is no fit without it"""

    def wrong(self, *, without: bool) -> tuple[str, ...]:
        """Return its wrongly judged sets. Without the label they pass, with it they do not."""
        if self.passing is None:
            return ()
        wrong = self.passing & self.own.without if without else ~self.passing & self.own.present
        return tuple(row.set for row in self.own.keep(wrong).rows)


def trials(sets: Sets, refit: Refit, by: str = "model") -> Iterator[Trial]:
    """Judge each checkpoint or family by the others. by is "model" or "group"."""
    for name, others, own in folds(sets, by):
        try:
            yield Trial(name, own, own.passing(refit(others)))
        except ValueError:
            yield Trial(name, own, None)


def judged(trials: Iterable[Trial]) -> Judged:
    """Sum up trials."""
    done = list(trials)
    false_pass, false_warn = (
        tuple(sorted(name for trial in done for name in trial.wrong(without=without))) for without in (True, False)
    )
    return Judged(false_pass, false_warn, tuple(sorted(trial.name for trial in done if trial.passing is None)))


def folds(sets: Sets, by: str) -> Iterator[tuple[str, Sets, Sets]]:
    """Yield each checkpoint or family that has evidence. Each comes with its name, the other sets, and its own sets."""
    names = [getattr(row, by) for row in sets.rows]
    for name in dict.fromkeys(name for name, row in zip(names, sets.rows, strict=True) if not row.excluded):
        own = np.array(names) == name
        yield name, sets.keep(~own), sets.keep(own)


DEFINITION = (
    "strong (its three strongest features make up a kurtosis of 4 or more; ordinary features give about 0.1), "
    "persistent "
    "(the strongest feature is beyond 4 SD on its usual side in at least half of the images) and two-sided (at least a "
    "third of the energy lies on either side of zero, and of each image's median, without the three strongest features)"
)
"""What the label of a reference set means; benchmarks/measure_reference.py gives it."""
