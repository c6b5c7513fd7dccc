"""Outcomes for the tests of the report's forms, and their text in each form."""

from __future__ import annotations

import forms
from hypothesis import strategies as st

from robustcheck_onnx.checker.report import forms as formats
from robustcheck_onnx.checker.report.record import Failed, Outcome, Report
from robustcheck_onnx.thresholds.profile import STATISTICS

PLACE = formats.Options(here="/repo/sub", root="/repo")
made = forms.made()
HOSTILE: str = forms.HOSTILE
PASSING: Report = forms.gated(made.passing())
WARNING: Report = forms.gated(made.warning())
UNDECIDED: Report = forms.gated(made.undecided())
WAIVED: Report = forms.gated(
    made.warning(), waived=("rectified", "assumed_preprocessing"), expired=("no_persistent_outlier_features",)
)
ALL_WAIVED: Report = forms.gated(
    made.warning(), waived=("rectified", "assumed_preprocessing", "no_persistent_outlier_features")
)
HOSTILE_REPORT: Report = forms.gated(made.warning(), file=HOSTILE, tensor=HOSTILE)
NOTHING: Report = forms.gated(
    made.report(
        made.WARN_STATISTICS
        | {name: made.interval(None, None, None) for name in STATISTICS}
        | {"kurtosis_quantiles": None, "features": (), "spread": None}
    )
)
FAILED: Failed = forms.failed()
EVERY: list[Outcome] = [PASSING, WARNING, UNDECIDED, WAIVED, ALL_WAIVED, HOSTILE_REPORT, NOTHING, FAILED]


def text_of(form: str, *outcomes: Outcome) -> str:
    text = formats.render(form, outcomes, PLACE)
    assert text.endswith("\n")
    text.encode()  # no lone surrogates: it can be written
    return text


# Any words, lone surrogates among them.
NAME = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("`*_|<>&[]()!#\\~$@:-+=. 1"), min_size=1, max_size=30
)
