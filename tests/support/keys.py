"""Keys on elliptic curves, in PEM files, signed documents of which a value is changed, what is said of a signature."""

import copy
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support import Fields

PEM = serialization.Encoding.PEM


def write_keys(
    folder: Path, name: str = "key", password: bytes | None = None, curve: ec.EllipticCurve | None = None
) -> ec.EllipticCurvePrivateKey:
    """Write NAME.pem, which the password protects, and NAME.pub."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, protection))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return key


def changed(document: Fields, place: str, value: Any) -> Fields:
    """A copy with another value at a place; `place` is keys with spaces between them."""
    made = part = copy.deepcopy(document)
    *keys, last = place.split()
    for key in keys:
        part = part[key]
    part[last] = value
    return made


def signature_seen(out: str) -> str:
    """What `verify` says of a signature, in a document where the rest holds."""
    findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert findings["report"]["status"] == findings["model"]["status"] == "agrees"
    return str(findings["signature"]["seen"])
