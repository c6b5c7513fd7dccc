"""Logit-linear baselines and effective robustness, against SciPy and closed forms."""

import re
from typing import Any

import numpy as np
import pytest
import scipy.special
from numpy.testing import assert_allclose

from robustcheck_onnx.thresholds import published as er
from support import but, raised
from support.scripts import load

fit_baseline = load("benchmarks/build_published").fit_baseline
LINE = er.Baseline(a=1.0, b=0.0, n=10, r2=1.0, residual_sd_pp=0.0, low=0.4, high=0.9)


def test_logit_and_sigmoid_are_scipys() -> None:
    p = np.array([1e-9, 0.0048, 0.25, 0.5, 0.9, 1 - 1e-9])
    assert_allclose(er.logit(p), scipy.special.logit(p), rtol=1e-12)
    x = np.array([-1000.0, -30.0, -0.5, 0.0, 0.5, 30.0, 1000.0])
    assert_allclose(er.sigmoid(x), scipy.special.expit(x), rtol=1e-12)


def test_a_flat_shift_has_a_line_but_no_correlation() -> None:
    line = fit_baseline([0.5, 0.6, 0.7], [0.25, 0.25, 0.25])
    assert (line.a, line.r2) == (0, 0)
    assert_allclose(er.expected_accuracy(0.65, line), 0.25, rtol=1e-12)


def test_effective_robustness_is_what_lies_above_the_line() -> None:
    found = er.effective_robustness([0.6, 0.7], [0.75, 0.5], LINE)  # the line of accuracy = accuracy
    assert_allclose(found.points, [15, -20], rtol=1e-12)
    assert found.points.dtype == np.float64
    one = er.effective_robustness(0.6, 0.75, LINE)
    assert one.points.shape == ()
    assert float(one.points) == pytest.approx(15)
    # nothing and everything right have a value
    assert_allclose(er.effective_robustness([0.6, 0.6], [0.0, 1.0], LINE).points, [-60, 40], rtol=1e-12)


def test_extrapolation_is_flagged_outside_the_fit_and_below_55_percent() -> None:
    at = [0.3, 0.4, 0.5499, 0.55, 0.7, 0.9, 0.91]
    assert er.effective_robustness(at, at, LINE).extrapolated.tolist() == [True, True, True, False, False, False, True]
    assert er.effective_robustness([0.58, 0.6], [0.5, 0.5], but(LINE, low=0.6)).extrapolated.tolist() == [True, False]


def test_bad_input_is_named() -> None:
    fit: list[tuple[Any, Any, str]] = [
        ([0.5, 0.0, 0.7], [0.1, 0.2, 0.3], "ImageNet accuracy is 0; it must be a fraction between 0 and 1"),
        ([0.5, 0.6, 0.7], [0.1, 1.0, 0.3], "accuracy on the shift is 1; it must be a fraction between 0 and 1"),
        ([0.5, 0.6, 0.7], [0.1, np.nan, 0.3], "accuracy on the shift is nan; it must be a fraction between 0 and 1"),
        ([0.5, 0.6], [0.1, 0.2], "baseline has 2 models; a line with a residual needs 3 or more"),
        ([0.5] * 4, [0.1] * 4, "ImageNet accuracy is 0.5 for all 4 models; a line needs different ones"),
        ([0.5] * 3, [0.1] * 4, "accuracies have shapes (3,) and (4,); two lists of one length are needed"),
    ]
    for acc_in, acc_shift, message in fit:
        raised(ValueError, f"^{re.escape(message)}$", fit_baseline, acc_in, acc_shift)
    beyond: list[tuple[Any, Any, str]] = [
        (1.0, 0.5, "ImageNet accuracy is 1; it must be a fraction between 0 and 1"),
        (0.7, -0.1, "accuracy on the shift is -0.1; it must be a fraction from 0 to 1"),
        (0.7, 43.0, "accuracy on the shift is 43; it must be a fraction from 0 to 1"),
        ([0.7, 0.8], 0.5, "accuracies have shapes (2,) and (); they must be the same"),
    ]
    for acc_in, acc_shift, message in beyond:
        raised(ValueError, f"^{re.escape(message)}$", er.effective_robustness, acc_in, acc_shift, LINE)
