"""Effective robustness of measured sets: lines against SciPy, published values, and agreement with a verdict."""

import csv
from typing import Any

import numpy as np
import pytest
from scipy import stats

from robustcheck_onnx.checker.shift.records import Judged, SetResult, Shifted
from robustcheck_onnx.checker.shift.robustness import CLASSES, LABEL_SET, agree, effective, put_beside
from robustcheck_onnx.checker.statistics.intervals import wilson
from robustcheck_onnx.thresholds import DATA, published
from robustcheck_onnx.thresholds.published import IMAGENET


def _csv(library: str) -> list[dict[str, str]]:
    with (DATA / f"published_{library}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_testbeds_lines_are_scipys_over_its_standard_models() -> None:
    for name in published.SHIFTS:
        rows = [
            (float(row[IMAGENET]), float(row[name]))
            for row in _csv("testbed")
            if row["group"] == "standard" and "aws" not in row["model"] and "batch64" not in row["model"]
            and row[name] and float(row[IMAGENET]) >= 0.55 and float(row[name]) > 0
        ]  # fmt: skip
        x, y = (np.array(side) for side in zip(*rows, strict=True))
        truth = stats.linregress(np.log(x / (1 - x)), np.log(y / (1 - y)))
        line = published.baselines_of("testbed")[name]
        np.testing.assert_allclose([line.a, line.b], [truth.slope, truth.intercept], rtol=1e-9)
        assert line.n == len(rows) >= 80
        assert name != "objectnet" or line == published.baselines_of("timm")[name]


def _set(
    name: str | None, accuracy: float, n: int = 10_000, *, n_labels: int | None = None, label_set: str | None = None
) -> SetResult:
    classes = CLASSES.get(name or "", 1000)
    found = wilson(round(accuracy * n), n)
    return SetResult(
        name=name or "mine",
        source="somewhere",
        shift=name,
        label_set=LABEL_SET.get(name or "", "") if label_set is None else label_set,
        labels="labels",
        n_labels=classes if n_labels is None else n_labels,
        n_compete=classes,
        n_available=n,
        n_read=n,
        n_skipped=0,
        skipped=(),
        digest="sha256:0",
        accuracy=found,
    )


def _beside(inside: SetResult, *others: SetResult, source: str = "timm") -> list[Shifted]:
    return [put_beside(inside, (), other, (), source) for other in others]


@pytest.mark.parametrize("source", published.SOURCES)
@pytest.mark.parametrize("name", published.SHIFTS)
def test_effective_robustness_is_accuracy_beyond_the_line(source: str, name: str) -> None:
    found, why = effective(_set(IMAGENET, 0.76), _set(name, 0.5), source)
    assert why == ""
    assert found is not None
    line = published.baselines_of(source)[name]
    expected = 1 / (1 + np.exp(-(line.a * np.log(0.76 / 0.24) + line.b)))
    assert found.expected == pytest.approx(expected)
    assert found.points == pytest.approx(100 * (0.5 - expected))
    assert not found.extrapolated
    # 97.5 % of each side: wider than either accuracy alone allows
    assert found.low < found.points - 0.9
    assert found.high > found.points + 0.9


NOT_APPLICABLE = [
    (_set(IMAGENET, 0.76), _set(None, 0.5), "not named as one of V2, Sketch, R, A, ObjectNet"),
    (_set(None, 0.76), _set("sketch", 0.5), "not named as ImageNet"),
    (_set(IMAGENET, 0.76, 400), _set("sketch", 0.5), "the 400 images of imagenet1k give its accuracy to within 4."),
    (_set(IMAGENET, 0.76), _set("sketch", 0.5, 400), "the 400 images of sketch"),
    (_set(IMAGENET, 0.76, n_labels=999), _set("sketch", 0.5), "999 of ImageNet's 1000 classes"),
    (_set(IMAGENET, 0.76), _set("imagenet_r", 0.5, n_labels=199), "199 of R's 200 classes"),
    (_set(IMAGENET, 0.76), _set("imagenet_r", 0.5, label_set="file"), "the labels of imagenet_r are not R's"),
    (_set(IMAGENET, 0.76), _set("objectnet", 0.5, n_labels=100), "100 of ObjectNet's 113 classes"),
    (_set(IMAGENET, 1.0), _set("sketch", 0.5), "accuracy on imagenet1k is 1"),
]


def test_no_effective_robustness_where_it_would_mean_nothing() -> None:
    for inside, outside, said in NOT_APPLICABLE:
        found, why = effective(inside, outside, "timm")
        assert found is None
        assert said in why


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
    (each,) = _beside(inside, _set("sketch", 0.39))
    assert each.effective_robustness is not None
    assert each.effective_robustness.extrapolated
    found = agree(_judged("PASS"), inside, [each], "timm")
    assert found.outcome == "nothing to compare"
    assert "extrapolated" in found.sentence


def test_the_mean_is_over_the_measured_shifts_and_leaves_objectnet_out() -> None:
    inside = _set(IMAGENET, 0.76)
    sets = [_set("imagenetv2", 0.66), _set("sketch", 0.3), _set("objectnet", 0.5)]
    beside = _beside(inside, *sets)
    found = agree(_judged("WARN"), inside, beside, "timm")
    points = [each.effective_robustness.points for each in beside if each.effective_robustness]
    assert found.shifts == ("imagenetv2", "sketch")
    assert found.mean_pp == pytest.approx(np.mean(points[:2]))
    alone = agree(_judged("WARN"), inside, beside[2:], "timm")
    assert alone.shifts == ("objectnet",)
    assert alone.usual_high_pp == pytest.approx(published.usual_robustness("testbed", ("objectnet",)).high)


def test_the_bounds_of_a_mean_share_the_error_rate_between_all_its_accuracies() -> None:
    """Wilson intervals by SciPy, each at 1 − 5 % / 3: of ImageNet and of both shifts; lines in logits."""
    inside, n = _set(IMAGENET, 0.76), 10_000
    shifts = {"imagenetv2": 0.66, "sketch": 0.30}
    found = agree(_judged("WARN"), inside, _beside(inside, *(_set(name, p) for name, p in shifts.items())), "timm")

    def bounds(accuracy: float) -> Any:
        return stats.binomtest(round(accuracy * n), n).proportion_ci(1 - 0.05 / 3, "wilson")

    lines, x = published.baselines_of("timm"), bounds(0.76)
    lows, highs = [], []
    for name, accuracy in shifts.items():
        y = bounds(accuracy)
        lows.append(y.low - 1 / (1 + np.exp(-lines[name].a * np.log(x.high / (1 - x.high)) - lines[name].b)))
        highs.append(y.high - 1 / (1 + np.exp(-lines[name].a * np.log(x.low / (1 - x.low)) - lines[name].b)))
    assert found.low_pp == pytest.approx(100 * np.mean(lows), abs=1e-6)
    assert found.high_pp == pytest.approx(100 * np.mean(highs), abs=1e-6)
