"""Signed verdicts, by `sign` and by `check --sign`: only the right key over the right report verifies."""

import base64
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.outside.storage import documents
from robustcheck_onnx.checker.questions import check as pipeline
from robustcheck_onnx.checker.report import attestation
from robustcheck_onnx.checker.report.attestation import is_verdict
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.record import sealed, to_json
from robustcheck_onnx.checker.text import HOME, sha256_of
from robustcheck_onnx.checker.trust.verify import run as verification
from robustcheck_onnx.checker.trust.verify import signature as signing
from support import ROOT, Capture, Fields, Patch, but, extra, flip, raised, read_json, robustcheck, sized
from support.bad_input import run
from support.keys import PEM, changed, signature_seen, write_keys

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own


def sign(place: Path, *more: object, key: str = "key.pem") -> int:
    files = [place / "report.json", place / "model.onnx", "--key", place / key]
    return robustcheck("sign", *files, "--images", place / "photos", "-qq", *more)


def verify(place: Path, *more: object, key: str = "key.pub") -> int:
    files = [place / "report.json", place / "model.onnx", "--public-key", place / key]
    return robustcheck("verify", *files, "--verify-signature", "-qq", *more)


def put(place: Path, bundle: Fields) -> Path:
    file = place / "report.sigstore.json"
    file.write_text(json.dumps(bundle))
    return file


def told(place: Path, report: Report, **changes: Any) -> None:
    """Write a report that says other things, with a digest that is right."""
    (place / "report.json").write_text(to_json(sealed(but(report, **changes))), encoding="utf-8")


def test_the_statement_by_other_libraries(signed: Path) -> None:
    """By in-toto's own classes."""
    payload = signing.signed_payload(signed / "report.sigstore.json", signed / "key.pub")
    statement = Statement.copy_from_pb(json_format.Parse(payload, statement_pb2.Statement()))
    statement.validate()
    (subject,), model = statement.pb.subject, (signed / "model.onnx").read_bytes()
    assert (subject.name, subject.digest["sha256"]) == ("model.onnx", hashlib.sha256(model).hexdigest())


@pytest.mark.long
def test_sigstores_own_code_verifies_it(signed: Path) -> None:
    """npm's @sigstore/verify, which did not sign it; `make .venv/.dev` installs it where npm is."""
    node, modules = shutil.which("node"), Path(sys.prefix) / "node" / "node_modules"
    if node is None or not modules.is_dir():
        pytest.skip("node or npm's @sigstore/verify is not there: make .venv/.dev")

    file, script = signed / "report.sigstore.json", ROOT / "tests/verify/node/read_bundle.cjs"
    words = [node, str(script), str(file), str(signed / "key.pub")]
    payload, text = signing.signed_payload(file, signed / "key.pub"), file.read_text()
    for start, code, told in (("eyJ", 0, payload), ("eyK", 1, b"")):
        file.write_text(text.replace('"payload": "eyJ', f'"payload": "{start}'))
        done = subprocess.run(words, env={"NODE_PATH": str(modules)}, capture_output=True, check=False)
        assert (done.returncode, done.stdout, b"SIGNATURE_ERROR" in done.stderr) == (code, told, code == 1), done.stderr


def test_every_byte_of_the_report_is_covered(signed: Path, passed: Report, capsys: Capture) -> None:
    """The result digest leaves the time out and knows no white space; the signature covers both."""
    text = (signed / "report.json").read_text(encoding="utf-8")
    assert text.count('"wall_s": ') == 1
    for other in (text.replace('"wall_s": ', '"wall_s": 1'), text + " ", to_json(sealed(but(passed, notes=())))):
        (signed / "report.json").write_text(other, encoding="utf-8")
        assert robustcheck("verify", signed / "report.json", signed / "model.onnx", "--no-rerun", "-qq") == 1
        assert verify(signed, "-o", "json") == 3
        assert "about another report" in signature_seen(capsys.readouterr().out)


