"""When two models are unrelated, and when a baseline was measured otherwise."""

from typing import Any

from scipy import stats

from robustcheck_onnx.checker.compare.baseline import Baseline, staleness
from robustcheck_onnx.checker.compare.judge import _unrelated
from robustcheck_onnx.checker.compare.pairs import ClassAgreement
from support import but, reports


def test_agreement_is_chance_where_its_lower_bound_is() -> None:
    for n, n_same, chance, is_unrelated in (
        (100, 20, 0.15, True),  # 20 %, but 13.3 % is possible
        (100, 20, 0.13, False),
        (10, 10, 0.7, False),
        (10, 5, 0.7, True),
        (10, 5, 0.73, False),  # ten of ten would have 72.2 % as lower bound: they would not be told from chance
    ):
        low, high = stats.binomtest(n_same, n).proportion_ci(0.95, "wilson")
        agreement = ClassAgreement(
            n=n, n_same=n_same, value=n_same / n, low=low, high=high, confidence=0.95, chance=chance
        )
        told = [f"same class on {n_same} of {n} images" in text for text in _unrelated(None, agreement)]
        assert told == [True] * is_unrelated


def test_every_way_in_which_a_baseline_was_measured_otherwise_is_told() -> None:
    now = reports.passing().evidence
    n, version = now.statistics.n_images, now.statistics.statistic_version
    other_pixels = but(now.preprocessing.preprocessing, resize_mode="squash", color_order="BGR")
    rows: list[tuple[Any, ...]] = [
        ({},),
        ({"statistics__n_images": n - 1}, "the baseline has another number of usable representations"),
        (
            {"statistics__statistic_version": version + 1},
            f"the baseline has statistic version {version + 1}, this robustcheck {version}",
        ),
        (
            {"images__digest": "sha256:0", "images__n_read": 70, "images__source": "old", "statistics__n_images": 70},
            "the baseline was measured on other images (70 of old)",
        ),
        (
            {"preprocessing__preprocessing": other_pixels},
            "the baseline was preprocessed otherwise (resize_mode, color_order)",
        ),
    ]
    for then, *told in rows:
        assert staleness(Baseline.model_construct(evidence=but(now, **then)), now) == (*told,)
