"""Effective robustness of measured sets: lines against SciPy, published values, and agreement with a verdict."""

import csv
import re
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from robustcheck_onnx.checker.shift.robustness import (
    CLASSES,
    LABEL_SET,
    Judged,
    SetResult,
    Shifted,
    agree,
    effective,
    put_beside,
)
from robustcheck_onnx.checker.statistics.definitions import wilson
from robustcheck_onnx.thresholds import DATA, published
from robustcheck_onnx.thresholds.published import IMAGENET
from support import but
from support.comparisons import labelled_set


def test_testbeds_lines_are_scipys_over_its_standard_models() -> None:
    with (DATA / "published_testbed.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "standard" and float(row[IMAGENET]) >= 0.55]
    rows = [row for row in rows if not re.search("aws|batch64", row["model"])]
    for name in published.SHIFTS:
        values = [(row[IMAGENET], row[name]) for row in rows if float(row[name] or 0) > 0]
        truth = stats.linregress(*special.logit(np.array(values, float)).T)
        line = published.baselines_of("testbed")[name]
        np.testing.assert_allclose([line.a, line.b], truth[:2], rtol=1e-9)
        assert line.n == len(values) >= 80
        assert name != "objectnet" or line == published.baselines_of("timm")[name]


def _set(name: str | None, accuracy: float, n: int = 10_000, **given: Any) -> SetResult:
    classes = CLASSES.get(name or "", 1000)
    return labelled_set(
        name=name or "mine",
        shift=name,
        **{"label_set": LABEL_SET.get(name or "", ""), "n_labels": classes} | given,
        n_compete=classes,
        accuracy=wilson(round(accuracy * n), n),
    )


def _beside(inside: SetResult, *others: SetResult) -> list[Shifted]:
    return [put_beside(inside, (), other, (), "timm") for other in others]


@pytest.mark.parametrize("source", published.SOURCES)
@pytest.mark.parametrize("name", published.SHIFTS)
def test_effective_robustness_is_accuracy_beyond_the_line(source: str, name: str) -> None:
    found, why = effective(_set(IMAGENET, 0.76), _set(name, 0.5), source)
    line = published.baselines_of(source)[name]
    expected = special.expit(line.a * special.logit(0.76) + line.b)
    assert found is not None
    assert (found.expected, found.points) == pytest.approx((expected, 100 * (0.5 - expected)))
    assert (found.extrapolated, why) == (False, "")
    # 97.5 % of each side: wider than either accuracy alone allows
    assert found.low < found.points - 0.9
    assert found.high > found.points + 0.9


def test_no_effective_robustness_where_it_would_mean_nothing() -> None:
    inside, sketch = _set(IMAGENET, 0.76), _set("sketch", 0.5)
    for one, other, said in (
        (inside, _set(None, 0.5), "not named as one of V2, Sketch, R, A, ObjectNet"),
        (_set(None, 0.76), sketch, "not named as ImageNet"),
        (_set(IMAGENET, 0.76, 400), sketch, "the 400 images of imagenet1k give its accuracy to within 4."),
        (inside, _set("sketch", 0.5, 400), "the 400 images of sketch"),
        (but(inside, n_labels=999), sketch, "999 of ImageNet's 1000 classes"),
        (inside, _set("imagenet_r", 0.5, n_labels=199), "199 of R's 200 classes"),
        (inside, _set("imagenet_r", 0.5, label_set="file"), "the labels of imagenet_r are not R's"),
        (inside, _set("objectnet", 0.5, n_labels=100), "100 of ObjectNet's 113 classes"),
        (_set(IMAGENET, 1.0), sketch, "accuracy on imagenet1k is 1"),
    ):
        found, why = effective(one, other, "timm")
        assert (found, said in why) == (None, True), why


def _judged(verdict: Any) -> Judged:
    return Judged(verdict=verdict, reasons=(), profile="p", n_images=60, tensor="representation", origin="test")


def test_agreement_is_one_sided() -> None:
    for verdict, sketch, n, outcome in [
        ("PASS", 0.50, 10_000, "agree"),
        ("PASS", 0.25, 10_000, "disagree"),
        ("PASS", 0.05, 10_000, "disagree"),
        ("PASS", 0.282, 10_000, "undecided"),
        ("WARN", 0.25, 10_000, "agree"),
        ("WARN", 0.50, 10_000, "no contradiction"),
        ("WARN", 0.282, 10_000, "undecided"),
        ("PASS", 0.50, 100, "nothing to compare"),
    ]:
        inside = _set(IMAGENET, 0.76)
        found = agree(_judged(verdict), inside, _beside(inside, _set("sketch", sketch, n)), "timm")
        assert found.outcome == outcome
        assert (found.mean_pp is None) == (outcome == "nothing to compare")


def test_below_the_baselines_range_nothing_is_compared() -> None:
    inside = _set(IMAGENET, 0.40)
    found = agree(_judged("PASS"), inside, _beside(inside, _set("sketch", 0.39)), "timm")
    assert found.outcome == "nothing to compare"
    assert "extrapolated" in found.sentence


def test_the_mean_is_over_the_measured_shifts_and_leaves_objectnet_out() -> None:
    inside = _set(IMAGENET, 0.76)
    beside = _beside(inside, _set("imagenetv2", 0.66), _set("sketch", 0.3), _set("objectnet", 0.5))
    points = [each.effective_robustness.points for each in beside if each.effective_robustness]
    for sets, shifts, mean, source in (
        (beside, ("imagenetv2", "sketch"), np.mean(points[:2]), "timm"),
        (beside[2:], ("objectnet",), points[2], "testbed"),
    ):
        found = agree(_judged("WARN"), inside, sets, "timm")
        assert found.shifts == shifts
        assert found.mean_pp == pytest.approx(mean)
        assert found.usual_high_pp == pytest.approx(published.usual_robustness(source, shifts).high)


def test_the_bounds_of_a_mean_share_the_error_rate_between_all_its_accuracies() -> None:
    """Wilson intervals by SciPy, each at 1 − 5 % / 3: of ImageNet and of both shifts; lines in logits."""
    inside, shifts = _set(IMAGENET, 0.76), {"imagenetv2": 0.66, "sketch": 0.30}
    found = agree(_judged("WARN"), inside, _beside(inside, *(_set(name, p) for name, p in shifts.items())), "timm")
    bounds = [stats.binomtest(round(p * 10_000), 10_000).proportion_ci(1 - 0.05 / 3, "wilson")
              for p in (0.76, *shifts.values())]  # fmt: skip
    lines = [published.baselines_of("timm")[name] for name in shifts]
    a, b = np.array([(line.a, line.b) for line in lines]).T
    x, *ys = np.array(bounds)
    beyond = ys - special.expit(a[:, None] * special.logit(x[::-1]) + b[:, None])
    assert (found.low_pp, found.high_pp) == pytest.approx(100 * beyond.mean(axis=0), abs=1e-6)