def test_another_key(signed: Path) -> None:
    """Also where the bundle says that it is by the other key."""
    write_keys(signed, "other")
    assert verify(signed, key="other.pub") == 3
    bundle = (signed / "report.sigstore.json").read_text(encoding="utf-8")
    bundle = bundle.replace(signing.key_id(signed / "key.pub"), signing.key_id(signed / "other.pub"))
    (signed / "report.sigstore.json").write_text(bundle, encoding="utf-8")
    assert verify(signed, key="other.pub") == 3


def test_a_broken_bundle(signed: Path, capsys: Capture) -> None:
    sound = read_json(signed / "report.sigstore.json")
    payload = sound["dsseEnvelope"]["payload"]
    (signature,) = sound["dsseEnvelope"]["signatures"]
    part = "is not a whole Sigstore bundle"
    for place, value, said in (
        ("mediaType", "other", "is a bundle of another kind, other"), ("dsseEnvelope", None, part),
        ("messageSignature", {"signature": "AAAA"}, part),
        ("dsseEnvelope payloadType", "text/plain", "holds no in-toto statement but text/plain"),
        ("dsseEnvelope signatures", [], part), ("dsseEnvelope signatures", [1], part),
        ("dsseEnvelope signatures", [signature | {"sig": "eHh4"}], "does not hold for this key"),
        ("dsseEnvelope signatures", [signature | {"sig": "é"}], part),
        ("dsseEnvelope signatures", [signature, signature], part), ("dsseEnvelope payload", 7, part),
        ("dsseEnvelope payload", payload + "====", part), ("dsseEnvelope payload", "AAAA\n" + payload, part),
        ("dsseEnvelope other", 1, part), ("verificationMaterial tlogEntries", None, part),
        ("verificationMaterial publicKey", {}, part),
        ("verificationMaterial publicKey hint", "0" * 64, "was not signed by this key"),
        ("verificationMaterial publicKey hint", [], part),
    ):  # fmt: skip
        file = put(signed, changed(sound, place, value))
        raised(signing.SignatureError, said, signing.signed_payload, file, signed / "key.pub")
    assert verify(signed) == 3
    assert capsys.readouterr() == ("", "")


def test_every_changed_byte_of_a_bundle_is_noticed(signed: Path) -> None:
    file = signed / "report.sigstore.json"
    for index in range(0, file.stat().st_size, sized(7, 1)):
        flip(file, index)
        raised(signing.SignatureError, r"e\.json (is|was|has|holds) ", signing.signed_payload, file, signed / "key.pub")
        flip(file, index)
    assert signing.signed_payload(file, signed / "key.pub")


def test_a_statement_says_what_the_report_does_and_no_more(passed: Report) -> None:
    expected = signing.statement(passed, "sha256:" + 64 * "0")
    assert signing.differences(json.dumps(expected).encode(), expected) == ()
    more = expected | {"predicate": expected["predicate"] | {"note": "approved"}}
    assert signing.differences(json.dumps(more).encode(), expected) == ("it says more than the report does",)


