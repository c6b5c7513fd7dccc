"""Sign a statement with a local key and check such a signature, offline: DSSE in a Sigstore bundle (extra `sign`).

The envelope and the bundle are those of model-signing's and cosign's key-based signatures, so their tools read them.
The key is an elliptic-curve one on P-256 in a PEM file of the user; none is made, kept or sent here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.attestation import PAYLOAD_TYPE
from robustcheck_onnx.checker.delivery import as_json
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from securesystemslib.signer import SSlibKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PASSWORD = "ROBUSTCHECK_KEY_PASSWORD"  # noqa: S105 # the environment variable's name: of an encrypted private key
LARGEST_BYTES = 1 << 20  # of a key or bundle file; real ones have some KB
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


class SignatureError(ValueError):
    """A signature that does not hold; the message says why, in words."""


def sign(payload: bytes, key: Path) -> str:
    """Sign an in-toto statement.

    Args:
        payload: the statement as JSON.
        key: PEM file with the private key; of an encrypted one the password is in ROBUSTCHECK_KEY_PASSWORD.

    Returns:
        The text of a bundle file.

    Raises:
        UsageError: the key file is not readable, no PEM, encrypted without its password, or not on P-256.
        EnvironmentFaultError: the extra `sign` is missing.
    """
    _need_extra()
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 # the extra
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415

    private = _private_key(key)
    public = _library_key(private.public_key())
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private, public))
    return as_json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": public.keyid}, "tlogEntries": []},
            "dsseEnvelope": envelope.to_dict(),
        }
    )


def signed_payload(bundle: Path, public_key: Path) -> bytes:
    """What a bundle holds, if this key has signed it.

    Raises:
        SignatureError: no bundle with a statement, or not signed by this key.
        UsageError: a file is not readable; the key is no PEM or not on P-256.
        EnvironmentFaultError: the extra `sign` is missing.
    """
    _need_extra()
    from securesystemslib.dsse import Envelope  # noqa: PLC0415
    from securesystemslib.exceptions import FormatError, VerificationError  # noqa: PLC0415

    key = _library_key(_public_key(public_key))
    content = _read(bundle, "signature", f"robustcheck sign REPORT.json MODEL.onnx --key key.pem -o {bundle}")
    try:
        document = json.loads(content)
        if document["mediaType"] != MEDIA_TYPE:
            raise SignatureError(f"{bundle} is a bundle of another kind ({document['mediaType']})")
        envelope = Envelope.from_dict(document["dsseEnvelope"])
    except SignatureError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as fault:
        raise SignatureError(f"{bundle} is no whole Sigstore bundle with a DSSE envelope") from fault
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SignatureError(f"{bundle} holds no in-toto statement but {envelope.payload_type}")
    if key.keyid not in envelope.signatures:
        raise SignatureError(f"{bundle} was not signed by the key {public_key}")
    try:
        envelope.verify([key], 1)
    except VerificationError as fault:
        raise SignatureError(f"the signature in {bundle} does not hold for the key {public_key}") from fault
    return bytes(envelope.payload)


def key_id(public_key: Path) -> str:
    """sha256 of the public key's PEM text, hexadecimal, as bundles name it. Raises as `signed_payload`."""
    _need_extra()
    return str(_library_key(_public_key(public_key)).keyid)


def _need_extra() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401, PLC0415
        import securesystemslib.dsse  # noqa: F401, PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            "securesystemslib: package is missing; signatures need the extra `sign`",
            "pip install 'robustcheck-onnx[sign]'",
        ) from fault


def _read(path: Path, what: str, hint: str) -> bytes:
    try:
        if not path.is_file():  # a folder, a pipe, a device: nothing to wait for
            raise UsageError(f"{path}: {what} is missing or no file; it must be one", hint)
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as fault:
        raise UsageError(f"{path}: {what} is not readable ({fault.strerror}); it must be a file", hint) from fault
    if len(content) > LARGEST_BYTES:
        raise UsageError(f"{path}: {what} has more than {LARGEST_BYTES} bytes; it must be a small text file", hint)
    return content


def _private_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    content = _read(path, "private key", NEW_KEY)
    password = os.environ.get(PASSWORD)
    try:
        key = load_pem_private_key(content, password.encode() if password else None)
    except TypeError as fault:  # a password for a plain key, or none for an encrypted one
        encrypted = b"ENCRYPTED" in content
        raise UsageError(
            f"{path}: private key is {'encrypted' if encrypted else 'not encrypted'}; {PASSWORD} must be "
            f"{'its password' if encrypted else 'unset'}",
            f"{'export' if encrypted else 'unset'} {PASSWORD}",
        ) from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise UsageError(
            f"{path}: private key is not readable; it must be a PEM file, and its password right", NEW_KEY
        ) from fault
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise UsageError(f"{path}: private key is of another kind; it must be on the elliptic curve P-256", NEW_KEY)
    return key


def _public_key(path: Path) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    hint = f"openssl ec -in key.pem -pubout -out {shlex.quote(str(path))}"
    try:
        key = load_pem_public_key(_read(path, "public key", hint))
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise UsageError(f"{path}: public key is not readable; it must be a PEM file", hint) from fault
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise UsageError(f"{path}: public key is of another kind; it must be on the elliptic curve P-256", hint)
    return key


def _library_key(key: EllipticCurvePublicKey) -> SSlibKey:
    """With the id that model-signing gives a key: sha256 of its PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(pem).hexdigest())
