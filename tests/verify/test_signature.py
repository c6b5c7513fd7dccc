"""Signed verdicts: other implementations read them, and nothing but the right key over the right report verifies."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import predicate, sealed
from robustcheck_onnx.checker.report.record import Report, to_json
from robustcheck_onnx.checker.report.signature_file import is_verdict
from robustcheck_onnx.checker.text import HOME, sha256_of
from robustcheck_onnx.checker.verify import bundle as bundles
from robustcheck_onnx.checker.verify import run as verification
from robustcheck_onnx.checker.verify import signature as signing
from support import ROOT, profile
from support.keys import PEM, write_keys

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


def sign(place: Path, *more: str) -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--key", str(place / "key.pem")]
    return cli.main(["sign", *files, "--images", str(place / "photos"), "-qq", *more])


def verify(place: Path, *more: str, key: str = "key.pub") -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--public-key", str(place / key)]
    return cli.main(["verify", *files, "--verify-signature", "-qq", *more])


def bundle_of(place: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / "report.sigstore.json").read_text(encoding="utf-8"))
    return document


def put(place: Path, bundle: dict[str, Any]) -> Path:
    file = place / "report.sigstore.json"
    file.write_text(json.dumps(bundle, indent=2), encoding="utf-8")
    return file


def test_the_envelope_by_hand_and_the_statement_by_other_libraries(signed: Path, passed: Report) -> None:
    """DSSE's pre-authentication encoding with bare ECDSA, and in-toto's own classes."""
    envelope = bundle_of(signed)["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
    (signature,) = envelope["signatures"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = serialization.load_pem_public_key((signed / "key.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(signature["sig"], validate=True), encoded, ec.ECDSA(hashes.SHA256()))

    statement = Statement.copy_from_pb(json_format.Parse(payload, statement_pb2.Statement()))
    statement.validate()
    (subject,) = statement.pb.subject
    assert subject.name == "model.onnx"
    assert subject.digest["sha256"] == hashlib.sha256((signed / "model.onnx").read_bytes()).hexdigest()
    predicate = json.loads(payload)["predicate"]
    assert predicate["verdict"] == "PASS"
    assert predicate["report"]["digest"]["sha256"] == hashlib.sha256((signed / "report.json").read_bytes()).hexdigest()
    assert passed.time is not None
    assert predicate["time"] == passed.time.started


@pytest.mark.long
def test_sigstores_own_code_verifies_it(signed: Path) -> None:
    """npm's @sigstore/verify, which did not sign it; `make .venv/.dev` installs it where npm is."""
    node, modules = shutil.which("node"), Path(sys.prefix) / "node" / "node_modules"
    if node is None or not modules.is_dir():
        pytest.skip("node or npm's @sigstore/verify is not there: make .venv/.dev")

    def by_node(bundle: Path, key: str) -> subprocess.CompletedProcess[bytes]:
        script = ROOT / "tests" / "verify" / "node" / "read_bundle.cjs"
        words = [node, str(script), str(bundle), str(signed / key)]
        return subprocess.run(words, env={"NODE_PATH": str(modules)}, capture_output=True, check=False)

    file = signed / "report.sigstore.json"
    done = by_node(file, "key.pub")
    assert done.returncode == 0, done.stderr
    assert done.stdout == signing.signed_payload(file, signed / "key.pub")
    assert json.loads(done.stdout)["predicate"]["verdict"] == "PASS"
    write_keys(signed, "other")
    assert b"PUBLIC_KEY_ERROR" in by_node(file, "other.pub").stderr
    bundle = bundle_of(signed)
    _other_payload(bundle)
    done = by_node(put(signed, bundle), "key.pub")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"SIGNATURE_ERROR" in done.stderr