def test_what_does_not_hold_is_not_signed(place: Path) -> None:
    with (place / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert sign(place) == 3
    assert not (place / "report.sigstore.json").exists()


def test_keys_that_cannot_serve(place: Path, monkeypatch: Patch, capsys: Capture) -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    form = (PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "text").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (place / "edwards").write_bytes(edwards.private_bytes(*form))
    write_keys(place, "curve", curve=ec.SECP256K1())
    write_keys(place, "locked", b"secret")
    file = place / "report.sigstore.json"
    file.write_text(signing.sign(STATEMENT, place / "key.pem"), encoding="utf-8")
    for names, said in {
        "text key.pub": "not readable; it must be a PEM file",
        "edwards curve.pem": "is of another kind; it must be on the",
        "none .": "private key is not readable",
        "locked.pem": "is encrypted",
    }.items():
        for name in names.split():
            raised(UsageError, said, signing.check_key, place / name)
    for name in ("key.pem", "text"):
        raised(UsageError, "public key is not readable", signing.signed_payload, file, place / name)
    raised(UsageError, "public key is not readable .No such file", signing.signed_payload, file, place / "none")
    for password, name, said in (("wrong", "locked.pem", "password right"), ("secret", "key.pem", "is not encrypted")):
        monkeypatch.setenv(signing.PASSWORD, password)
        raised(UsageError, said, signing.check_key, place / name)
    assert sign(place, key="locked.pem") == 0
    assert verify(place, key="locked.pub") == 0
    assert "secret" not in capsys.readouterr().err
    file.unlink()
    assert verify(place) == 2


def test_how_signing_and_verifying_are_called(place: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """What needs no instance of Sigstore of test_keyless.py; NAME and ISSUER are its two options."""
    monkeypatch.chdir(place)
    for words, said in {
        "sign --key key.pem -o key.pem": "key.pem: signature is a file that is there already",
        "sign --key key.pem --keyless": "exclude each other", "sign": "exclude each other",
        "sign --key key.pem --trust-config t.json": "--trust-config belongs to --keyless",
        "verify --verify-signature": "belong together", "verify NAMEa": "belong together",
        "verify ISSUERi": "belong together", "verify --trust-config t.json": "belong together",
        "verify NAMEa ISSUER": "neither may be empty", "verify NAME ISSUERi": "neither may be empty",
        "verify NAMEa ISSUERi --public-key key.pub": "exclude each other",
    }.items():  # fmt: skip
        full = words.replace("NAME", "--certificate-identity=").replace("ISSUER", "--certificate-oidc-issuer=")
        assert robustcheck(*full.split(), "report.json", "model.onnx") == 2, words
        assert said in capsys.readouterr().err


def test_a_report_that_changed_is_not_signed(place: Path, passed: Report, monkeypatch: Patch, capsys: Capture) -> None:
    """Put in the place of the report that was measured, and taken away again: the digest of the file shows nothing."""
    forged = but(passed, notes=())  # it still states the digest of the other
    monkeypatch.setattr(verification, "report_about", lambda *_: forged)
    assert sign(place) == 3
    assert "report changed while it was signed; nothing was written" in capsys.readouterr().err
    assert not (place / "report.sigstore.json").exists()


def test_a_useless_key_or_no_extra_ends_it_before_a_rerun(signed: Path, monkeypatch: Patch, capsys: Capture) -> None:
    with monkeypatch.context() as changed_:
        changed_.setattr(verification, "verify", lambda *words, **options: pytest.fail("measured"))
        assert sign(signed, key="key.pub") == 2
        changed_.setitem(sys.modules, "securesystemslib.signer", None)
        assert (sign(signed, "-o", signed / "new.json"), (signed / "new.json").exists()) == (4, False)
        assert extra("sign") in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert verify(signed) == 4


# ----------------------------------------------------------------------------------------- other forms of it


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "model.onnx", "digest": {"sha256": "ab" * 32}}],
    "predicateType": attestation.PREDICATE_TYPE,
    "predicate": {"v": [0, 2**53 + 1, -(10**17), 0.1, 5e-324, 1.7976931348623157e308, None, True, [], {}, "é\u2028"]},
}


def test_signatures_of_before_home_was_set_and_of_other_tools_verify(signed: Path, passed: Report) -> None:
    """Model-signing names no key, and makes 64 a 64.0."""
    digest, private = sha256_of((signed / "report.json").read_bytes()), write_keys(signed)
    for kind, keyid in itertools.product(attestation.PREDICATE_TYPES, (None, "")):
        statement = signing.statement(passed, digest) | {"predicateType": kind}
        if keyid is not None:
            statement["predicate"]["images"]["count"] = float(statement["predicate"]["images"]["count"])
        payload = json.dumps(statement)
        for old, new, code in (("PASS", "WARN", 3), (kind, "https://example.org/other/v1", 3), ("", "", 0)):
            bundle = signing.sealed(payload.replace(f'"{old}"', f'"{new}"').encode(), private)
            bundle["dsseEnvelope"]["signatures"][0] |= {} if keyid is None else {"keyid": keyid}
            put(signed, bundle)
            assert verify(signed) == code, (kind, keyid)
        assert is_verdict(signed / "report.sigstore.json")  # it is known as one of ours, whatever its type


