"""Signed verdicts: other implementations read them, and nothing but the right key over the right report verifies."""

from __future__ import annotations

import ast
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
from model_signing import signing as their_signing
from model_signing import verifying as their_verifying

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import predicate, read, sealed
from robustcheck_onnx.checker.report.record import Report, to_json
from robustcheck_onnx.checker.text import HOME
from robustcheck_onnx.checker.verify import bundle as bundles
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


def test_a_statement_says_what_the_report_does_and_no_more(passed: Report) -> None:
    expected = signing.statement(passed, "sha256:" + 64 * "0")
    assert signing.differences(json.dumps(expected).encode(), expected) == ()
    for more in (
        expected | {"note": "approved"},
        expected | {"predicate": expected["predicate"] | {"note": "approved"}},
    ):
        assert signing.differences(json.dumps(more).encode(), expected) == ("it says more than the report does",)


def test_signed_and_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sign(place) == 0
    assert verify(place) == 0
    assert capsys.readouterr() == ("", "")


def test_the_envelope_by_hand_and_the_statement_by_other_libraries(place: Path, passed: Report) -> None:
    """DSSE's pre-authentication encoding with bare ECDSA, and in-toto's own classes."""
    assert sign(place) == 0
    envelope = bundle_of(place)["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
    (signature,) = envelope["signatures"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = serialization.load_pem_public_key((place / "key.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(signature["sig"], validate=True), encoded, ec.ECDSA(hashes.SHA256()))

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


def test_sigstores_own_code_verifies_it(place: Path) -> None:
    """npm's @sigstore/verify, which did not sign it; `make .venv/.dev` installs it where npm is."""
    node, modules = shutil.which("node"), Path(sys.prefix) / "node" / "node_modules"
    if node is None or not modules.is_dir():
        pytest.skip("node or npm's @sigstore/verify is not there: make .venv/.dev")

    def by_node(bundle: Path, key: str) -> subprocess.CompletedProcess[bytes]:
        script = ROOT / "tests" / "verify" / "node" / "read_bundle.cjs"
        words = [node, str(script), str(bundle), str(place / key)]
        return subprocess.run(words, env={"NODE_PATH": str(modules)}, capture_output=True, check=False)

    assert sign(place) == 0
    file = place / "report.sigstore.json"
    done = by_node(file, "key.pub")
    assert done.returncode == 0, done.stderr
    assert done.stdout == signing.signed_payload(file, place / "key.pub")
    assert json.loads(done.stdout)["predicate"]["verdict"] == "PASS"
    write_keys(place, "other")
    assert b"PUBLIC_KEY_ERROR" in by_node(file, "other.pub").stderr
    bundle = bundle_of(place)
    _other_payload(bundle)
    file.write_text(json.dumps(bundle), encoding="utf-8")
    done = by_node(file, "key.pub")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"SIGNATURE_ERROR" in done.stderr


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
    assert capsys.readouterr() == ("", "")


def test_every_changed_byte_of_a_bundle_is_noticed(place: Path) -> None:
    assert sign(place) == 0
    file = place / "report.sigstore.json"
    content = file.read_bytes()
    assert json.loads(signing.signed_payload(file, place / "key.pub"))["predicate"]["verdict"] == "PASS"
    for index in range(len(content)):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(bundles.SignatureError):
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
sys.path.insert(0, {tests!r})
from robustcheck_onnx.checker import isolation
from support.no_wall import NoWall
isolation.Wall = NoWall  # in this process, which lacks the package
sys.modules[{package!r}] = None
from robustcheck_onnx.checker import cli
sys.exit(cli.main({arguments!r}))
"""


@pytest.mark.parametrize("package", ["securesystemslib.signer", "cryptography"])
def test_without_the_extra(place: Path, package: str) -> None:
    assert sign(place) == 0
    files = [str(place / "report.json"), str(place / "model.onnx")]
    for arguments, code in (
        (["verify", *files, "--no-rerun", "-qq"], 0),
        (["verify", *files, "--public-key", str(place / "key.pub"), "-qq"], 4),
        (["sign", *files, "--key", str(place / "key.pem"), "-o", str(place / "new.json"), "-qq"], 4),
    ):
        script = WITHOUT.format(package=package, arguments=arguments, tests=str(ROOT / "tests"))
        done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert (".[sign]" in done.stderr) == (code == 4)
    assert not (place / "new.json").exists()


def test_a_report_that_is_another_one_after_the_rerun_is_not_signed(
    place: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Put in the place of the report that was measured, and taken away again: the digest of the file shows nothing."""
    (report,) = (each for each, _ in read(place / "report.json"))
    assert report.binding is not None
    forged = report.model_copy(update={"notes": ()})  # it still states the digest of the other
    from robustcheck_onnx.checker import verify

    monkeypatch.setattr(verify, "report_about", lambda *_: forged)
    (place / "report.sigstore.json").unlink(missing_ok=True)
    assert sign(place, "--images", str(lookup_pass[1])) == 3
    assert "report changed while it was signed; nothing was written" in capsys.readouterr().err
    assert not (place / "report.sigstore.json").exists()


def test_a_key_that_cannot_sign_ends_it_before_the_rerun(
    place: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(verification, "verify", lambda *words, **options: measured.append((words, options)))
    images = ("--images", str(lookup_pass[1]))
    assert sign(place, *images, "--key", str(place / "key.pub")) == 2
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert sign(place, *images) == 4
    assert ".[sign]" in capsys.readouterr().err
    assert measured == []


# ----------------------------------------------------------------------------------------- other forms of it


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "model.onnx", "digest": {"sha256": "ab" * 32}}],
    "predicateType": predicate.PREDICATE_TYPE,
    "predicate": {"verdict": "PASS", "images": {"count": 64}},
}


def written_out(
    payload: bytes, private: ec.EllipticCurvePrivateKey, *, keyid: str | None, prefix: str = "DSSEv1"
) -> dict[str, Any]:
    """A bundle made here, by the specifications of DSSE and of Sigstore's bundle, without any library for them."""
    kind = "application/vnd.in-toto+json"
    public = private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hint = hashlib.sha256(pem).hexdigest()
    encoded = f"{prefix} {len(kind)} {kind} {len(payload)} ".encode() + payload
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


@pytest.mark.parametrize("kind", predicate.KNOWN_TYPES)
@pytest.mark.parametrize("keyid", [None, ""], ids=["keyid", "none"])
def test_earlier_signatures_still_verify(place: Path, passed: Report, kind: str, keyid: str | None) -> None:
    """Made before HOME was set, by earlier versions, or with model-signing, which names no key and makes 64 a 64.0."""
    digest = "sha256:" + hashlib.sha256((place / "report.json").read_bytes()).hexdigest()
    statement = signing.statement(passed, digest) | {"predicateType": kind}
    if keyid is not None:
        statement["predicate"]["images"]["count"] = float(statement["predicate"]["images"]["count"])
    payload, private = json.dumps(statement, sort_keys=True).encode(), write_keys(place)

    def put(made: dict[str, Any]) -> None:
        (place / "report.sigstore.json").write_text(json.dumps(made, indent=2), encoding="utf-8")

    put(written_out(payload, private, keyid=keyid))
    assert verify(place) == 0
    put(written_out(payload.replace(b'"verdict": "PASS"', b'"verdict": "WARN"'), private, keyid=keyid))
    assert verify(place) == 3
    put(written_out(payload.replace(kind.encode(), b"https://example.org/other/v1"), private, keyid=keyid))
    assert verify(place) == 3
    put(written_out(payload, private, keyid=keyid))
    assert cli.main(["check", "none.onnx", "-qq", "-o", f"json={place / 'report.json'}"]) == 2
    assert not (place / "report.sigstore.json").exists()  # it is known as one of ours, whatever its type


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


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    """Such as that of model-signing 0.2, which wrote the version in capitals and the payload as Python shows bytes."""
    key, payload = write_keys(tmp_path), json.dumps(STATEMENT).encode()
    sound, other = written_out(payload, key, keyid=None), written_out(payload, key, keyid=None, prefix="DSSEV1")
    (tmp_path / "b.json").write_text(json.dumps(sound), encoding="utf-8")
    assert signing.signed_payload(tmp_path / "b.json", tmp_path / "key.pub") == payload
    (tmp_path / "b.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(bundles.SignatureError, match="does not hold for this key"):
        signing.signed_payload(tmp_path / "b.json", tmp_path / "key.pub")


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


def test_only_public_names_of_the_libraries_are_used() -> None:
    own = ("__future__", "__cause__", "__name__")  # Python's
    for name in ("bundle.py", "keyless.py", "signature.py"):
        tree = ast.parse((ROOT / "checker" / "verify" / name).read_text(encoding="utf-8"))
        used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        imported = [
            part
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 0
            for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        ]
        assert "securesystemslib" in imported or name != "bundle.py"
        assert [each for each in (*used, *imported) if each.startswith("_") and each not in own] == []


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
loaded = [name for name in ("sigstore", "securesystemslib", "cryptography") if name in sys.modules]
print(code, *loaded)
"""


def test_nothing_of_the_extra_is_loaded_by_a_check_and_signing_opens_no_connection(
    place: Path, lookup_pass: tuple[Path, Path]
) -> None:
    files = [str(place / "report.json"), str(place / "model.onnx")]
    every = "securesystemslib cryptography"
    for arguments, said in (
        (["check", files[1], "--images", str(lookup_pass[1]), "-qq"], "0"),
        (["verify", *files, "--no-rerun", "-qq"], "0"),
        (["sign", *files, "--key", str(place / "key.pem"), "--images", str(lookup_pass[1]), "-qq"], f"0 {every}"),
        (["verify", *files, "--public-key", str(place / "key.pub"), "-qq"], f"0 {every}"),
    ):
        script = OFFLINE.format(arguments=arguments, tests=str(ROOT / "tests"))
        done = subprocess.run([sys.executable, "-Pc", script], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == said, done.stderr


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


def test_signing_says_that_it_has_no_home(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--images", str(place / "photos")]
    assert cli.main(["sign", *files, "--key", str(place / "key.pem"), "-q"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("note: ")] == [f"note: {predicate.HOME_NOTE}"] * (not HOME)
    words = ["check", *files[1:], "-o", f"json={place / 'r.json'}", "--sign", str(place / "key.pem"), "-q"]
    assert cli.main(words) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("note: ")] == [f"note: {predicate.HOME_NOTE}"] * (not HOME)


def test_a_signature_says_where_the_report_is_from(place: Path) -> None:
    """Its holder vouches for the environment, too; without it the report can't, however right its digest is."""
    (report,) = (each for each, _ in read(place / "report.json"))
    moved = report.evidence.execution.model_copy(update={"device": "another processor", "threads": 96})
    evidence = report.evidence.model_copy(update={"execution": moved})
    other = sealed(report.model_copy(update={"evidence": evidence}))
    (place / "report.json").write_text(to_json(other), encoding="utf-8")
    files = [str(place / "report.json"), str(place / "model.onnx"), "--images", str(place / "photos"), "-qq"]
    assert cli.main(["verify", *files]) == 3
    assert cli.main(["sign", *files, "--key", str(place / "key.pem")]) == 3
    assert cli.main(["sign", *files, "--key", str(place / "key.pem"), "--elsewhere"]) == 0
    assert cli.main(["verify", *files, "--public-key", str(place / "key.pub")]) == 0
    assert cli.main(["verify", *files]) == 3
