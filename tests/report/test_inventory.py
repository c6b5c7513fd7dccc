"""The forms for inventories and for signers: CycloneDX by its official schema, and the predicate."""

import base64
import hashlib
import json
import uuid
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from robustcheck_onnx.checker.report import reader
from robustcheck_onnx.checker.report.record import Outcome, Report, Time
from robustcheck_onnx.checker.storage import stores
from robustcheck_onnx.checker.text import printable
from support import Fields, Place, but, read_json, reports, robustcheck
from support.keys import write_keys
from support.outcomes import EVERY, FAILED, PASSING, failed, gated, text_of

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def bill(*outcomes: Outcome) -> Fields:
    text = text_of("cyclonedx", *outcomes)
    fault = VALIDATOR.validate_str(text)
    assert fault is None, str(fault)[-500:]
    assert stores.OURS.match(text.encode())
    document: Fields = json.loads(text)
    return document


def properties(component: Fields) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for each in component["properties"]:
        assert each["value"].isprintable()
        out.setdefault(each["name"].removeprefix("robustcheck:"), []).append(each["value"])
    return out


def test_every_outcome_is_a_component_by_the_official_schema() -> None:
    document = bill(*EVERY)
    assert [each["type"] for each in document["components"]] == ["machine-learning-model"] * len(EVERY)
    assert len({each["bom-ref"] for each in document["components"]}) == len(EVERY)
    assert VALIDATOR.validate_str(json.dumps(document | {"other": 1})) is not None  # it can find something


def test_what_a_component_says(passed: Report, lookup_pass: Place) -> None:
    facts: Fields = {
        "file_digest": "sha256:" + "cd" * 32,
        "external_digests": {"w\n.data": "sha256:" + "ab" * 32},
    }
    report = gated(reports.warning(), waived=("one_sided",), **facts)
    (component,) = bill(report)["components"]
    hashes = [{"alg": "SHA-256", "content": "cd" * 32}]
    assert (component["name"], component["hashes"]) == ("efficientnet-lite0.onnx", hashes)
    said = properties(component)
    assert (said["verdict"], said["waived"]) == (["WARN"], ["one_sided"])
    assert said["reason"] == [each.id for each in report.verdict.reasons]
    assert said["images_digest"] == [report.evidence.images.digest]
    assert (said["profile_digest"], said["claim"]) == ([report.profile.digest], [printable(report.claim)])
    (file,) = component["components"]
    assert file == {"type": "file", "name": "w\\n.data", "hashes": [{"alg": "SHA-256", "content": "ab" * 32}]}
    (component,) = bill(passed)["components"]  # of the file that was measured
    assert component["hashes"][0]["content"] == hashlib.sha256(lookup_pass[0].read_bytes()).hexdigest()
    assert passed.binding is not None
    assert properties(component)["result_digest"] == [passed.binding.result_digest]


def test_an_error_is_no_verdict() -> None:
    document = bill(FAILED)
    (component,) = document["components"]
    assert properties(component).items() >= {
        "verdict": ["ERROR"], "exit_code": ["3"], "error": [FAILED.message],
    }.items()  # fmt: skip
    assert "hashes" not in component
    assert "timestamp" not in document["metadata"]
    assert bill(failed(model=""))["components"][0]["name"] == "model"


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert text_of("cyclonedx", PASSING) == text_of("cyclonedx", PASSING)
    times = [f"2026-01-02T0{hour}:04:05+00:00" for hour in (3, 4)]
    first, later = (but(PASSING, time=Time(started=each, wall_s=1.0, images_per_s=2.0)) for each in times)
    serials = {bill(each)["serialNumber"] for each in (*EVERY, first)}
    assert {uuid.UUID(each).version for each in serials} == {5}
    assert len(serials) == len(EVERY) + 1
    for order in ((first, later), (later, first)):
        assert bill(*order)["metadata"]["timestamp"] == times[0]  # when the first check began
    assert "timestamp" not in bill(PASSING)["metadata"]


pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


@pytest.fixture(autouse=True)
def here(tmp_path: Path, lookup_pass: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """pass.onnx, text.onnx (no model), photos and a key; the current folder."""
    for name, there in zip(("pass.onnx", "photos"), lookup_pass, strict=True):
        (tmp_path / name).symlink_to(there)
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    write_keys(tmp_path)
    monkeypatch.chdir(tmp_path)


def check(*words: str) -> int:
    return robustcheck("check", *words, "--images", "photos", "-qq")


def sha256(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_it_is_the_predicate_that_we_sign_ourselves() -> None:
    words = ("-o", "json=report.json", "-o", "predicate=predicate.json", "--sign", "key.pem")
    assert check("pass.onnx", *words) == 0
    made, report = read_json("predicate.json"), read_json("report.json")
    payload = json.loads(base64.b64decode(read_json("report.sigstore.json")["dsseEnvelope"]["payload"]))
    assert made == payload["predicate"]
    assert payload["predicateType"] == reader.PREDICATE_TYPE
    assert (made["verdict"], made["reasons"]) == ("PASS", [])
    assert made["report"] == {"digest": {"sha256": sha256("report.json")}}
    assert made["result"]["digest"]["sha256"] == report["binding"]["result_digest"].removeprefix("sha256:")
    assert made["time"] == report["time"]["started"]


def test_several_models_have_one_each() -> None:
    words = ("-o", "json={model}.json", "-o", "predicate={model}.predicate.json", "--no-time")
    assert check("pass.onnx", "text.onnx", *words) == 3
    made = read_json("pass.predicate.json")
    assert (made["report"]["digest"]["sha256"], made["time"]) == (sha256("pass.json"), None)
    failed = read_json("text.predicate.json")
    assert failed["error"]["exit_code"] == 3
    assert "verdict" not in failed