def test_the_envelope_by_hand_on_each_curve(tmp_path: Path) -> None:
    """DSSE's pre-authentication encoding with bare ECDSA."""
    file = tmp_path / "report.sigstore.json"
    curves = ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()
    digests = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()
    for curve, digest in zip(curves, digests, strict=True):
        key = write_keys(tmp_path, curve=curve).public_key()
        file.write_text(signing.sign(STATEMENT, tmp_path / "key.pem"), encoding="utf-8")
        envelope = read_json(file)["dsseEnvelope"]
        hint = hashlib.sha256((tmp_path / "key.pub").read_bytes()).hexdigest()
        assert read_json(file) == {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": envelope,
        }
        (signature,) = envelope["signatures"]
        payload, signed = (base64.b64decode(text, validate=True) for text in (envelope["payload"], signature["sig"]))
        assert signing.signed_payload(file, tmp_path / "key.pub") == payload
        assert repr(json.loads(payload)) == repr(STATEMENT)  # 1 is neither 1.0 nor True
        encoded = f"DSSEv1 28 {envelope['payloadType']} {len(payload)} ".encode() + payload
        key.verify(signed, encoded, ec.ECDSA(digest))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path)
    subject = [{"name": "m\udcff.onnx", "digest": {"sha256": "ab" * 32}}]
    said = r"'m\\udcff.onnx': file name is not text; in-toto names .* UTF-8"
    fault = raised(UsageError, said, signing.sign, STATEMENT | {"subject": subject}, tmp_path / "key.pem")
    assert fault.hint == "rename the file and check it again"


@pytest.mark.long
def test_a_signature_of_model_signing_about_files_is_no_verdict(signed: Path, capsys: Capture) -> None:
    from model_signing import signing as their_signing

    theirs = their_signing.Config().use_elliptic_key_signer(private_key=signed / "key.pem")
    theirs.sign(signed / "model.onnx", signed / "report.sigstore.json")
    assert verify(signed, "-o", "json") == 3
    assert "its predicateType is another one" in signature_seen(capsys.readouterr().out)


OFFLINE = """
import sys
sys.path.insert(0, {tests!r})
from robustcheck_onnx.checker.outside import isolation
from support.walls import NoWall
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


def test_nothing_of_the_extra_is_loaded_by_a_check_and_signing_opens_no_connection(place: Path) -> None:
    files, images = [str(place / "report.json"), str(place / "model.onnx")], ["--images", str(place / "photos")]
    calls = [
        ["check", files[1], *images, "-qq"],
        ["verify", *files, "--no-rerun", "-qq"],
        ["sign", *files, "--key", str(place / "key.pem"), *images, "-qq"],
        ["verify", *files, "--public-key", str(place / "key.pub"), "-qq"],
    ]
    done = run([sys.executable, "-Pc", OFFLINE.format(calls=calls, tests=str(ROOT / "tests"))])
    with_extra = "0 securesystemslib cryptography"
    assert done.stdout.splitlines() == ["0", "1", with_extra, with_extra], done.stderr


def test_a_signature_says_where_the_report_is_from(place: Path, passed: Report) -> None:
    """Its holder vouches for the environment, too; without it the report can't, however right its digest is."""
    told(place, passed, evidence__execution__device="another processor", evidence__execution__threads=96)
    assert sign(place) == 3
    assert sign(place, "--elsewhere") == 0
    assert verify(place, "--images", place / "photos") == 0