def test_every_byte_of_the_report_is_covered(signed: Path) -> None:
    """The result digest leaves the time out and knows no white space; the signature covers both."""
    text = (signed / "report.json").read_text(encoding="utf-8")
    assert text.count('"wall_s": ') == 1
    for other in (text.replace('"wall_s": ', '"wall_s": 1'), text + " "):
        (signed / "report.json").write_text(other, encoding="utf-8")
        assert cli.main(["verify", str(signed / "report.json"), str(signed / "model.onnx"), "--no-rerun", "-qq"]) == 0
        assert verify(signed) == 3


def test_another_key(signed: Path) -> None:
    write_keys(signed, "other")
    assert verify(signed, key="other.pub") == 3
    bundle = bundle_of(signed)
    other = signing.key_id(signed / "other.pub")
    bundle["dsseEnvelope"]["signatures"][0]["keyid"] = other  # it says to be by the other key
    put(signed, bundle)
    assert verify(signed, key="other.pub") == 3


def _other_payload(bundle: dict[str, Any]) -> None:
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["verdict"] = "WARN"
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


def test_a_broken_bundle(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: tuple[Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object], ...] = (
        lambda b, e, k: b.update(mediaType="other"),
        lambda b, e, k: b.pop("dsseEnvelope"),
        lambda b, e, k: b.update(messageSignature={"signature": "AAAA"}),
        lambda b, e, k: e.update(payloadType="text/plain"),
        lambda b, e, k: e.update(signatures=[]),
        lambda b, e, k: e.update(signatures=[1]),
        lambda b, e, k: e["signatures"][0].update(sig=base64.b64encode(b"x" * 70).decode()),
        lambda b, e, k: e["signatures"][0].update(sig="é"),
        lambda b, e, k: e["signatures"].append(e["signatures"][0]),
        lambda b, e, k: e.update(payload=7),
        lambda b, e, k: e.update(payload=e["payload"] + "===="),
        lambda b, e, k: e.update(payload="AAAA\n" + e["payload"]),
        lambda b, e, k: e.update(other=1),
        lambda b, e, k: k.pop("tlogEntries"),
        lambda b, e, k: k["publicKey"].pop("hint"),
        lambda b, e, k: k["publicKey"].update(hint="0" * 64),
        lambda b, e, k: k["publicKey"].update(hint=[]),
        lambda b, e, k: _other_payload(b),
    )
    sound = json.dumps(bundle_of(signed))
    for change in changes:
        bundle = json.loads(sound)
        change(bundle, bundle["dsseEnvelope"], bundle["verificationMaterial"])
        with pytest.raises(bundles.SignatureError):
            signing.signed_payload(put(signed, bundle), signed / "key.pub")
    assert verify(signed) == 3
    assert capsys.readouterr() == ("", "")


def test_every_changed_byte_of_a_bundle_is_noticed(signed: Path) -> None:
    file = signed / "report.sigstore.json"
    content = file.read_bytes()
    assert json.loads(signing.signed_payload(file, signed / "key.pub"))["predicate"]["verdict"] == "PASS"
    for index in range(0, len(content), profile.sized(7, 1)):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(bundles.SignatureError):
            signing.signed_payload(file, signed / "key.pub")


def signature_seen(out: str) -> str:
    findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert findings["report"]["status"] == findings["model"]["status"] == "agrees"
    return str(findings["signature"]["seen"])


def test_a_signature_about_another_report(signed: Path, passed: Report, capsys: pytest.CaptureFixture[str]) -> None:
    other = sealed(passed.model_copy(update={"notes": ()}))
    (signed / "report.json").write_text(to_json(other), encoding="utf-8")
    assert verify(signed, "-o", "json") == 3
    assert "about another report" in signature_seen(capsys.readouterr().out)


def test_a_statement_says_what_the_report_does_and_no_more(passed: Report) -> None:
    expected = signing.statement(passed, "sha256:" + 64 * "0")
    assert signing.differences(json.dumps(expected).encode(), expected) == ()
    for more in (
        expected | {"note": "approved"},
        expected | {"predicate": expected["predicate"] | {"note": "approved"}},
    ):
        assert signing.differences(json.dumps(more).encode(), expected) == ("it says more than the report does",)


