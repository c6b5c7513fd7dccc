"""Signatures by an identity: Sigstore's own client against a small instance of Sigstore on this machine.

The public instance was not reached by any test; what is tested of it is that nothing of ours passes under its keys.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker import verify as room
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.text import sha256_of
from robustcheck_onnx.checker.verify import bundle as bundles
from robustcheck_onnx.checker.verify import keyless
from robustcheck_onnx.checker.verify import signature as signing

pytest.importorskip("jwt", reason="the packages of the long tests are not installed")
from support.sigstore_instance import ISSUER, Instance

pytestmark = [pytest.mark.usefixtures("capsys", "away"), pytest.mark.long]
NAME = "release@example.org"
NAMED = ("--certificate-identity", NAME, "--certificate-oidc-issuer", ISSUER)
CI = ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TF_BUILD", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    made = Instance()
    yield made
    made.close()


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No CI system, no proxy for this machine, no way to any other, and no keys of Sigstore from an earlier run."""
    for name in (*CI, keyless.TOKEN, "ROBUSTCHECK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def place(place: Path, instance: Instance) -> Path:
    """A model, its photos and report, keys, and the trust config of the instance."""
    (place / "trust.json").write_text(json.dumps(instance.trust_config()), encoding="utf-8")
    instance.requests.clear()
    instance.refuses.clear()
    instance.lies, instance.certified_for = False, timedelta(minutes=10)
    return place


def sign(place: Path, *more: str, trust: bool = True) -> int:
    files = [str(place / "report.json"), str(place / "model.onnx"), "--images", str(place / "photos")]
    instance = ["--trust-config", str(place / "trust.json")] if trust else []
    return cli.main(["sign", *files, "--keyless", *instance, *more])


def verify(place: Path, *more: str, trust: bool = True) -> int:
    instance = ["--trust-config", str(place / "trust.json")] if trust else []
    return cli.main(["verify", str(place / "report.json"), str(place / "model.onnx"), *instance, *more])


def put(place: Path, document: dict[str, Any]) -> None:
    (place / "report.sigstore.json").write_text(json.dumps(document), encoding="utf-8")


def payload_of(place: Path, passed: Report) -> bytes:
    digest = sha256_of((place / "report.json").read_bytes())
    return json.dumps(signing.statement(passed, digest)).encode()


def signature_seen(out: str) -> str:
    (finding,) = (each for each in json.loads(out)["findings"] if each["check"] == "signature")
    return str(finding["seen"])


# ------------------------------------------------------------------------------------------------- it works


def test_signed_as_an_identity_and_verified(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(keyless.TOKEN, instance.token())
    assert sign(place) == 0
    said = capsys.readouterr().out
    assert f"entry 1 of the transparency log, checked by: {' '.join(NAMED)}" in said
    assert instance.requests == ["/api/v2/signingCert", "/api/v1/log/entries"]
    assert verify(place, *NAMED, "-o", "json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out["rests_on"] == f"The numbers: {NAME} signed them."
    assert signature_seen(json.dumps(out)) == (
        f"every byte of the report is signed by {NAME}, says {ISSUER}, by the instance of {place / 'trust.json'}"
    )
    assert len(instance.requests) == 2  # to verify asks nobody
    assert verify(place, *NAMED, "--offline", "-qq") == 0
    (place / "report.json").write_text((place / "report.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert verify(place, *NAMED, "-qq") == 3


@pytest.mark.usefixtures("wall")
def test_verified_in_the_process_behind_the_wall(place: Path, instance: Instance, passed: Report) -> None:
    put(place, instance.bundle(payload_of(place, passed)))
    assert verify(place, *NAMED, "-qq") == 0
    assert verify(place, *NAMED[:3], "https://other.example.org", "-qq") == 3


def test_the_token_of_a_job_and_the_uri_of_a_workflow(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert sign(place, "-q") == 4
    assert "permissions: id-token: write" in capsys.readouterr().err
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a-secret-of-the-job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{instance.url}/token")
    assert sign(place, "-qq") == 0
    assert instance.requests[0].startswith("/token?audience=sigstore")
    assert verify(place, *NAMED, "-qq") == 0
    workflow = "https://example.org/o/r/.ci/release.yml@refs/tags/v1"
    monkeypatch.setenv(keyless.TOKEN, instance.token(workflow))  # the variable counts before the job
    assert sign(place, "-qq") == 0
    assert verify(place, "--certificate-identity", workflow, *NAMED[2:], "-qq") == 0
    assert verify(place, *NAMED, "-qq") == 3


# ------------------------------------------------------------------------------------ never a false witness


def test_another_identity(place: Path, instance: Instance, passed: Report, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, instance.bundle(payload_of(place, passed)))
    assert verify(place, *NAMED, "-qq") == 0
    names = ("other@example.org", "release@example.org.example.net", "RELEASE@example.org", ".*")
    issuers = ("https://issuer.example.org/", "https://accounts.example.org", NAME)
    for name, issuer in [(name, ISSUER) for name in names] + [(NAME, issuer) for issuer in issuers]:
        named = ("--certificate-identity", name, "--certificate-oidc-issuer", issuer)
        assert verify(place, *named, "-o", "json") == 3
        assert "does not hold for" in signature_seen(capsys.readouterr().out)


def test_a_bundle_alone_is_no_witness(
    place: Path, instance: Instance, passed: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place, instance.bundle(payload_of(place, passed)))
    assert verify(place, "-qq", trust=False) == 1
    assert verify(place, "--verify-signature", "-qq", trust=False) == 2
    assert verify(place, "--public-key", str(place / "key.pub"), "-o", "json", trust=False) == 3
    assert "was signed by an identity, not by a key" in signature_seen(capsys.readouterr().out)


def test_keys_of_the_public_instance_do_not_vouch_for_another(
    place: Path, instance: Instance, passed: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline, with the keys that sigstore's package carries: nothing is asked of the network."""
    put(place, instance.bundle(payload_of(place, passed)))
    assert verify(place, *NAMED, "--offline", "-o", "json", trust=False) == 3
    assert "certificate chain" in signature_seen(capsys.readouterr().out)
    other = Instance()
    other.close()
    (place / "trust.json").write_text(json.dumps(other.trust_config()), encoding="utf-8")
    assert verify(place, *NAMED, "-qq") == 3


def test_what_the_parts_of_a_bundle_must_say(place: Path, instance: Instance, passed: Report) -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"sct": False},  # no timestamp of the certificate
        {"integrated": int(time.time()) + 7200},  # logged when the certificate had expired
        {"integrated": int(time.time()) - 7200},  # before it was made
        {"kind": "application/json"},
    )
    for wrong in wrongs:
        put(place, instance.bundle(payload_of(place, passed), **wrong))
        assert verify(place, *NAMED, "-qq") == 3, wrong


def test_changed_bytes_of_a_bundle_are_noticed(place: Path, instance: Instance, passed: Report) -> None:
    """One bit of every 23rd byte, so that each part is met: what is taken all the same says the same."""
    payload, file = payload_of(place, passed), place / "report.sigstore.json"
    who = keyless.Identity(NAME, ISSUER, place / "trust.json")
    put(place, instance.bundle(payload))
    content, refused = file.read_bytes(), 0
    assert keyless.signed_payload(file, who) == payload
    for index in range(0, len(content), 23):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        try:
            assert keyless.signed_payload(file, who) == payload
        except bundles.SignatureError:
            refused += 1
    assert refused > 0.9 * len(content) / 23


def test_a_broken_bundle(place: Path, instance: Instance, passed: Report, capsys: pytest.CaptureFixture[str]) -> None:
    changes: tuple[Callable[[dict[str, Any], dict[str, Any]], object], ...] = (
        lambda b, _: b["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()),
        lambda b, _: b.update(mediaType="other"),
        lambda b, _: b.pop("dsseEnvelope"),
        lambda b, _: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
        lambda _, m: m.update(tlogEntries=[]),
        lambda _, m: m["certificate"].update(rawBytes="AAAA"),
        lambda _, m: m["tlogEntries"][0].pop("inclusionPromise"),
        lambda _, m: m["tlogEntries"][0].pop("inclusionProof"),
        lambda _, m: m["tlogEntries"][0]["inclusionProof"]["checkpoint"].update(envelope="x"),
    )
    sound = json.dumps(instance.bundle(payload_of(place, passed)))
    for change in changes:
        document = json.loads(sound)
        change(document, document["verificationMaterial"])
        put(place, document)
        assert verify(place, *NAMED, "-qq") == 3
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------- what can go wrong


def watched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is measured from now on."""
    measured: list[object] = []
    monkeypatch.setattr(room, "verify", lambda *words, **options: measured.append((words, options)))
    return measured


def test_tokens_that_are_no_use_end_it_before_the_rerun(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = watched(monkeypatch)
    for token, code, said in (
        (None, 2, "SIGSTORE_ID_TOKEN is not set"),
        ("", 2, "export SIGSTORE_ID_TOKEN="),
        ("no.token.at-all", 4, "identity token is not usable"),
        (instance.token(age=3600), 4, "has expired"),
        (instance.token(aud="another"), 4, "Audience doesn't match"),
    ):
        with monkeypatch.context() as changed:
            if token is not None:
                changed.setenv(keyless.TOKEN, token)
            assert sign(place, "--debug") == code
        out = "".join(capsys.readouterr())
        assert said in out
        assert not token or token not in out
    assert (measured, instance.requests) == ([], [])


@pytest.mark.parametrize("what", ["refuses the token", "refuses the entry", "lies", "is down"])
def test_an_instance_that_gives_no_signature(
    place: Path, instance: Instance, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token, other = instance.token(), Instance()
    other.close()
    if what == "refuses the token":
        token = other.token()  # of a provider that the authority does not know
    elif what == "refuses the entry":
        instance.refuses["log"] = 500
    elif what == "lies":
        instance.lies = True
    else:
        (place / "trust.json").write_text(json.dumps(other.trust_config()), encoding="utf-8")
    monkeypatch.setenv(keyless.TOKEN, token)
    assert sign(place, "--debug") == 4
    out = "".join(capsys.readouterr())
    assert ("does not verify" if what == "lies" else "Sigstore gave no signature") in out
    assert token not in out
    assert not (place / "report.sigstore.json").exists()


def test_a_token_that_expires_while_the_model_is_measured(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = iter([instance.token(), instance.token(age=3600)])
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: next(tokens))
    assert sign(place) == 4
    assert "has expired" in capsys.readouterr().err
    assert not (place / "report.sigstore.json").exists()


def test_offline_and_without_a_network(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = watched(monkeypatch)
    monkeypatch.setenv(keyless.TOKEN, instance.token())
    assert sign(place, "--offline") == 2
    assert "offline (ROBUSTCHECK_OFFLINE or --offline)" in capsys.readouterr().err
    assert instance.requests == []
    assert sign(place, trust=False) == 4  # of the public instance; there is no way to it
    assert "the keys of Sigstore's public instance can't be had" in capsys.readouterr().err
    assert measured == []


def test_a_trust_config_that_is_none(
    place: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(keyless.TOKEN, instance.token())
    for name, said in (
        ("none.json", "trust config is missing"),
        ("report.json", "it must be Sigstore's ClientTrustConfig"),
    ):
        assert sign(place, "--trust-config", str(place / name), trust=False) == 2
        assert said in capsys.readouterr().err


def test_without_the_extra(
    place: Path, instance: Instance, passed: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(place, instance.bundle(payload_of(place, passed)))
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    assert sign(place) == 4
    assert ".[keyless]" in capsys.readouterr().err
    assert verify(place, *NAMED) == 4
    assert ".[keyless]" in capsys.readouterr().err