def test_the_subject_is_the_file_that_was_verified(place: Path, passed: Report) -> None:
    """A report may give the file any name; its digest is right all the same."""
    told(place, passed, evidence__model__file="releases/other.onnx")
    assert sign(place) == 0
    payload = json.loads(signing.signed_payload(place / "report.sigstore.json", place / "key.pub"))
    assert payload["subject"][0]["name"] == "model.onnx"
    assert verify(place) == 0


@pytest.fixture
def here(signed: Path, warned: tuple[Path, Report], monkeypatch: Patch) -> Path:
    """The current folder: `signed`, with warn.onnx and text.onnx, which is not a model."""
    shutil.copy(warned[0], signed / "warn.onnx")
    (signed / "text.onnx").write_text("no model")
    monkeypatch.chdir(signed)
    return signed


def check(*words: str, sign: str = "key.pem", images: str = "photos") -> int:
    return robustcheck("check", *words, "--images", images, *(["--sign", sign] if sign else []))


def verified(report: str, model: str) -> int:
    return robustcheck("verify", report, model, "--verify-signature", "--public-key", "key.pub", "-qq")


def never_measured(monkeypatch: Patch) -> None:
    monkeypatch.setattr(pipeline, "check", lambda *_, **__: pytest.fail("measured"))


def payload(name: str) -> Fields:
    read: Fields = json.loads(base64.b64decode(read_json(name)["dsseEnvelope"]["payload"]))
    return read


def is_unsigned_error(code: int) -> bool:
    """Whether report.json tells of this error, and no signature lies next to it."""
    error: int = read_json("report.json")["error"]["exit_code"]
    return error == code and not Path("report.sigstore.json").exists()


def test_a_signed_pass_verifies_and_is_what_the_verb_sign_would_sign(here: Path, capsys: Capture) -> None:
    """Also: without time, and with other reports and JSON on stdout, which holds one document and nothing else."""
    notes = [f"note: {attestation.HOME_NOTE}"] * (not HOME)
    assert check("model.onnx", "-o", "json=report.json") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["signature:", "report.sigstore.json"]
    assert [line for line in said.err.splitlines() if line.startswith("note: ")] == notes
    assert verified("report.json", "model.onnx") == 0
    ours = payload("report.sigstore.json")
    assert robustcheck("sign", "report.json", "model.onnx", "--key", "key.pem", "--images", "photos", "-q") == 0
    assert payload("report.sigstore.json") == ours
    capsys.readouterr()
    reports = [word for place in ("json", "json=a.json", "json=b.json", "html=a.html") for word in ("-o", place)]
    assert check("model.onnx", *reports, "--no-time") == 0
    assert json.loads(capsys.readouterr().out) == read_json("a.json")
    assert verified("a.json", "model.onnx") == verified("b.json", "model.onnx") == 0
    assert payload("a.sigstore.json")["predicate"]["time"] is None


def test_a_warn_is_signed_as_one_and_still_fails(here: Path, warned: tuple[Path, Report]) -> None:
    for gate, code in ((), 1), (("--fail-on", "never"), 0):
        assert check("warn.onnx", "-o", "json=report.json", "-qq", *gate) == code
        assert verified("report.json", "warn.onnx") == 1  # the one who deploys has not let it through
    stated, reasons = payload("report.sigstore.json")["predicate"], warned[1].verdict.reasons
    assert (stated["verdict"], stated["reasons"]) == ("WARN", [each.id for each in reasons])


def test_several_models_each_with_its_own_report(here: Path) -> None:
    shutil.copy("report.sigstore.json", "r-text.sigstore.json")  # of an earlier run
    assert check("model.onnx", "warn.onnx", "text.onnx", "-o", "json=r-{model}.json") == 3
    assert [verified(f"r-{name}.json", f"{name}.onnx") for name in ("model", "warn")] == [0, 1]
    assert read_json("r-text.json")["error"]["exit_code"] == 3
    assert not (here / "r-text.sigstore.json").exists()


