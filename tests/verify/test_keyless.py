"""Signatures by an identity: Sigstore's own client against a small instance of Sigstore on this machine.

The public instance was not reached by any test; what is tested of it is that nothing of ours passes under its keys.
"""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.text import sha256_of
from robustcheck_onnx.checker.trust.verify import identity
from robustcheck_onnx.checker.trust.verify import run as room
from robustcheck_onnx.checker.trust.verify import signature as signing

pytest.importorskip("jwt", reason="the packages of the long tests are not installed")
from support import Capture, Fields, Patch, extra, flip, raised, read_text, robustcheck
from support.keys import changed, signature_seen
from support.sigstore_instance import ISSUER, Instance, running

pytestmark = [pytest.mark.usefixtures("capsys", "away"), pytest.mark.long]
NAME = "release@example.org"
NAMED = ("--certificate-identity", NAME, "--certificate-oidc-issuer", ISSUER)
CI = ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TF_BUILD", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with running() as made:
        yield made


@pytest.fixture
def away(tmp_path: Path, monkeypatch: Patch) -> None:
    """No CI system, no proxy for this machine, no way to any other, and no keys of Sigstore from an earlier run."""
    for name in (*CI, identity.TOKEN, "ROBUSTCHECK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    for name, value in (("HTTPS_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "127.0.0.1")):
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)


@pytest.fixture
def place(place: Path, instance: Instance) -> Path:
    """A model, its photos and report, keys, and the trust config of the instance."""
    (place / "trust.json").write_text(json.dumps(instance.trust_config()))
    instance.requests.clear()
    instance.log_status, instance.late_s = 201, 0
    return place


@pytest.fixture
def bundle(place: Path, instance: Instance, passed: Report, monkeypatch: Patch) -> Fields:
    """The signature of the report, which lies next to it."""
    statement = signing.statement(passed, sha256_of((place / "report.json").read_bytes()))
    with monkeypatch.context() as there:
        there.setenv(identity.TOKEN, instance.token())
        text = identity.sign_as_identity(statement, place / "trust.json").text
    (place / "report.sigstore.json").write_text(text, encoding="utf-8")
    document: Fields = json.loads(text)
    return document


def verify(place: Path, *more: object, trust: bool = True, verb: str = "verify") -> int:
    instance = ["--trust-config", place / "trust.json"] if trust else []
    return robustcheck(verb, place / "report.json", place / "model.onnx", *instance, *more)


def sign(place: Path, *more: object, trust: bool = True) -> int:
    return verify(place, "--images", place / "photos", "--keyless", *more, trust=trust, verb="sign")


# ------------------------------------------------------------------------------------------------- it works