def test_what_does_not_hold_is_not_signed(place: Path) -> None:
    with (place / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert sign(place) == 3
    assert not (place / "report.sigstore.json").exists()


def test_a_warn_is_signed_as_one(place: Path, warned: tuple[Path, Report]) -> None:
    shutil.copy(warned[0], place / "model.onnx")
    (place / "report.json").write_text(to_json(warned[1]), encoding="utf-8")
    assert sign(place) == 1
    assert verify(place) == 1
    stated = json.loads(base64.b64decode(bundle_of(place)["dsseEnvelope"]["payload"]))["predicate"]
    assert (stated["verdict"], stated["reasons"]) == ("WARN", [each.id for each in warned[1].verdict.reasons])


def test_keys_that_cannot_serve(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    form = (PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, content in (
        ("text", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("edwards", ed25519.Ed25519PrivateKey.generate().private_bytes(*form)),
        ("curve", ec.generate_private_key(ec.SECP256K1()).private_bytes(*form)),
    ):
        (place / name).write_bytes(content)
    write_keys(place, "locked", b"secret")

    def assert_refused(*names: str) -> None:
        for name in names:
            with pytest.raises(UsageError):
                signing.check_key(place / name)

    assert_refused("text", "edwards", "curve", "key.pub", "none", ".")
    with pytest.raises(UsageError, match="is encrypted"):
        signing.check_key(place / "locked.pem")
    monkeypatch.setenv(signing.PASSWORD, "wrong")
    assert_refused("locked.pem", "key.pem")  # one has no password
    monkeypatch.setenv(signing.PASSWORD, "secret")
    assert sign(place, "--key", str(place / "locked.pem")) == 0
    assert verify(place, key="locked.pub") == 0
    assert "secret" not in capsys.readouterr().err
    for name in ("key.pem", "text", "none"):
        with pytest.raises(UsageError):
            signing.signed_payload(place / "report.sigstore.json", place / name)
    (place / "report.sigstore.json").unlink()
    assert verify(place) == 2


def test_how_signing_and_verifying_are_called(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What needs no instance of Sigstore of test_keyless.py."""
    key, name, issuer = str(place / "key.pem"), "--certificate-identity", "--certificate-oidc-issuer"
    for words, said in (
        (["sign", "--key", key, "-o", key], "is a file that this run reads"),
        (["sign", "--key", key, "--keyless"], "exclude each other"),
        (["sign"], "exclude each other"),
        (["sign", "--key", key, "--trust-config", "t.json"], "--trust-config is of --keyless"),
        (["verify", "--verify-signature"], "belong together"),
        (["verify", name, "a"], "belong together"),
        (["verify", issuer, "i"], "belong together"),
        (["verify", "--trust-config", "t.json"], "belong together"),
        (["verify", name, "a", issuer, ""], "neither may be empty"),
        (["verify", name, "", issuer, "i"], "neither may be empty"),
        (["verify", name, "a", issuer, "i", "--public-key", key], "exclude each other"),
    ):
        files = [str(place / "report.json"), str(place / "model.onnx")]
        assert cli.main([words[0], *files, *words[1:]]) == 2, words
        assert said in capsys.readouterr().err


def test_without_the_extra(signed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(signed / "report.json"), str(signed / "model.onnx")]
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    for words, code in (
        (["verify", *files, "--no-rerun", "-qq"], 0),
        (["verify", *files, "--public-key", str(signed / "key.pub"), "-qq"], 4),
        (["sign", *files, "--key", str(signed / "key.pem"), "-o", str(signed / "new.json"), "-qq"], 4),
    ):
        assert cli.main(words) == code
        assert (".[sign]" in capsys.readouterr().err) == bool(code)
    assert not (signed / "new.json").exists()


def test_a_report_that_is_another_one_after_the_rerun_is_not_signed(
    place: Path, passed: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Put in the place of the report that was measured, and taken away again: the digest of the file shows nothing."""
    forged = passed.model_copy(update={"notes": ()})  # it still states the digest of the other
    from robustcheck_onnx.checker import verify

    monkeypatch.setattr(verify, "report_about", lambda *_: forged)
    assert sign(place) == 3
    assert "report changed while it was signed; nothing was written" in capsys.readouterr().err
    assert not (place / "report.sigstore.json").exists()


def test_a_key_that_cannot_sign_ends_it_before_the_rerun(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[object] = []
    monkeypatch.setattr(verification, "verify", lambda *words, **options: measured.append((words, options)))
    assert sign(place, "--key", str(place / "key.pub")) == 2
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert sign(place) == 4
    assert measured == []


# ----------------------------------------------------------------------------------------- other forms of it


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "model.onnx", "digest": {"sha256": "ab" * 32}}],
    "predicateType": predicate.PREDICATE_TYPE,
    "predicate": {"verdict": "PASS", "images": {"count": 64}},
}


def written_out(payload: bytes, private: ec.EllipticCurvePrivateKey, *, keyid: str | None) -> dict[str, Any]:
    """A bundle made here, by the specifications of DSSE and of Sigstore's bundle, without any library for them."""
    kind = "application/vnd.in-toto+json"
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hint = hashlib.sha256(pem).hexdigest()
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signed = base64.b64encode(private.sign(encoded, ec.ECDSA(hashes.SHA256()))).decode()
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": signed, "keyid": hint if keyid is None else keyid}],
        },
    }


def test_earlier_signatures_still_verify(signed: Path, passed: Report) -> None:
    """Made before HOME was set, by earlier versions, or with model-signing, which names no key and makes 64 a 64.0."""
    digest, private = sha256_of((signed / "report.json").read_bytes()), write_keys(signed)
    for kind in predicate.KNOWN_TYPES:
        for keyid in (None, ""):
            statement = signing.statement(passed, digest) | {"predicateType": kind}
            if keyid is not None:
                statement["predicate"]["images"]["count"] = float(statement["predicate"]["images"]["count"])
            payload = json.dumps(statement, sort_keys=True).encode()
            other_verdict = payload.replace(b'"verdict": "PASS"', b'"verdict": "WARN"')
            other_kind = payload.replace(kind.encode(), b"https://example.org/other/v1")
            for content, code in ((other_verdict, 3), (other_kind, 3), (payload, 0)):
                put(signed, written_out(content, private, keyid=keyid))
                assert verify(signed) == code, (kind, keyid)
        assert is_verdict(signed / "report.sigstore.json")  # it is known as one of ours, whatever its type


def test_larger_curves(tmp_path: Path) -> None:
    curves = ((ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512()))
    for curve, hash_of in curves:
        key = write_keys(tmp_path, curve=curve)
        (tmp_path / "b.json").write_text(signing.sign(STATEMENT, tmp_path / "key.pem"), encoding="utf-8")
        payload = signing.signed_payload(tmp_path / "b.json", tmp_path / "key.pub")
        envelope = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["dsseEnvelope"]
        encoded = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} ".encode() + payload
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        key.public_key().verify(signature, encoded, ec.ECDSA(hash_of))


