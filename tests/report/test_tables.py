"""Forms that are templates of this package: GitLab's list, OpenMetrics, the model card, and what their parsers read."""

import json
from pathlib import Path

import pytest

from robustcheck_onnx.checker.text import printable
from robustcheck_onnx.thresholds.profile import DECIDING
from support import reports
from support.form_readers import metrics
from support.outcomes import FAILED, HOSTILE, HOSTILE_REPORT, NOTHING, PASSING, WAIVED, text_of


def test_their_bytes() -> None:
    outcomes = (PASSING, WAIVED, HOSTILE_REPORT, NOTHING, FAILED)
    for form, text in {
        "gitlab": text_of("gitlab", *outcomes),
        "openmetrics": text_of("openmetrics", *outcomes),
        "modelcard": "".join(text_of("modelcard", outcome) for outcome in outcomes),
    }.items():
        golden = Path(__file__).parent / "golden" / f"{form}.txt"
        assert text == golden.read_text(encoding="utf-8"), form
    assert json.loads(text_of("gitlab", PASSING)) == []
    # what their own parser reads of these bytes
    found, second = metrics(*outcomes), WAIVED.evidence.model.file
    strength = [found[f"robustcheck_statistic_{part}"] for part in ("estimate", "low", "high", "threshold")]
    assert [each[second, "strength"] for each in strength] == [2.789, 1.87, 3.708, 4.5]
    assert found["robustcheck_error"][f"{printable(HOSTILE)} (2)",] == 1


@pytest.mark.filterwarnings("ignore")
def test_modelcard_is_read_by_hugging_face() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers (extra export)")
    tiny = reports.report(reports.PASS_STATISTICS | {"strength": reports.interval(1e-05, 1e-07, 2e22)})
    for report in (PASSING, NOTHING, HOSTILE_REPORT, tiny):
        verdict, *results = hub.ModelCard(text_of("modelcard", report)).data.eval_results
        assert verdict.metric_value == report.verdict.verdict
        assert "neither accuracy nor robustness" in verdict.metric_args["claim"]
        told = {r.metric_type: (r.metric_value, r.metric_args["low"], r.metric_args["high"]) for r in results}
        for name in DECIDING:
            expected = (*dict(getattr(report.evidence.statistics, name)).values(),)
            assert told.get(f"robustcheck_{name}", (None, None, None)) == expected
    assert hub.ModelCard(text_of("modelcard", FAILED)).data.eval_results is None
