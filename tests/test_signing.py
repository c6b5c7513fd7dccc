"""Signed verdicts: other implementations read them, and nothing but the right key over the right report verifies."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from model_signing._signing import sign_ec_key

from robustcheck_onnx.checker import check, cli, signing
from robustcheck_onnx.checker.report import Report, to_json


@pytest.fixture(scope="module")
def passed(lookup_pass: tuple[Path, Path]) -> Report:
    model, photos = lookup_pass
    return check(model, images=photos)


@pytest.fixture(autouse=True)
def _own_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """The command mends its process's streams: these are to be the test's own."""


def write_keys(folder: Path, name: str = "key", password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path], passed: Report) -> Path:
    shutil.copy(lookup_pass[0], tmp_path / "model.onnx")
    (tmp_path / "report.json").write_text(to_json(passed), encoding="utf-8")
    write_keys(tmp_path)
    return tmp_path


def sign(place: Path, *more: str) -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--key", str(place / "key.pem")]
    return cli.main(["sign", *files, "-q", "--no-rerun", *more])


def verify(place: Path, *more: str, key: str = "key.pub") -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--public-key", str(place / key)]
    return cli.main(["verify", *files, "--verify-signature", "-q", *more])


def bundle_of(place: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / "report.sigstore.json").read_text(encoding="utf-8"))
    return document


def test_signed_and_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sign(place) == 0
    assert verify(place) == 0
    assert capsys.readouterr() == ("", "")


def test_the_envelope_by_hand_and_the_statement_by_other_libraries(place: Path, passed: Report) -> None:
    """DSSE's pre-authentication encoding with bare ECDSA; in-toto's own classes; model-signing's verifier."""
    assert sign(place) == 0
    envelope = bundle_of(place)["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
    (signature,) = envelope["signatures"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = serialization.load_pem_public_key((place / "key.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(signature["sig"], validate=True), encoded, ec.ECDSA(hashes.SHA256()))

    read = sign_ec_key.Verifier(place / "key.pub")._verify_signed_content(
        sign_ec_key.sigstore_pb.Signature.read(place / "report.sigstore.json")
    )
    assert read == ("application/vnd.in-toto+json", payload)

    statement = Statement.copy_from_pb(json_format.Parse(payload, statement_pb2.Statement()))
    statement.validate()
    (subject,) = statement.pb.subject
    assert subject.name == "model.onnx"
    assert subject.digest["sha256"] == hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()
    predicate = json.loads(payload)["predicate"]
    assert predicate["verdict"] == "PASS"
    assert predicate["report"]["digest"]["sha256"] == hashlib.sha256((place / "report.json").read_bytes()).hexdigest()
    assert passed.time is not None
    assert predicate["time"] == passed.time.started


def test_every_byte_of_the_report_is_covered(place: Path) -> None:
    """The result digest leaves the time out and knows no white space; the signature covers both."""
    assert sign(place) == 0
    text = (place / "report.json").read_text(encoding="utf-8")
    assert text.count('"wall_s": ') == 1
    for other in (text.replace('"wall_s": ', '"wall_s": 1'), text + " "):
        (place / "report.json").write_text(other, encoding="utf-8")
        assert cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), "--no-rerun", "-q"]) == 0
        assert verify(place) == 3


def test_another_key(place: Path) -> None:
    assert sign(place) == 0
    write_keys(place, "other")
    assert verify(place, key="other.pub") == 3
    bundle = bundle_of(place)
    other = signing.key_id(place / "other.pub")
    bundle["dsseEnvelope"]["signatures"][0]["keyid"] = other  # it says to be by the other key
    (place / "report.sigstore.json").write_text(json.dumps(bundle), encoding="utf-8")
    assert verify(place, key="other.pub") == 3


def _other_payload(bundle: dict[str, Any]) -> None:
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["verdict"] = "WARN"
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


@pytest.mark.parametrize(
    "change",
    [
        _other_payload,
        lambda b: b.update(mediaType="other"),
        lambda b: b.pop("dsseEnvelope"),
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"].update(signatures=[1]),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x" * 70).decode()),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="é"),
        lambda b: b["dsseEnvelope"]["signatures"].append(dict(b["dsseEnvelope"]["signatures"][0])),
        lambda b: b["dsseEnvelope"].update(payload=7),
    ],
)
def test_a_broken_bundle(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    assert sign(place) == 0
    bundle = bundle_of(place)
    change(bundle)
    (place / "report.sigstore.json").write_text(json.dumps(bundle), encoding="utf-8")
    assert verify(place) == 3


def test_a_signature_about_another_report(
    place: Path, lookup_pass: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign(place) == 0
    other = check(place / "model.onnx", images=lookup_pass[1], seed=1)
    (place / "report.json").write_text(to_json(other), encoding="utf-8")
    assert verify(place, "-o", "json") == 3
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["report"]["status"] == findings["model"]["status"] == "agrees"
    assert "about another report" in findings["signature"]["seen"]


def test_what_does_not_hold_is_not_signed(place: Path) -> None:
    with (place / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert sign(place) == 3
    assert not (place / "report.sigstore.json").exists()


def test_a_warn_is_signed_as_one(place: Path) -> None:
    report = check(place / "model.onnx", preprocess="clip", max_images=3)
    (place / "report.json").write_text(to_json(report), encoding="utf-8")
    assert report.verdict.verdict == "WARN"
    assert sign(place) == 1
    assert verify(place) == 1
    payload = json.loads(base64.b64decode(bundle_of(place)["dsseEnvelope"]["payload"]))
    assert payload["predicate"]["verdict"] == "WARN"
    assert "too_few_images" in payload["predicate"]["reasons"]


def test_keys_that_cannot_serve(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    keys = {
        "empty": b"",
        "text": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "edwards": edwards.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        "curve": ec.generate_private_key(ec.SECP384R1()).private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "public": (place / "key.pub").read_bytes(),
    }
    for name, content in keys.items():
        (place / name).write_bytes(content)
        assert sign(place, "--key", str(place / name)) == 2, name
    assert sign(place, "--key", str(place / "none")) == 2
    assert sign(place, "--key", str(place)) == 2
    write_keys(place, "locked", b"secret")
    locked = ("--key", str(place / "locked.pem"))
    assert sign(place, *locked) == 2
    assert "is encrypted" in capsys.readouterr().err
    monkeypatch.setenv(signing.PASSWORD, "wrong")
    assert sign(place, *locked) == 2
    assert sign(place) == 2  # a password for a key without one
    monkeypatch.setenv(signing.PASSWORD, "secret")
    assert not (place / "report.sigstore.json").exists()
    assert sign(place, *locked) == 0
    assert verify(place, key="locked.pub") == 0
    assert "secret" not in capsys.readouterr().err
    for name in ("key.pem", "text", "none"):
        assert verify(place, key=name) == 2
    (place / "report.sigstore.json").unlink()
    assert verify(place) == 2
    assert cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), "--verify-signature"]) == 2
    assert sign(place, "-o", str(place / "key.pem")) == 2  # a signature must not replace a key


WITHOUT = """
import sys
sys.modules["securesystemslib"] = None
from robustcheck_onnx.checker import cli
sys.exit(cli.main({arguments!r}))
"""


def test_without_the_extra(place: Path) -> None:
    assert sign(place) == 0
    files = [str(place / "report.json"), str(place / "model.onnx")]
    for arguments, code in (
        (["verify", *files, "--no-rerun", "-q"], 0),
        (["verify", *files, "--public-key", str(place / "key.pub"), "-q"], 4),
        (["sign", *files, "--key", str(place / "key.pem"), "-o", str(place / "new.json"), "-q", "--no-rerun"], 4),
    ):
        script = WITHOUT.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert ("robustcheck-onnx[sign]" in done.stderr) == (code == 4)
    assert not (place / "new.json").exists()