def test_what_cannot_be_signed_is_refused_before_measuring(here: Path, monkeypatch: Patch, capsys: Capture) -> None:
    never_measured(monkeypatch)
    Path("report.sigstore.json").unlink()
    shutil.copy("key.pem", "k.sigstore.json")
    a_file, one, taken, of_this_machine = (
        "--sign signs the JSON report in a file; -o json=PATH must name one",
        "for 2 models; a signature is about one",
        "r.sigstore.json: signature can't be written here",
        "; a report that is signed must go to a file on this machine",
    )
    for call, said in {
        "model.onnx -o json --sign key.pem": a_file,
        "model.onnx -o html=report.html --sign key.pem": a_file,
        "model.onnx warn.onnx -o json=all.json --sign key.pem": f"--output is json=all.json {one}",
        "model.onnx -o json=memory://b/r.json --sign key.pem": f"json=memory://b/r.json{of_this_machine}",
        "model.onnx -o json=/dev/null --sign key.pem": f"--output is json=/dev/null{of_this_machine}",
        "model.onnx -o json=key.pem --sign key.pem": "key.pem: report path is a file that is there already",
        "model.onnx -o json=r.json -o html=r.sigstore.json --sign key.pem": taken,
        "model.onnx -o json=r.json -o json=r.txt --sign key.pem": taken,
        "model.onnx -o json=k.json --sign k.sigstore.json": "k.sigstore.json: signature is a file that is there",
        "model.onnx -o json=s.json --sign photos": "photos: private key is not readable (Is a directory)",
        "model.onnx -o json=s.json --sign key.pub": "key.pub: private key is not readable",
    }.items():
        before = {path: path.read_bytes() for path in here.glob("*.pem")}
        assert check(*call.split(), "-qq", sign="") == 2, call
        error, hint = capsys.readouterr().err.splitlines()
        assert said in error
        assert hint.startswith("hint: ")
        assert {path: path.read_bytes() for path in here.glob("*.pem")} == before
        assert not [path for path in here.glob("*.sigstore.json") if "dsseEnvelope" in path.read_text(encoding="utf-8")]


def test_without_the_extra_nothing_is_measured(here: Path, monkeypatch: Patch, capsys: Capture) -> None:
    never_measured(monkeypatch)
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    assert check("model.onnx", "-o", "json=report.json") == 4
    assert extra("sign") in capsys.readouterr().err
    assert is_unsigned_error(4)


# ------------------------------------------------------------------------------------------------- errors


def test_an_error_leaves_no_signature_and_no_pass(here: Path, monkeypatch: Patch) -> None:
    real = documents.write_atomically

    def full(where: Any, what: Any) -> Any:
        if "sigstore" in str(where):
            raise EnvironmentFaultError("report is not written (No space left on device)", "df -h")
        return real(where, what)

    signer = Mock(side_effect=ValueError("the signer fails"))
    for fails, played, code in (
        ("outside.storage.documents.write_atomically", full, 4),
        ("trust.verify.signature.sign", signer, 70),
    ):
        monkeypatch.setattr(f"robustcheck_onnx.checker.{fails}", played)
        assert check("model.onnx", "-o", "json=report.json") == code
        assert is_unsigned_error(code)


def test_options_that_are_refused_leave_no_signature_either_unless_the_report_is_no_report(here: Path) -> None:
    signature = (here / "report.sigstore.json").read_text(encoding="utf-8")
    for words in ("--sign none.pem", "--sign key.pem --bogus", "--max-bad 7"):
        (here / "report.sigstore.json").write_text(signature, encoding="utf-8")
        assert check("model.onnx", "-o", "json=report.json", *words.split(), sign="") == 2
        assert is_unsigned_error(2)
    for name, text in (("report.json", "mine"), ("report.sigstore.json", signature)):
        (here / name).write_text(text, encoding="utf-8")
    assert check("model.onnx", "-o", "json=report.json", "--bogus", sign="") == 2
    assert (here / "report.json").read_text(encoding="utf-8") == "mine"
    assert (here / "report.sigstore.json").read_text(encoding="utf-8") == signature