def test_the_signed_form_says_exactly_what_the_statement_says(tmp_path: Path) -> None:
    write_keys(tmp_path)
    exact: list[Any] = [0, 64, 2**53 + 1, -(10**17), 0.1, 5e-324, 1.7976931348623157e308, None, True, [], {}, "é\u2028"]
    for value in exact:
        statement = STATEMENT | {"predicate": {"value": value}}
        bundle = json.loads(signing.sign(statement, tmp_path / "key.pem"))
        found = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        assert found == statement
        assert type(found["predicate"]["value"]) is type(value)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path)
    subject = [{"name": "m\udcff.onnx", "digest": {"sha256": "ab" * 32}}]
    with pytest.raises(UsageError, match=r"'m\\udcff.onnx': file name is no text; in-toto names .* UTF-8") as fault:
        signing.sign(STATEMENT | {"subject": subject}, tmp_path / "key.pem")
    assert fault.value.hint == "rename the file and check it again"


@pytest.mark.long
def test_a_signature_of_model_signing_about_files_is_no_verdict(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And their own command, which knows lists of files only, says so of ours after it has checked the signature."""
    from model_signing import signing as their_signing
    from model_signing import verifying as their_verifying

    theirs = their_verifying.Config().use_elliptic_key_verifier(public_key=signed / "key.pub")
    with pytest.raises(ValueError, match="Predicate type mismatch"):
        theirs.verify(signed / "model.onnx", signed / "report.sigstore.json")
    theirs = their_signing.Config().use_elliptic_key_signer(private_key=signed / "key.pem")
    theirs.sign(signed / "model.onnx", signed / "report.sigstore.json")
    assert verify(signed, "-o", "json") == 3
    assert "its predicateType is another one" in signature_seen(capsys.readouterr().out)


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
extra = ("sigstore", "securesystemslib", "cryptography")
for arguments in {calls!r}:
    print(cli.main(arguments), *[name for name in extra if name in sys.modules])
"""


@pytest.mark.process
def test_nothing_of_the_extra_is_loaded_by_a_check_and_signing_opens_no_connection(place: Path) -> None:
    files, images = [str(place / "report.json"), str(place / "model.onnx")], ["--images", str(place / "photos")]
    calls = [
        ["check", files[1], *images, "-qq"],
        ["verify", *files, "--no-rerun", "-qq"],
        ["sign", *files, "--key", str(place / "key.pem"), *images, "-qq"],
        ["verify", *files, "--public-key", str(place / "key.pub"), "-qq"],
    ]
    script = OFFLINE.format(calls=calls, tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
    with_extra = "0 securesystemslib cryptography"
    assert done.stdout.splitlines() == ["0", "0", with_extra, with_extra], done.stderr


# ------------------------------------------------------------------------------------- the name of its kind


def test_the_type_follows_the_one_constant_that_says_where_the_project_lives() -> None:
    assert predicate.type_under("https://example.org/o/robustcheck/") == (
        "https://example.org/o/robustcheck/attestation/verdict/v1"
    )
    assert predicate.PREDICATE_TYPE == predicate.type_under(HOME) == predicate.KNOWN_TYPES[0]
    scheme, _, name = predicate.WITHOUT_HOME.rpartition(":")
    assert (scheme, str(uuid.UUID(name))) == ("urn:uuid", name)
    assert bool(predicate.HOME_NOTE) == (not HOME)
    assert ".invalid" not in predicate.PREDICATE_TYPE


def test_a_signature_says_where_the_report_is_from(place: Path, passed: Report) -> None:
    """Its holder vouches for the environment, too; without it the report can't, however right its digest is."""
    moved = passed.evidence.execution.model_copy(update={"device": "another processor", "threads": 96})
    other = sealed(passed.model_copy(update={"evidence": passed.evidence.model_copy(update={"execution": moved})}))
    (place / "report.json").write_text(to_json(other), encoding="utf-8")
    assert sign(place) == 3
    assert sign(place, "--elsewhere") == 0
    assert verify(place, "--images", str(place / "photos")) == 0


def test_the_subject_is_the_file_that_was_verified(place: Path, passed: Report) -> None:
    """A report may give the file any name; its digest is right all the same."""
    model = passed.evidence.model.model_copy(update={"file": "releases/other.onnx"})
    other = sealed(passed.model_copy(update={"evidence": passed.evidence.model_copy(update={"model": model})}))
    (place / "report.json").write_text(to_json(other), encoding="utf-8")
    assert sign(place) == 0
    payload = json.loads(base64.b64decode(bundle_of(place)["dsseEnvelope"]["payload"]))
    assert payload["subject"][0]["name"] == "model.onnx"
    assert verify(place) == 0
