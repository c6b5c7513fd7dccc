"""Which files are taken for a bundle of an identity; a module stands in for Sigstore's, which test_keyless.py has."""

import json
import sys
import types

import pytest

from robustcheck_onnx.checker.verify import keyless
from robustcheck_onnx.checker.verify.signature import SignatureError
from support import Patch, raised


@pytest.fixture
def read(monkeypatch: Patch) -> list[bytes]:
    """What Sigstore's client was given; it takes whatever has a certificate."""
    given = []

    def from_json(content: bytes) -> str:
        given.append(content)
        if b"certificate" not in content:
            raise KeyError("certificate")
        return "bundle"

    models = types.ModuleType("sigstore.models")
    models.Bundle = types.SimpleNamespace(from_json=from_json)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sigstore", types.ModuleType("sigstore"))
    monkeypatch.setitem(sys.modules, "sigstore.models", models)
    return given


def test_a_bundle_of_a_key_is_told_from_one_of_an_identity(read: list[bytes]) -> None:
    content = json.dumps({"verificationMaterial": {"certificate": {}, "tlogEntries": []}}).encode()
    assert str(keyless._bundle(content)) == "bundle"
    assert read == [content]
    for material, said in (
        ({"publicKey": {"hint": "x"}}, "was signed by a key, not by an identity; --public-key checks it"),
        ({"publicKey": {}, "certificate": {}}, "was signed by a key, not by an identity"),
        ({}, "is not a whole Sigstore bundle"),
        ("publicKey", "is not a whole Sigstore bundle"),
        (None, "is not a whole Sigstore bundle"),
    ):
        raised(SignatureError, said, keyless._bundle, json.dumps({"verificationMaterial": material}).encode())
    for text, said in (
        ("{", "is not JSON"),
        ('{"a": 1, "a": 2}', "is not JSON"),
        (100_000 * "[", "is not JSON"),
        ("[1]", "is not a whole Sigstore bundle"),
        ("{}", "is not a whole Sigstore bundle"),
    ):
        raised(SignatureError, said, keyless._bundle, text.encode())