def test_a_signal_at_the_start_leaves_no_signature(here: Path) -> None:
    """In the middle of an import, before a model is read."""
    assert (here / "report.sigstore.json").exists()
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from robustcheck_onnx.checker import __main__\n"
        "strike = lambda event, words: event == 'import' and words[0].endswith('report.record') and "
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(strike)\n"
        "sys.argv[1:] = 'model.onnx --images photos -o json=report.json --sign key.pem'.split()\n"
        "sys.exit(__main__.main())\n"
    )
    assert subprocess.run([sys.executable, "-Pc", script], check=False).returncode == 130
    assert is_unsigned_error(130)


@pytest.mark.parametrize("sign", ["key.pem", ""])
def test_a_kill_at_any_moment_leaves_no_signature_beside_an_error(here: Path, sign: str, monkeypatch: Patch) -> None:
    """All earlier signatures go before the first of their reports: nothing can be tidied after SIGKILL."""
    real, left = documents.remove_earlier, list[list[str]]()
    for end in ("json", "sigstore.json"):
        shutil.copy(f"report.{end}", f"other.{end}")

    def remove(place: Any) -> None:
        left.append([path.name for path in here.glob("*.sigstore.json")])
        real(place)

    def measured(*_: object, **__: object) -> None:
        left.append([name for name in ("report.json", "other.json") if Path(name).exists()])
        raise KeyboardInterrupt

    monkeypatch.setattr(documents, "remove_earlier", remove)
    monkeypatch.setattr("robustcheck_onnx.checker.questions.check.check", measured)
    assert check("model.onnx", "-o", "json=report.json", "-o", "json=other.json", sign=sign) == 130
    assert (left[:3], list(here.glob("*.sigstore.json"))) == ([[], [], []], [])


def test_a_file_of_another_kind_is_not_removed_by_a_run_that_fails(here: Path) -> None:
    about_files = {"mediaType": attestation.MEDIA_TYPE, "dsseEnvelope": {"payload": base64.b64encode(b"{}").decode()}}
    for content in ("mine", "{}", "[]", json.dumps(about_files), "[" * 100_000):
        (here / "report.sigstore.json").write_text(content, encoding="utf-8")
        assert check("text.onnx", "-o", "json=report.json", "-qq", sign="") == 3
        assert check("text.onnx", "-o", "json=report.json", "-qq") == 2  # a signature would take its place
        assert (here / "report.sigstore.json").read_text(encoding="utf-8") == content


def test_an_old_signature_that_cannot_be_removed_ends_the_run(here: Path, monkeypatch: Patch, capsys: Capture) -> None:
    never_measured(monkeypatch)
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert check("model.onnx", "-o", "json=report.json") == 4
    assert "report.sigstore.json: earlier signature is not removed (Permission denied)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- settings


def test_as_a_setting_in_a_file(here: Path, monkeypatch: Patch) -> None:
    """Its path counts from the file's folder."""
    (here / "sub").mkdir()
    (here / "robustcheck.toml").write_text('sign = "key.pem"\noutput = ["json=report.json"]\n')
    with monkeypatch.context() as there:
        there.chdir("sub")
        assert check("../model.onnx", "-qq", sign="", images="../photos") == 0
    assert verified("report.json", "model.onnx") == 0


def test_a_report_that_is_not_measured_again_is_not_signed(place: Path) -> None:
    files = [place / name for name in ("report.json", "model.onnx")]
    assert robustcheck("sign", *files, "--key", place / "key.pem", "-qq") == 1
    assert robustcheck("sign", *files, "--key", place / "key.pem", "--no-rerun", "-qq") == 2
    assert not (place / "report.sigstore.json").exists()
