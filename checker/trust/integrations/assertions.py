"""The check as an assertion, for tests and scripts."""

from __future__ import annotations  # help() names the types as the package does

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Unpack

from ...calls import public
from ...core.options import RunOptions
from ...core.progress import Progress
from ...errors import UsageError
from ...outside.addresses import Model
from ...outside.image_sets.open import Images
from ...questions.check import CheckOptions, check
from ...questions.compare import CompareReport, FirstBaseline, IndexOptions, VectorsReport, compare
from ...report.check import Report
from ...report.words import meaning_text
from ...text import printable


class VerdictError(AssertionError):
    """The verdict is WARN. The attribute `report` holds the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(warning_text(report))
        self.report = report


class AssertRobust(Protocol):
    """The type of pytest's fixture `assert_robust`. It is `assert_robust`, with a line in pytest's summary."""

    def __call__(
        self,
        model: Model,
        images: Images | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Unpack[CheckOptions],
    ) -> Report:
        """Check a model; raise unless it passes."""
        ...


@public('rc.assert_robust("model.onnx", "photos/")')
def assert_robust(
    model: Model,
    images: Images | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[CheckOptions],
) -> Report:
    """Check a model; raise unless it passes, under `python -O`, too.

    Args:
        model: as in `check`.
        images: as in `check`.
        progress: as in `check`.
        options: every other option of `check`.

    Returns:
        The report, whose verdict is PASS.

    Raises:
        VerdictError: an AssertionError with every reason for WARN and its next step.
        UsageError, CannotAssessError, EnvironmentFaultError: there is no verdict; no AssertionError, so that
            "could not assess" is never taken for WARN.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    report = check(model, images, progress=progress, **options)
    if report.verdict.verdict != "PASS":
        raise VerdictError(report)
    return report


class IndexVerdictError(AssertionError):
    """The index verdict is not `compatible`. The message has every reason and number."""


@public('rc.assert_same_index("new.onnx", "old.onnx", "photos/")')
def assert_same_index(
    new: str | Path,
    old: str | Path | None = None,
    images: Images | None = None,
    *,
    index: IndexOptions = IndexOptions(),  # noqa: B008 # frozen
    **options: Unpack[RunOptions],
) -> CompareReport | VectorsReport:
    """Compare two files; raise unless the new one fits the old index.

    Without the old one: raise unless the vectors in `index.file` are the new one's own.

    Args:
        new: path of an ONNX file.
        old: another one, or the file of a baseline (`.npz`) that holds its vectors; None = `index.file` alone.
        images: as in `compare`.
        index: an index in a file, embeddings of classes, and what `compatible` needs.
        options: as in `check`, for both models.

    Returns:
        The report, whose index verdict is `compatible`.

    Raises:
        IndexVerdictError: an AssertionError with every reason and number.
        UsageError, CannotAssessError, EnvironmentFaultError: there is no verdict.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    if old is None and index.file is None:
        raise UsageError(f"{new}: neither old nor index.file is given; one of them is compared with", "old=PATH")
    reference = old
    baseline = None
    if old is not None and Path(old).suffix == ".npz":
        reference = None
        baseline = old
    report = compare(new, reference, baseline=baseline, images=images, index=index, require=("index",), **options)
    assert not isinstance(report, FirstBaseline)
    assert report.index is not None
    if report.index.verdict != "compatible":
        lines = [report.index.plain]
        lines += (f"  {label}: {text}" for label, text in report.index.rows())
        raise IndexVerdictError("\n".join(map(printable, lines)))
    return report


def warning_text(report: Report) -> str:
    """Write the verdict, its reasons and next steps. Each is a paragraph; names in it can forge no line."""
    lines = [f"{report.evidence.model.file}: verdict is {report.verdict.verdict}; it must be PASS"]
    for reason in report.verdict.reasons:
        lines += [f"  {reason.id}: {reason.seen}", f"    next step: {reason.next_step}"]
    lines.append(f"  {meaning_text(report.verdict)}")
    return "\n".join(map(printable, lines))
