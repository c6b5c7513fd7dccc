"""Make and open Sigstore bundles with a key. They have a DSSE envelope; securesystemslib does it (extra `sign`).

The envelope, its signature and its check are securesystemslib's public interface. The bundle around it is the JSON form
of Sigstore's v0.3 for a key: the envelope, the key's name, and no entry of a transparency log.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from robustcheck_onnx.checker.report.signature_file import MEDIA_TYPE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class SignatureError(ValueError):
    """A signature does not hold; the message says why."""


def sealed(payload: bytes, key: EllipticCurvePrivateKey) -> dict[str, Any]:
    """Sign a payload with a key. Returns the bundle as a JSON document."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 # the extra
    from securesystemslib.signer import CryptoSigner, SSlibKey  # noqa: PLC0415

    name = key_id(key.public_key())
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=name)))
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": name}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }


def opened(document: Any, key: EllipticCurvePublicKey) -> bytes:
    """Return a bundle's payload, signed by this key. The signature is checked.

    More is asked for than securesystemslib does: one signature, this kind of bundle and payload, no other field, the
    key's name, base64 in its one spelling.

    Raises SignatureError, whose message continues a sentence that starts with the bundle's name.
    """
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 # the extra
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError  # noqa: PLC0415
    from securesystemslib.signer import Signature, SSlibKey  # noqa: PLC0415

    if has_certificate(document):
        raise SignatureError("was signed by an identity, not by a key; --certificate-identity checks it")
    try:
        media, kind, payload, signed, named = _parts(document)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise SignatureError("is not a whole Sigstore bundle with one DSSE envelope signed by one key") from fault
    if media != MEDIA_TYPE:
        raise SignatureError(f"is a bundle of another kind, {media}")
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"holds no in-toto statement but {kind}")
    name = key_id(key)
    if named != {name}:
        raise SignatureError("was not signed by this key")
    envelope = Envelope(payload, kind, {name: Signature(name, signed.hex())})
    try:
        envelope.verify([SSlibKey.from_crypto(key, keyid=name)], threshold=1)
    except (VerificationError, UnverifiedSignatureError) as fault:
        raise SignatureError("has a signature that does not hold for this key") from fault
    return payload


def has_certificate(document: Any) -> bool:
    """Return whether a bundle is of an identity. It is then not of a key."""
    material = document.get("verificationMaterial") if isinstance(document, dict) else None
    return isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material)


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the key's name in bundles. It is sha256 of the public key's PEM text, hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _parts(document: Any) -> tuple[str, str, bytes, bytes, set[str]]:
    """Return the parts of a bundle.

    They are media type, payload type, payload, signature, and each name that the bundle gives the key.

    Raises ValueError, KeyError, TypeError, AttributeError: a field is missing, of another type, or one too many.
    """
    envelope, material = document["dsseEnvelope"], document["verificationMaterial"]
    (signature,) = envelope["signatures"]
    hint = material["publicKey"]["hint"]
    fields = (
        (document, {"mediaType", "verificationMaterial", "dsseEnvelope"}),
        (material, {"publicKey", "tlogEntries"}),
        (material["publicKey"], {"hint"}),
        (envelope, {"payload", "payloadType", "signatures"}),
        (signature, {"sig", "keyid"}),
    )
    if any(not isinstance(record, dict) or not record.keys() <= known for record, known in fields):
        raise ValueError("a field too many")
    if material["tlogEntries"] != [] or not isinstance(hint, str):
        raise ValueError("entries of a log, or no name of a key")
    named = {hint, signature.get("keyid") or hint}  # model-signing, with which earlier versions signed, left it empty
    payload, signed = _decoded(envelope["payload"]), _decoded(signature["sig"])
    return document["mediaType"], envelope["payloadType"], payload, signed, named


def _decoded(text: str) -> bytes:
    """Decode base64; only its standard spelling is taken. Raises ValueError, TypeError."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("not in its standard spelling")
    return content
