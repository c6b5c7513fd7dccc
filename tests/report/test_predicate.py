"""`-o predicate`: what another signer attests is what our own signature says of the same run."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from robustcheck_onnx.checker.report import reader
from support import Place, read_json, robustcheck
from support.keys import write_keys

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
