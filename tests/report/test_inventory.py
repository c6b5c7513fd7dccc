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
    facts: Fields = {"file_digest": "sha256:" + "cd" * 32, "external_digests": {"w\n.data": "sha256:" + "ab" * 32}}
    report = gated(reports.warning(), waived=("one_sided",), **facts)
    (component,) = bill(report)["components"]
    hashes = [[{"alg": "SHA-256", "content": content * 32}] for content in ("cd", "ab")]
    assert (component["name"], component["hashes"]) == ("efficientnet-lite0.onnx", hashes[0])
    assert component["components"] == [{"type": "file", "name": "w\\n.data", "hashes": hashes[1]}]
    assert properties(component).items() >= {
        "verdict": ["WARN"],
        "waived": ["one_sided"],
        "reason": [each.id for each in report.verdict.reasons],
        "images_digest": [report.evidence.images.digest],
        "profile_digest": [report.profile.digest],
        "claim": [printable(report.claim)],
    }.items()  # fmt: skip
    (component,) = bill(passed)["components"]  # of the file that was measured
    assert component["hashes"][0]["content"] == sha256(lookup_pass[0])
    assert passed.binding is not None
    assert properties(component)["result_digest"] == [passed.binding.result_digest]


def test_an_error_is_no_verdict() -> None:
    document = bill(FAILED)
    (component,) = document["components"]
    told = {"verdict": ["ERROR"], "exit_code": ["3"], "error": [FAILED.message]}
    assert properties(component).items() >= told.items()
    assert ("hashes" in component, "timestamp" in document["metadata"]) == (False, False)
    assert bill(failed(model=""))["components"][0]["name"] == "model"


def test_the_same_report_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert text_of("cyclonedx", PASSING) == text_of("cyclonedx", PASSING)
    times = [f"2026-01-02T0{hour}:04:05+00:00" for hour in (3, 4)]
    first, later = (but(PASSING, time=Time(started=each, wall_s=1.0, images_per_s=2.0)) for each in times)
    serials = {bill(each)["serialNumber"] for each in (*EVERY, first)}
    assert ({uuid.UUID(each).version for each in serials}, len(serials)) == ({5}, len(EVERY) + 1)
    assert "timestamp" not in bill(PASSING)["metadata"]
    for order in ((first, later), (later, first)):
        assert bill(*order)["metadata"]["timestamp"] == times[0]  # when the first check began


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


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_it_is_the_predicate_that_we_sign_ourselves() -> None:
    words = ("-o", "json=report.json", "-o", "predicate=predicate.json", "--sign", "key.pem")
    assert check("pass.onnx", *words) == 0
    made, report = read_json("predicate.json"), read_json("report.json")
    payload = json.loads(base64.b64decode(read_json("report.sigstore.json")["dsseEnvelope"]["payload"]))
    assert (payload["predicateType"], payload["predicate"]) == (reader.PREDICATE_TYPE, made)
    digest = report["binding"]["result_digest"].removeprefix("sha256:")
    assert made.items() >= {
        "verdict": "PASS",
        "reasons": [],
        "report": {"digest": {"sha256": sha256("report.json")}},
        "time": report["time"]["started"],
    }.items()  # fmt: skip
    assert made["result"]["digest"]["sha256"] == digest


def test_several_models_have_one_each() -> None:
    words = ("-o", "json={model}.json", "-o", "predicate={model}.predicate.json", "--no-time")
    assert check("pass.onnx", "text.onnx", *words) == 3
    made, failed = (read_json(f"{name}.predicate.json") for name in ("pass", "text"))
    assert (made["report"]["digest"]["sha256"], made["time"]) == (sha256("pass.json"), None)
    assert (failed["error"]["exit_code"], "verdict" in failed) == (3, False)
