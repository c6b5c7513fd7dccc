"""Forms for inventories of models: CycloneDX by its official schema, the hub's evaluation results by its library."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import parse_eval_result_entries

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.report import forms
from robustcheck_onnx.checker.report.record import Outcome, Report, Time
from robustcheck_onnx.checker.report.words import statistics_of
from robustcheck_onnx.checker.storage import write
from robustcheck_onnx.checker.text import printable
from support.outcomes import EVERY, FAILED, HOSTILE_REPORT, PASSING, PLACE, WAIVED, WARNING, failed, text_of

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


TIMED = PASSING.model_copy(update={"time": Time(started="2026-01-02T03:04:05+00:00", wall_s=1.0, images_per_s=2.0)})


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


def on_the_hub(report: Report, source: str) -> Report:
    images = report.evidence.images.model_copy(update={"source": source})
    return report.model_copy(update={"evidence": report.evidence.model_copy(update={"images": images})})


# ---------------------------------------------------------------------------------------------- CycloneDX


def test_the_timestamp_is_when_the_first_check_began() -> None:
    assert TIMED.time is not None
    later = TIMED.model_copy(update={"time": TIMED.time.model_copy(update={"started": "2026-01-02T04:00:00+00:00"})})
    for order in ((TIMED, later), (later, TIMED)):
        assert bill(*order)["metadata"]["timestamp"] == TIMED.time.started


def test_every_outcome_is_a_component_by_the_official_schema() -> None:
    document = bill(*EVERY)
    components = document["components"]
    assert [each["type"] for each in components] == ["machine-learning-model"] * len(EVERY)
    assert len({each["bom-ref"] for each in components}) == len(EVERY)
    assert VALIDATOR.validate_str(json.dumps(document | {"other": 1})) is not None  # it can find something
    for outcome in EVERY:
        bill(outcome)


def test_what_a_component_says() -> None:
    model = WAIVED.evidence.model.model_copy(update={"file_digest": "sha256:" + "cd" * 32})
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


def test_the_hashes_are_those_of_the_file_that_was_measured(passed: Report, lookup_pass: tuple[Path, Path]) -> None:
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


def test_weights_are_files_with_their_hashes() -> None:
    weights = {"w\n.data": "sha256:" + "ab" * 32}
    model = PASSING.evidence.model.model_copy(update={"external_digests": weights})
    evidence = PASSING.evidence.model_copy(update={"model": model})
    (component,) = bill(PASSING.model_copy(update={"evidence": evidence}))["components"]
    (file,) = component["components"]
    assert file == {"type": "file", "name": "w\\n.data", "hashes": [{"alg": "SHA-256", "content": "ab" * 32}]}


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert text_of("cyclonedx", PASSING) == text_of("cyclonedx", PASSING)
    serials = {bill(each)["serialNumber"] for each in EVERY}
    assert len(serials) == len(EVERY)
    assert {uuid.UUID(each).version for each in serials} == {5}
    timed = bill(WARNING, TIMED)["metadata"]["timestamp"]
    assert datetime.fromisoformat(timed) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "timestamp" not in bill(PASSING)["metadata"]
    assert bill(TIMED)["serialNumber"] not in serials


# ----------------------------------------------------------------------- the hub's evaluation results


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("source", "revision"),
    [
        ("hf://datasets/org/photos", None),
        ("hf://datasets/org/photos/train", None),
        (f"hf://datasets/org/photos@{COMMIT}/a/*.jpg", COMMIT),
        ("hf://datasets/org/photos@main/a", None),  # a branch moves
    ],
)
@pytest.mark.parametrize("report", [TIMED, WARNING])
def test_images_of_the_hub_give_entries(report: Report, source: str, revision: str | None) -> None:
    text = text_of("evalresults", on_the_hub(report, source))
    assert write.OURS.match(text.encode())
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert {(each.dataset_id, each.dataset_revision) for each in entries} == {("org/photos", revision)}
    values = {each.task_id: each.value for each in entries}
    assert values.pop("robustcheck_verdict") == (report.verdict.verdict == "PASS")
    assert values == {
        f"robustcheck_{s.id}": s.interval.estimate for s in statistics_of(report) if s.interval.estimate is not None
    }
    assert f"verdict {report.verdict.verdict}" in str(entries[0].notes)
    assert "neither accuracy nor robustness" in str(entries[0].notes)
    assert report.evidence.model.digest in str(entries[0].notes)
    assert entries[0].date == (report.time.started if report.time else None)


@pytest.mark.parametrize(
    "outcome",
    [
        *(each for each in EVERY if isinstance(each, Report)),
        on_the_hub(PASSING, "hf://org/model/photos"),  # a model's repository
        on_the_hub(PASSING, "hf://datasets/photos"),
        on_the_hub(PASSING, "photos/hf://datasets/org/photos"),
        FAILED,
        failed(message="m.onnx:\n- dataset: {id: a/b}"),
    ],
)
def test_what_the_format_has_no_place_for_is_the_empty_list(outcome: Outcome) -> None:
    text = text_of("evalresults", outcome)
    assert yaml.safe_load(text) == []
    assert all(line.startswith("#") for line in text.splitlines()[:-1])
    assert ("can name no others" in text) == isinstance(outcome, Report)


def test_hostile_names_stay_in_their_entry() -> None:
    text = text_of("evalresults", on_the_hub(HOSTILE_REPORT, "hf://datasets/o\n- a: 1/n\x1b[31m/x"))
    entries = yaml.safe_load(text)
    assert {each["dataset"]["id"] for each in entries} == {"o\\n- a: 1/n\\x1b[31m"}


def test_without_the_extra(
    lookup_pass: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EnvironmentFaultError, match=r"huggingface_hub: package is missing.*extra `hub`"):
        forms.render("evalresults", [on_the_hub(PASSING, "hf://datasets/org/photos")], PLACE)
    model, photos = map(str, lookup_pass)
    target = tmp_path / "e.yaml"
    target.write_text("# robustcheck: evaluation results\n- earlier\n", encoding="utf-8")
    other = tmp_path / "other.onnx"
    shutil.copy(model, other)
    for name in (str(target), str(tmp_path / "{model}.yaml")):
        assert cli.main(["check", model, "--images", photos, "-qq", "-o", f"evalresults={name}"]) == 4
        assert ".[hub]" in capsys.readouterr().err
    assert yaml.safe_load(target.read_text(encoding="utf-8")) == []
    assert cli.main(["check", model, str(other), "--images", photos, "-qq", "-o", f"evalresults={target}"]) == 2
    assert "it holds one model only" in capsys.readouterr().err
