"""The form for inventories of models: CycloneDX by its official schema."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from robustcheck_onnx.checker.report.record import Outcome, Report, Time
from robustcheck_onnx.checker.storage import write
from robustcheck_onnx.checker.text import printable
from support import Place
from support.outcomes import EVERY, FAILED, PASSING, WAIVED, failed, text_of

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def bill(*outcomes: Outcome) -> dict[str, Any]:
    text = text_of("cyclonedx", *outcomes)
    fault = VALIDATOR.validate_str(text)
    assert fault is None, str(fault)[-500:]
    assert write.OURS.match(text.encode())
    document: dict[str, Any] = json.loads(text)
    return document


def properties(component: dict[str, Any]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for each in component["properties"]:
        assert each["value"].isprintable()
        out.setdefault(each["name"].removeprefix("robustcheck:"), []).append(each["value"])
    return out


def test_every_outcome_is_a_component_by_the_official_schema() -> None:
    document = bill(*EVERY)
    components = document["components"]
    assert [each["type"] for each in components] == ["machine-learning-model"] * len(EVERY)
    assert len({each["bom-ref"] for each in components}) == len(EVERY)
    assert VALIDATOR.validate_str(json.dumps(document | {"other": 1})) is not None  # it can find something
    for outcome in EVERY:
        bill(outcome)


def test_what_a_component_says() -> None:
    weights = {"w\n.data": "sha256:" + "ab" * 32}
    facts = {"file_digest": "sha256:" + "cd" * 32, "external_digests": weights}
    model = WAIVED.evidence.model.model_copy(update=facts)
    evidence = WAIVED.evidence.model_copy(update={"model": model})
    (component,) = bill(WAIVED.model_copy(update={"evidence": evidence}))["components"]
    said = properties(component)
    assert component["name"] == "efficientnet-lite0.onnx"
    assert component["hashes"] == [{"alg": "SHA-256", "content": model.file_digest.removeprefix("sha256:")}]
    assert said["verdict"] == ["WARN"]
    assert said["reason"] == [each.id for each in WAIVED.verdict.reasons]
    assert set(said["waived"]) == {"rectified", "assumed_preprocessing"}
    assert said["images_digest"] == [WAIVED.evidence.images.digest]
    assert said["profile_digest"] == [WAIVED.profile.digest]
    assert said["claim"] == [printable(WAIVED.claim)]
    (file,) = component["components"]
    assert file == {"type": "file", "name": "w\\n.data", "hashes": [{"alg": "SHA-256", "content": "ab" * 32}]}


def test_the_hashes_are_those_of_the_file_that_was_measured(passed: Report, lookup_pass: Place) -> None:
    (component,) = bill(passed)["components"]
    assert component["hashes"][0]["content"] == hashlib.sha256(lookup_pass[0].read_bytes()).hexdigest()
    assert passed.binding is not None
    assert properties(component)["result_digest"] == [passed.binding.result_digest]


def test_an_error_is_no_verdict() -> None:
    (component,) = bill(FAILED)["components"]
    said = properties(component)
    assert said["verdict"] == ["ERROR"]
    assert said["exit_code"] == ["3"]
    assert said["error"] == [FAILED.message]
    assert "hashes" not in component
    assert "timestamp" not in bill(FAILED)["metadata"]
    (nameless,) = bill(failed(model=""))["components"]
    assert nameless["name"] == "model"


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert text_of("cyclonedx", PASSING) == text_of("cyclonedx", PASSING)
    serials = {bill(each)["serialNumber"] for each in EVERY}
    assert len(serials) == len(EVERY)
    assert {uuid.UUID(each).version for each in serials} == {5}
    times = [f"2026-01-02T0{hour}:04:05+00:00" for hour in (3, 4)]
    first, later = (
        PASSING.model_copy(update={"time": Time(started=each, wall_s=1.0, images_per_s=2.0)}) for each in times
    )
    for order in ((first, later), (later, first)):
        assert bill(*order)["metadata"]["timestamp"] == times[0]  # when the first check began
    assert "timestamp" not in bill(PASSING)["metadata"]
    assert bill(first)["serialNumber"] not in serials
