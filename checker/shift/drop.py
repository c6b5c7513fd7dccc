"""The detector `predicted-drop`: a WARN where an earlier `shift --target` predicted that accuracy falls too far.

robustcheck model.onnx --images photos/ --detector predicted-drop=shift.json,10
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.evidence import DetectorResult, Preprocessing
from robustcheck_onnx.checker.statistics import wilson
from robustcheck_onnx.checker.text import percent_text, printable, sha256_of, short_digest

from .predicted import ClassShift
from .predictions import NAMES, Target, estimate_text
from .records import ShiftReport

NAME = "predicted-drop"
SHOWN = 60  # characters of a target's name
MAX_TEXT = 500  # of a detector's result
MAX_FILE_BYTES = 64_000_000
_AGAIN = "robustcheck shift MODEL.onnx --in photos/ --target new-photos/ -o json=shift.json"
_HINT = f"--detector {NAME}=shift.json,10 for a report that robustcheck shift … --target … -o json=shift.json made"


class _Seen(NamedTuple):
    """What one prediction says."""

    points: float
    """how far below the in-distribution accuracy the interval reaches; infinite where nothing was established"""
    text: str


class PredictedDrop:
    """Warns where the accuracy predicted for a target is, or may be, more than so many points below.

    The images of the check decide nothing: the report of a `shift` of the same model does. The lower end of each
    prediction's interval counts, and of an accuracy that was measured on the target. What was not established warns,
    and so does a target of which the report itself shows that a prediction says little.
    """

    name = NAME
    version = "1"

    def __init__(self, text: str = "") -> None:
        """Read `REPORT.json,POINTS`.

        Raises UsageError: another text, points that are no number from 0 to 100, a file that is no report of `shift`.
        """
        file, _, points = text.rpartition(",")
        try:
            self._points = float(points)
        except ValueError:
            self._points = math.nan
        if not file or not 0 <= self._points <= 100:
            raise UsageError(
                f"--detector {NAME}: text is {text!r}; it must be REPORT.json,POINTS with points from 0 to 100", _HINT
            )
        self._file = file
        self._report, self._digest = _read(Path(file))
        self._same_model = False

    def begin(self, model_digest: str, preprocessing: Preprocessing) -> None:
        """Take what is checked.

        Raises CannotAssessError: the report is of another model or other preprocessing, or has no target; so many
            points are allowed that nothing could warn.
        """
        of_report = self._report.model.digest
        if of_report != model_digest:
            raise CannotAssessError(
                f"{self._file}: model of the report has digest {of_report}; this model has {model_digest}, and they "
                "must be the same",
                _AGAIN,
            )
        if self._report.preprocessing != preprocessing:
            raise CannotAssessError(
                f"{self._file}: preprocessing of the report is another one than of this check; both must be the same",
                f"{_AGAIN}, with the same --preprocess",
            )
        if self._report.predicted is None:
            raise CannotAssessError(
                f"{self._file}: report predicts nothing; it must be of a shift with --target",
                _AGAIN,
            )
        inner = self._report.in_distribution.accuracy.value
        if self._points >= 100 * inner:
            raise CannotAssessError(
                f"{self._file}: in-distribution accuracy is {percent_text(inner)}; with {self._points:g} points below "
                "allowed nothing could warn",
                f"--detector {NAME}=shift.json,POINTS with fewer points",
            )
        self._same_model = True

    def update(self, representations: npt.NDArray[np.float64]) -> None:
        """Images of the check say nothing about the targets."""

    def result(self) -> DetectorResult:
        """The finding. Raises RuntimeError where `begin` was not called: whose report it is would not be known."""
        if not self._same_model:
            raise RuntimeError("begin was not called with the model's digest")
        seen = sorted(_seen(self._report), key=lambda each: -each.points)
        bad = [each for each in seen if each.points > self._points]
        inner = self._report.in_distribution
        allowed = f"in-distribution {percent_text(inner.accuracy.value)}, {self._points:g} points below are allowed"
        said = bad or seen
        more = f"; and {len(said) - 1} more" if len(said) > 1 else ""
        known = [each.points for each in seen if math.isfinite(each.points)]
        return DetectorResult(
            name=self.name,
            version=self.version,
            values={
                "in_distribution_accuracy": inner.accuracy.value,
                "allowed_points": self._points,
                "largest_cautious_drop_points": max(known) if known else None,
                "predictions": float(len(seen)),
                "predictions_that_warn": float(len(bad)),
            },
            finding="warn" if bad or not seen else "ok",
            text=f"{said[0].text if said else 'no target'}{more}; {allowed}; shift {self._digest}"[:MAX_TEXT],
        )


def _read(file: Path) -> tuple[ShiftReport, str]:
    """The report and the short digest of its file. Raises UsageError for a file that is none."""
    look = f"python -m json.tool {shlex.quote(str(file))}"
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"{file}: report is larger than {MAX_FILE_BYTES:,} bytes; one of shift is small", look)
        report = ShiftReport.model_validate_json(content)
    except OSError as fault:
        raise UsageError(f"{file}: report is not readable ({fault.strerror}); it must be a file", _HINT) from fault
    except ValidationError as fault:
        where = ".".join(map(str, fault.errors()[0]["loc"])) or "JSON"
        raise UsageError(
            f"{file}: {printable(where)} is missing or wrong; it must be a report of shift", look
        ) from fault
    accuracy = report.in_distribution.accuracy
    if (
        not 0 <= accuracy.n_correct <= accuracy.n
        or accuracy.n < 1
        or accuracy != wilson(accuracy.n_correct, accuracy.n)
    ):
        raise UsageError(f"{file}: in_distribution.accuracy is wrong; it must follow from n and n_correct", look)
    return report, short_digest(sha256_of(content))


def _doubts(target: Target) -> Iterator[str]:
    """Why predictions for a target say little, as far as the report shows it."""
    shares = ClassShift(target.classes.distance, target.classes.expected_distance, target.classes.p_value)
    if not target.estimates:
        yield "nothing was predicted"
    if target.in_both:
        yield f"{target.in_both} of {target.n_images} images are in-distribution images"
    if shares.is_told:
        yield "predicted classes have other frequencies than the in-distribution ones, against what ATC and DoC assume"


def _seen(report: ShiftReport) -> Iterator[_Seen]:
    """Every prediction of a report, what was measured on its targets, and what is doubtful of them."""
    assert report.predicted is not None
    inner = report.in_distribution.accuracy.value
    for target in report.predicted.targets:
        name = printable(target.name)[:SHOWN]
        for doubt in _doubts(target):
            yield _Seen(math.inf, f"{name}: {doubt}")
        if (found := target.measured) is not None:
            points = 100 * (inner - found.low)
            yield _Seen(points, f"{name}: {percent_text(found.value)} was measured, up to {points:.1f} points below")
        for each in target.estimates:
            method = NAMES[each.method]
            if each.low is None or each.accuracy is None:
                yield _Seen(math.inf, f"{name}: {method} is not established ({each.not_established})")
                continue
            points = 100 * (inner - each.low)
            yield _Seen(
                points,
                f"{name}: {method} predicts {estimate_text(each)} on {target.n_images} images, up to {points:.1f} "
                "points below",
            )
