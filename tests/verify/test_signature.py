"""Signed verdicts: other implementations read them, and nothing but the right key over the right report verifies."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import inspect
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from model_signing import signing as their_signing
from model_signing import verifying as their_verifying
from model_signing._signing import sign_ec_key, sign_sigstore_pb
from packaging.requirements import Requirement
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.report.record import Report, to_json
from robustcheck_onnx.checker.report.signature_file import PREDICATE_TYPE
from robustcheck_onnx.checker.verify import model_signing_calls
from robustcheck_onnx.checker.verify import run as verification
from robustcheck_onnx.checker.verify import signature as signing
from support import ROOT

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


def write_keys(
    folder: Path, name: str = "key", password: bytes | None = None, curve: ec.EllipticCurve | None = None
) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(curve or ec.SECP256R1())
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
    (tmp_path / "photos").symlink_to(lookup_pass[1])
    (tmp_path / "report.json").write_text(to_json(passed), encoding="utf-8")
    write_keys(tmp_path)
    return tmp_path


def sign(place: Path, *more: str) -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--key", str(place / "key.pem")]
    return cli.main(["sign", *files, "--images", str(place / "photos"), "-qq", *more])


def verify(place: Path, *more: str, key: str = "key.pub") -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--public-key", str(place / key)]
    return cli.main(["verify", *files, "--verify-signature", "-qq", *more])


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
        assert cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), "--no-rerun", "-qq"]) == 0
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
        lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"] + "===="),
        lambda b: b["dsseEnvelope"].update(
            payload=b["dsseEnvelope"]["payload"][:9] + "\n" + b["dsseEnvelope"]["payload"]
        ),
        lambda b: b["dsseEnvelope"].update(other=1),
        lambda b: b["verificationMaterial"].pop("tlogEntries"),
        lambda b: b["verificationMaterial"]["publicKey"].pop("hint"),
        lambda b: b["verificationMaterial"]["publicKey"].update(hint=None),
        lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64),
        lambda b: b["verificationMaterial"]["publicKey"].update(hint=[]),
        lambda b: b.update(messageSignature={"signature": "AAAA"}),
    ],
)
def test_a_broken_bundle(
    place: Path, change: Callable[[dict[str, Any]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign(place) == 0
    bundle = bundle_of(place)
    change(bundle)
    (place / "report.sigstore.json").write_text(json.dumps(bundle), encoding="utf-8")
    assert verify(place) == 3
    assert capsys.readouterr() == ("", "")  # model-signing prints to stdout where the hint is missing


def test_every_changed_byte_of_a_bundle_is_noticed(place: Path) -> None:
    assert sign(place) == 0
    file = place / "report.sigstore.json"
    content = file.read_bytes()
    assert json.loads(signing.signed_payload(file, place / "key.pub"))["predicate"]["verdict"] == "PASS"
    for index in range(len(content)):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(signing.SignatureError):
            signing.signed_payload(file, place / "key.pub")


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
    report = check(place / "model.onnx", images=place / "photos", preprocess="clip", max_images=3)
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
        "curve": ec.generate_private_key(ec.SECP256K1()).private_bytes(
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
sys.modules[{package!r}] = None
from robustcheck_onnx.checker import cli
sys.exit(cli.main({arguments!r}))
"""


@pytest.mark.parametrize("package", ["model_signing", "OpenSSL", "cryptography"])
def test_without_the_extra(place: Path, package: str) -> None:
    assert sign(place) == 0
    files = [str(place / "report.json"), str(place / "model.onnx")]
    for arguments, code in (
        (["verify", *files, "--no-rerun", "-qq"], 0),
        (["verify", *files, "--public-key", str(place / "key.pub"), "-qq"], 4),
        (["sign", *files, "--key", str(place / "key.pem"), "-o", str(place / "new.json"), "-qq"], 4),
    ):
        script = WITHOUT.format(package=package, arguments=arguments)
        done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert (".[sign]" in done.stderr) == (code == 4)
    assert not (place / "new.json").exists()


def test_a_key_that_cannot_sign_ends_it_before_the_rerun(
    place: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(verification, "verify", lambda *words, **options: measured.append((words, options)))
    images = ("--images", str(lookup_pass[1]))
    assert sign(place, *images, "--key", str(place / "key.pub")) == 2
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert sign(place, *images) == 4
    assert ".[sign]" in capsys.readouterr().err
    assert measured == []


# ------------------------------------------------------------------------------------- through model-signing


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "model.onnx", "digest": {"sha256": "ab" * 32}}],
    "predicateType": PREDICATE_TYPE,
    "predicate": {"verdict": "PASS", "images": {"count": 64}},
}


