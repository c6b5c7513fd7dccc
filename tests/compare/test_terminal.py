"""What a comparison says in words, and whether its headings fit 80 columns."""

import numpy as np

from robustcheck_onnx.checker.compare.document import plain_text
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.checker.text import number_text
from support import but
from support.comparisons import alike, judged, planted
from support.terminal import shown


def test_photos_that_are_not_the_readers_are_said_first() -> None:
    measured = judged(planted(), planted())
    said = "on the bundled photos, not yours"
    for bundled in (True, False):
        report = but(measured, candidate__evidence__images__bundled=bundled)
        for verbose in (False, True):
            assert (shown(report, verbose=verbose).splitlines()[1] == f"! {said}") is bundled
        forms = ("junit", "markdown", "sarif", "html")  # JSON has a note of the check itself
        for text in (document_of(report).one_line, *(getattr(report, f"to_{form}")() for form in forms)):
            assert (said in text) is bundled


def test_a_heading_is_one_line_and_a_ratio_without_bounds_is_told() -> None:
    h = planted()
    report = judged(h - (np.arange(384) == 7) * h[:, 7].mean(), h)
    n = report.n_images
    heading = f"Statistics  {n} images, paired; 80 % must be kept, 95 % confidence together"
    text = shown(report)
    assert heading in text.splitlines()
    assert plain_text(report) in " ".join(text.split())
    assert f"as a whole: {alike(report).text}" in text.splitlines()
    assert "statistic_shrank" in text.split("✗ ")[-len(report.verdict.reasons)]  # what was lost comes first
    (seen,) = [reason.seen for reason in report.verdict.reasons if reason.id == "statistic_shrank"]
    assert seen.startswith("at least 80 % of the reference's value must be kept: ")
    assert "not measured" not in seen
    (frequency,) = [each.ratio for each in report.statistics if each.name == "outlier_frequency"]
    assert frequency.low is None
    assert f"(ratio {number_text(frequency.estimate)}, no bounds)" in seen
