"""Forms that are templates of this package: GitLab's list, OpenMetrics, the model card, and what their parsers read."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustcheck_onnx.checker.report.record import Failed
from robustcheck_onnx.checker.text import printable
from robustcheck_onnx.thresholds.profile import STATISTICS
from support import reports
from support.form_readers import metrics
from support.outcomes import FAILED, HOSTILE_REPORT, NOTHING, PASSING, WAIVED, WARNING, text_of


def test_their_bytes() -> None:
    outcomes = (PASSING, WAIVED, HOSTILE_REPORT, NOTHING, FAILED)
    golden = Path(__file__).parent / "golden"
    cards = "".join(text_of("modelcard", outcome) for outcome in outcomes)
    for form, text in (
        ("gitlab", text_of("gitlab", *outcomes)),
        ("openmetrics", text_of("openmetrics", *outcomes)),
        ("modelcard", cards),
    ):
        assert text == (golden / f"{form}.txt").read_text(encoding="utf-8"), form


def test_openmetrics() -> None:
    found = metrics(PASSING, WAIVED, NOTHING, FAILED)
    names = [printable(o.model) if isinstance(o, Failed) else o.evidence.model.file for o in (PASSING, WAIVED, FAILED)]
    again = f"{names[0]} (2)"
    assert found["robustcheck_verdict"] == {(names[0],): 1, (names[1],): 0, (again,): 0}
    assert found["robustcheck_warn_kind"] == {(n, "not_established"): 1 for n in (names[1], again)}
    assert found["robustcheck_error"] == {(names[0],): 0, (names[1],): 0, (again,): 0, (names[2],): 1}
    assert found["robustcheck_exit_code"][(names[2],)] == 3
    for part, value in {"estimate": 19.95, "low": 17.41, "high": 22.49, "threshold": 8.0}.items():
        assert found[f"robustcheck_statistic_{part}"][(names[1], "kurtosis")] == value
    assert (again, "kurtosis") not in found["robustcheck_statistic_low"]  # not measured: no sample
    assert found["robustcheck_images"][(names[0],)] == 162
    assert found["robustcheck_wall_seconds"] == {(names[1],): 12.34}
    assert found["robustcheck_reason"][(names[1], "rectified", "not_applicable", "yes")] == 1
    assert found["robustcheck_reason"][(names[1], "no_persistent_outlier_features", "absent", "no")] == 1


@pytest.mark.filterwarnings("ignore")
def test_modelcard_is_read_by_hugging_face() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers (extra export)")
    for report in (PASSING, WARNING, NOTHING, HOSTILE_REPORT):
        text = text_of("modelcard", report)
        card = hub.ModelCard(text)
        results = {result.metric_type: result for result in card.data.eval_results}
        assert results["robustcheck_verdict"].metric_value == report.verdict.verdict
        assert "neither accuracy nor robustness" in results["robustcheck_verdict"].metric_args["claim"]
        for name in STATISTICS:
            estimate = getattr(report.evidence.statistics, name).estimate
            found = results.get(f"robustcheck_{name}")
            assert (found.metric_value if found else None) == estimate
        assert not {"accuracy", "robustness"} & set(results)
        assert report.verdict.verdict in card.text
    tiny = reports.report(reports.PASS_STATISTICS | {"kurtosis": reports.interval(1e-05, 1e-07, 2e22)})
    (metric,) = [r for r in hub.ModelCard(text_of("modelcard", tiny)).data.eval_results if "kurtosis" in r.metric_type]
    assert (metric.metric_value, metric.metric_args["low"], metric.metric_args["high"]) == (1e-05, 1e-07, 2e22)
    error = hub.ModelCard(text_of("modelcard", FAILED))
    assert error.data.eval_results is None
    assert "ERROR" in error.text