def as_before(payload: bytes, private: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """A bundle as this package wrote it with securesystemslib, before it signed through model-signing."""
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    key = SSlibKey.from_crypto(public, keyid=hashlib.sha256(pem).hexdigest())
    envelope = Envelope(payload, "application/vnd.in-toto+json", {})
    envelope.sign(CryptoSigner(private, key))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.keyid}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }


def test_an_earlier_signature_of_this_package_still_verifies(place: Path, passed: Report) -> None:
    digest = "sha256:" + hashlib.sha256((place / "report.json").read_bytes()).hexdigest()
    payload = json.dumps(signing.statement(passed, digest), sort_keys=True).encode()
    private = write_keys(place)
    (place / "report.sigstore.json").write_text(json.dumps(as_before(payload, private), indent=2), encoding="utf-8")
    assert verify(place) == 0
    other = payload.replace(b'"verdict": "PASS"', b'"verdict": "WARN"')
    (place / "report.sigstore.json").write_text(json.dumps(as_before(other, private)), encoding="utf-8")
    assert verify(place) == 3


@pytest.mark.parametrize(
    ("curve", "hash_of"), [(ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())], ids=["P-384", "P-521"]
)
def test_larger_curves(place: Path, curve: ec.EllipticCurve, hash_of: hashes.HashAlgorithm) -> None:
    key = write_keys(place, curve=curve)
    assert sign(place) == 0
    assert verify(place) == 0
    envelope = bundle_of(place)["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    encoded = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} ".encode() + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    key.public_key().verify(signature, encoded, ec.ECDSA(hash_of))


def test_the_encoding_of_model_signing_0_2_is_refused(tmp_path: Path) -> None:
    """model-signing's verifier takes it; it is no DSSE v1."""
    key = write_keys(tmp_path)
    bundle = json.loads(signing.sign(STATEMENT, tmp_path / "key.pem"))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    made = key.sign(sign_sigstore_pb.pae_compat(payload), ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(made).decode()
    (tmp_path / "old.json").write_text(json.dumps(bundle), encoding="utf-8")
    assert model_signing_calls.verify(bundle, tmp_path / "key.pub") == ("application/vnd.in-toto+json", payload)
    with pytest.raises(signing.SignatureError, match="does not hold for this key"):
        signing.signed_payload(tmp_path / "old.json", tmp_path / "key.pub")


def test_model_signing_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain rule alone is not enough, nor another payload."""
    write_keys(tmp_path)
    (tmp_path / "b.json").write_text(signing.sign(STATEMENT, tmp_path / "key.pem"), encoding="utf-8")
    monkeypatch.setattr(model_signing_calls, "verify", lambda *_: ("application/vnd.in-toto+json", b"{}"))
    with pytest.raises(signing.SignatureError, match="something else for model-signing"):
        signing.signed_payload(tmp_path / "b.json", tmp_path / "key.pub")


def test_the_signed_form_says_exactly_what_the_statement_says(tmp_path: Path) -> None:
    """in-toto's classes keep numbers as doubles: what a double can't hold is refused, not rounded."""
    write_keys(tmp_path)
    exact: list[Any] = [0, 64, 2**53, -(2**53), 0.1, 5e-324, 1.7976931348623157e308, None, True, [], {}, "é\u2028", [1]]
    for value in exact:
        statement = STATEMENT | {"predicate": {"value": value}}
        bundle = json.loads(signing.sign(statement, tmp_path / "key.pem"))
        found = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        assert found == statement
        assert type(found["predicate"]["value"]) is (float if type(value) is int else type(value))
    for value in (2**53 + 1, {"deep": [10**17 + 1]}):
        with pytest.raises(CannotAssessError, match="statement is changed by its signed form; what is signed must be"):
            signing.sign(STATEMENT | {"predicate": {"value": value}}, tmp_path / "key.pem")
    with pytest.raises(CannotAssessError, match="must be exact"):  # a field that in-toto's classes do not carry
        signing.sign(STATEMENT | {"other": 1}, tmp_path / "key.pem")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path)
    subject = [{"name": "m\udcff.onnx", "digest": {"sha256": "ab" * 32}}]
    with pytest.raises(UsageError, match=r"'m\\udcff.onnx': file name is no text; in-toto names .* UTF-8") as fault:
        signing.sign(STATEMENT | {"subject": subject}, tmp_path / "key.pem")
    assert fault.value.hint == "rename the file and check it again"


def test_a_key_that_changes_while_it_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(tmp_path)
    write_keys(tmp_path, "other")
    real = model_signing_calls.sign
    monkeypatch.setattr(model_signing_calls, "sign", lambda made, _, word: real(made, tmp_path / "other.pem", word))
    with pytest.raises(UsageError, match="private key changed while it signed"):
        signing.sign(STATEMENT, tmp_path / "key.pem")


def test_a_signature_of_model_signing_about_files_is_no_verdict(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And their own command, which knows lists of files only, says so of ours after it has checked the signature."""
    assert sign(place) == 0
    theirs = their_verifying.Config().use_elliptic_key_verifier(public_key=place / "key.pub")
    with pytest.raises(ValueError, match="Predicate type mismatch"):
        theirs.verify(place / "model.onnx", place / "report.sigstore.json")
    theirs = their_signing.Config().use_elliptic_key_signer(private_key=place / "key.pem")
    theirs.sign(place / "model.onnx", place / "report.sigstore.json")
    assert verify(place, "-o", "json") == 3
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert "its predicateType is another one" in findings["signature"]["seen"]


def test_what_is_used_of_model_signing_is_still_there(tmp_path: Path) -> None:
    """Names that are not public: if this fails, checker/verify/model_signing_calls.py must follow a new release."""
    release = f"model-signing {importlib.metadata.version('model-signing')}"
    changed = f"{release} has changed: see checker/verify/model_signing_calls.py"
    write_keys(tmp_path)
    signer = vars(their_signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")).get("_signer")
    assert list(inspect.signature(getattr(signer, "sign", print)).parameters) == ["payload"], changed
    verifier = vars(their_verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub")).get(
        "_verifier"
    )
    asked = getattr(verifier, "_verify_signed_content", print)
    assert list(inspect.signature(asked).parameters) == ["signature"], changed
    assert list(inspect.signature(sign_sigstore_pb.Signature).parameters) == ["bundle"], changed


def test_the_version_range_is_the_same_in_the_code_and_in_the_extra(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (named,) = (r for r in map(Requirement, extras["sign"]) if r.name == "model-signing")
    for version in ("1.0.1", "1.1.0", "1.1.1", "1.1.9", "1.2.0", "1.10.0", "2.0.0", "11.1.0"):
        assert model_signing_calls.usable(version) == named.specifier.contains(version), version
    monkeypatch.setattr(signing, "version", lambda _: "1.2.0")
    with pytest.raises(EnvironmentFaultError, match=r"model-signing: version is 1\.2\.0; it must be >=1\.1,<1\.2"):
        signing.check_key(place / "key.pem")
    assert sign(place) == 4
    assert ".[sign]" in capsys.readouterr().err


OFFLINE = """
import sys
sys.path.insert(0, {tests!r})
from robustcheck_onnx.checker import isolation
from support.no_wall import NoWall
isolation.Wall = NoWall  # in this process, which is watched
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(99)
sys.addaudithook(watch)
from robustcheck_onnx.checker import cli
code = cli.main({arguments!r})
loaded = [name for name in ("model_signing", "sigstore", "securesystemslib", "cryptography") if name in sys.modules]
print(code, *loaded)
"""


def test_nothing_of_the_extra_is_loaded_by_a_check_and_signing_opens_no_connection(
    place: Path, lookup_pass: tuple[Path, Path]
) -> None:
    files = [str(place / "report.json"), str(place / "model.onnx")]
    every = "model_signing sigstore securesystemslib cryptography"
    for arguments, said in (
        (["check", files[1], "--images", str(lookup_pass[1]), "-qq"], "0"),
        (["verify", *files, "--no-rerun", "-qq"], "0"),
        (["sign", *files, "--key", str(place / "key.pem"), "--images", str(lookup_pass[1]), "-qq"], f"0 {every}"),
        (["verify", *files, "--public-key", str(place / "key.pub"), "-qq"], f"0 {every}"),
    ):
        script = OFFLINE.format(arguments=arguments, tests=str(ROOT / "tests"))
        done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == said, done.stderr