def test_signed_as_an_identity(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv(identity.TOKEN, instance.token())
    assert sign(place) == 0
    assert f"entry 1 of the transparency log, checked by: {' '.join(NAMED)}" in capsys.readouterr().out
    assert verify(place, *NAMED, "-o", "json") == 0
    assert instance.requests == ["/api/v2/signingCert", "/api/v1/log/entries"]  # to verify asks nobody
    out = capsys.readouterr().out
    assert json.loads(out)["rests_on"] == f"The numbers: {NAME} signed them."
    assert signature_seen(out) == (
        f"every byte of the report is signed by {NAME}, says {ISSUER}, by the instance of {place / 'trust.json'}"
    )
    (place / "report.json").write_text(read_text(place / "report.json") + " ", encoding="utf-8")
    assert verify(place, *NAMED, "--offline", "-qq") == 3


def test_verified_in_the_process_behind_the_wall(place: Path, wall: None, bundle: Fields) -> None:
    assert verify(place, *NAMED, "-qq") == 0
    assert verify(place, *NAMED[:3], "https://other.example.org", "-qq") == 3


def test_a_jobs_token_and_a_workflows_uri(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert sign(place, "-q") == 4
    assert "permissions: id-token: write" in capsys.readouterr().err
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a-secret-of-the-job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{instance.url}/token")
    assert sign(place, "-qq") == 0
    assert instance.requests[0].startswith("/token?audience=sigstore")
    assert verify(place, *NAMED, "-qq") == 0
    workflow = "https://example.org/o/r/.ci/release.yml@refs/tags/v1"
    monkeypatch.setenv(identity.TOKEN, instance.token(workflow))  # the variable counts before the job
    assert sign(place, "-qq") == 0
    assert verify(place, "--certificate-identity", workflow, *NAMED[2:], "-qq") == 0
    assert verify(place, *NAMED, "-qq") == 3


# ------------------------------------------------------------------------------------ never a false witness


def test_another_identity(place: Path, capsys: Capture, bundle: Fields) -> None:
    assert verify(place, *NAMED, "--offline", "-qq") == 0
    names = ("other@example.org", "release@example.org.example.net", "RELEASE@example.org", ".*")
    issuers = ("https://issuer.example.org/", "https://accounts.example.org", NAME)
    for name, issuer in [(name, ISSUER) for name in names] + [(NAME, issuer) for issuer in issuers]:
        assert verify(place, "--certificate-identity", name, "--certificate-oidc-issuer", issuer, "-o", "json") == 3
        assert "does not hold for" in signature_seen(capsys.readouterr().out)


def test_a_bundle_alone_is_no_witness(place: Path, capsys: Capture, bundle: Fields) -> None:
    assert verify(place, "-qq", trust=False) == 1
    assert verify(place, "--verify-signature", "-qq", trust=False) == 2
    assert verify(place, "--public-key", place / "key.pub", "-o", "json", trust=False) == 3
    assert "was signed by an identity, not by a key" in signature_seen(capsys.readouterr().out)


def test_keys_of_the_public_instance_do_not_vouch_for_another(place: Path, capsys: Capture, bundle: Fields) -> None:
    """Offline, with the keys that sigstore's package carries: nothing is asked of the network."""
    assert verify(place, *NAMED, "--offline", "-o", "json", trust=False) == 3
    assert "certificate chain" in signature_seen(capsys.readouterr().out)
    (place / "trust.json").write_text(json.dumps(Instance().trust_config()))
    assert verify(place, *NAMED, "-qq") == 3


def test_what_is_signed_must_be_a_statement(place: Path, monkeypatch: Patch, capsys: Capture, bundle: Fields) -> None:
    monkeypatch.setattr("sigstore.verify.Verifier.verify_dsse", lambda *_: ("application/json", b"{}"))
    assert verify(place, *NAMED, "-o", "json") == 3
    assert "holds no in-toto statement but application/json" in signature_seen(capsys.readouterr().out)


def test_changed_bytes_of_a_bundle_are_noticed(place: Path, bundle: Fields) -> None:
    """One bit of every 23rd byte, so that each part is met: what is taken all the same says the same."""
    file, who = place / "report.sigstore.json", identity.Identity(NAME, ISSUER, place / "trust.json")
    told, size = [identity.signed_by_identity(file, who)], file.stat().st_size
    for index in range(0, size, 23):
        flip(file, index)
        with suppress(signing.SignatureError):
            told.append(identity.signed_by_identity(file, who))
        flip(file, index)
    assert (len({*told}), len(told) < size / 230) == (1, True)


def test_a_broken_bundle(place: Path, bundle: Fields, capsys: Capture) -> None:
    (entry,), (signature,) = bundle["verificationMaterial"]["tlogEntries"], bundle["dsseEnvelope"]["signatures"]
    file = place / "report.sigstore.json"
    for at, value in (
        ("dsseEnvelope payload", base64.b64encode(b"{}").decode()), ("mediaType", "other"), ("dsseEnvelope", None),
        ("dsseEnvelope signatures", [signature, signature]), ("verificationMaterial certificate rawBytes", "AAAA"),
        ("verificationMaterial tlogEntries", []),
        ("verificationMaterial tlogEntries", [entry | {"inclusionPromise": None}]),
        ("verificationMaterial tlogEntries", [entry | {"inclusionProof": None}]),
        ("verificationMaterial tlogEntries", [changed(entry, "inclusionProof checkpoint envelope", "x")]),
    ):  # fmt: skip
        file.write_text(json.dumps(changed(bundle, at, value)))
        assert verify(place, *NAMED, "-qq") == 3, at
    assert capsys.readouterr() == ("", "")


def test_a_bundle_of_a_key_or_of_nobody() -> None:
    key, part = "was signed by a key, not by an identity; --public-key checks it", "is not a whole Sigstore bundle"
    for text, said in {
        '{"verificationMaterial": {"publicKey": {"hint": "x"}}}': key,
        '{"verificationMaterial": {"publicKey": {}, "certificate": {}}}': key, '{"verificationMaterial": {}}': part,
        '{"verificationMaterial": "publicKey"}': part, '{"verificationMaterial": null}': part, "{": "is not JSON",
        '{"a": 1, "a": 2}': "is not JSON", 100_000 * "[": "is not JSON", "[1]": part, "{}": part,
    }.items():  # fmt: skip
        raised(signing.SignatureError, said, identity._bundle, text.encode())


# ---------------------------------------------------------------------------------------- what can go wrong


def watched(monkeypatch: Patch) -> None:
    """Nothing is measured from now on."""
    monkeypatch.setattr(room, "verify", lambda *_, **__: pytest.fail("measured"))


def test_bad_tokens_end_it_before_a_rerun(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    watched(monkeypatch)
    for token, code, said in (
        ("", 2, "SIGSTORE_ID_TOKEN is not set"),
        ("no.token.at-all", 4, "identity token is not usable"),
        (instance.token(age=3600), 4, "has expired"),
        (instance.token(aud="another"), 4, "Audience doesn't match"),
    ):
        monkeypatch.setenv(identity.TOKEN, token)
        assert sign(place, "--debug") == code
        out = "".join(capsys.readouterr())
        assert (said in out, token != "" and token in out) == (True, False)
    assert instance.requests == []


def test_instances_that_give_no_signature(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    """It knows not the token's provider; its log refuses; it logged outside of the certificate's time; it is down."""
    other = Instance()
    for token, status, late_s, said in (
        (other.token(), 201, 0, "Sigstore gave no signature"),
        (instance.token(), 500, 0, "Sigstore gave no signature"),
        (instance.token(), 201, 7200, "does not verify"),
        (instance.token(), 201, -7200, "does not verify"),
        (other.token(), 0, 0, "Sigstore gave no signature"),
    ):
        instance.log_status, instance.late_s = status, late_s
        if not status:
            (place / "trust.json").write_text(json.dumps(other.trust_config()))
        monkeypatch.setenv(identity.TOKEN, token)
        assert sign(place, "--debug") == 4
        out = "".join(capsys.readouterr())
        assert (said in out, token in out) == (True, False)
        assert not (place / "report.sigstore.json").exists()


def test_a_token_that_expires_in_the_run(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    tokens = iter([instance.token(), instance.token(age=3600)])
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: next(tokens))
    assert sign(place) == 4
    assert "has expired" in capsys.readouterr().err
    assert not (place / "report.sigstore.json").exists()


def test_offline_and_without_a_network(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    watched(monkeypatch)
    monkeypatch.setenv(identity.TOKEN, instance.token())
    assert sign(place, "--offline") == 2
    assert "offline (ROBUSTCHECK_OFFLINE or --offline)" in capsys.readouterr().err
    assert instance.requests == []
    assert sign(place, trust=False) == 4  # of the public instance; there is no way to it
    assert "the keys of Sigstore's public instance can't be had" in capsys.readouterr().err


def test_a_trust_config_that_is_none(place: Path, instance: Instance, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv(identity.TOKEN, instance.token())
    for name, said in (
        ("none.json", "trust config is not readable"),
        ("report.json", "it must be Sigstore's ClientTrustConfig"),
    ):
        assert sign(place, "--trust-config", place / name, trust=False) == 2
        assert said in capsys.readouterr().err


def test_without_the_extra(place: Path, monkeypatch: Patch, capsys: Capture, bundle: Fields) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    assert sign(place) == verify(place, *NAMED) == 4
    assert capsys.readouterr().err.count(extra("keyless")) == 2
