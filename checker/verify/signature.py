"""Sign and check verdicts with a local key. They are in-toto statements; it works offline (extra `sign`).

The key is an elliptic-curve key in a PEM file of the user; this module makes, keeps and sends none.

The envelope, its signature and its check are securesystemslib's public interface. The bundle around it is the JSON form
of Sigstore's v0.3 for a key: the envelope, the key's name, and no entry of a transparency log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.report.record import (
    KNOWN_TYPES,
    LARGEST_BYTES,
    MEDIA_TYPE,
    PREDICATE_TYPE,
    predicate_of,
    sha256_set,
)
from robustcheck_onnx.checker.text import as_json, once, quoted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from robustcheck_onnx.checker.report.record import Report

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class SignatureError(ValueError):
    """A signature does not hold; the message says why."""


def sealed(payload: bytes, key: EllipticCurvePrivateKey) -> dict[str, Any]:
    """Sign a payload with a key. Returns the bundle as a JSON document."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 # the extra
    from securesystemslib.signer import CryptoSigner, SSlibKey  # noqa: PLC0415

    name = name_of_key(key.public_key())
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
        media, kind, payload, signed, named = _bundle_parts(document)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise SignatureError("is not a whole Sigstore bundle with one DSSE envelope signed by one key") from fault
    if media != MEDIA_TYPE:
        raise SignatureError(f"is a bundle of another kind, {media}")
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"holds no in-toto statement but {kind}")
    name = name_of_key(key)
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


def name_of_key(key: EllipticCurvePublicKey) -> str:
    """Return the key's name in bundles. It is sha256 of the public key's PEM text, hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _bundle_parts(document: Any) -> tuple[str, str, bytes, bytes, set[str]]:
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


STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PASSWORD = "ROBUSTCHECK_KEY_PASSWORD"  # noqa: S105 # the environment variable's name: of an encrypted private key
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # names of cryptography
RULE = "it must be on the elliptic curve P-256, P-384 or P-521"
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def check_key(key: Path) -> None:
    """Refuse a private key that can't sign. Raises as `sign` does for a key."""
    _need_extra()
    _key(key, private=True)


def statement(report: Report, report_digest: str, model: Path | None = None) -> dict[str, Any]:
    """Return the in-toto statement about one report. The same report gives the same statement.

    Its subjects are the model's file and each file of external weights, by name and sha256.

    Args:
        report: with a binding.
        report_digest: sha256:… of the file that holds the report, every byte of it.
        model: the file that was verified, whose name it has; None = the name in the report, which anyone can write.
    """
    facts = report.evidence.model
    files = [(PurePath(model or facts.file).name, facts.file_digest), *facts.external_digests.items()]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": sha256_set(digest)} for name, digest in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate_of(report, report_digest),
    }


def differences(signed: bytes, expected: dict[str, Any]) -> tuple[str, ...]:
    """List the differences from a report's statement.

    The payload was signed; the differences are in words, empty if there are none.
    """
    try:
        payload = json.loads(signed)
    except (ValueError, RecursionError):
        return ("it is not JSON",)
    if not isinstance(payload, dict):
        return ("it is not a statement",)
    if payload.get("predicateType") in KNOWN_TYPES:  # one of before HOME was set, or of an earlier version
        expected = expected | {"predicateType": payload["predicateType"]}
    out = [
        f"its {key} is another one"
        for key in ("_type", "predicateType", "subject")
        if payload.get(key) != expected[key]
    ]  # fmt: skip
    theirs, ours = payload.get("predicate"), expected["predicate"]
    if not isinstance(theirs, dict):
        return (*out, "it has no predicate")
    out += [f"its {key} is {_shown(theirs.get(key))}" for key in ours if theirs.get(key) != ours[key]]
    if not out and payload != expected:
        out.append("it says more than the report does")
    return tuple(out)


def sign(statement: dict[str, Any], key: Path) -> str:
    """Sign an in-toto statement.

    Args:
        statement: from `statement`.
        key: PEM file with the private key; of an encrypted one the password is in ROBUSTCHECK_KEY_PASSWORD.

    Returns:
        The text of a bundle file.

    Raises:
        UsageError: the key file is not readable, no PEM, encrypted without its password, or on another curve; or a
            file that the statement is about has a name that is not text.
        EnvironmentFaultError: the extra `sign` is missing.
    """
    _need_extra()
    private = _key(key, private=True)
    return as_json(sealed(payload_of(statement), private))


def payload_of(statement: dict[str, Any]) -> bytes:
    """Return the bytes of a statement to sign. Raises UsageError: a file name in it is not text."""
    try:
        return json.dumps(statement, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as fault:
        names = [subject["name"] for subject in statement["subject"]]
        name = next((each for each in names if not each.isprintable()), names[0])
        raise UsageError(
            f"{name!r}: file name is not text; in-toto names what a statement is about in UTF-8",
            "rename the file and check it again",
        ) from fault


def signed_payload(bundle: Path, public_key: Path) -> bytes:
    """Return a bundle's payload, signed by this key. The signature is checked.

    Raises:
        SignatureError: the file is not a bundle with a statement, or this key has not signed it.
        UsageError: a file is not readable; the key is not a PEM or on another curve.
        EnvironmentFaultError: the extra `sign` is missing.
    """
    _need_extra()
    key = _key(public_key)
    content = content_of(bundle, "signature", f"robustcheck sign REPORT.json MODEL.onnx --key key.pem -o {bundle}")
    try:
        document = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as fault:
        raise SignatureError(f"{bundle} is not JSON") from fault
    try:
        return opened(document, key)
    except SignatureError as fault:
        raise SignatureError(f"{bundle} {fault} ({public_key})") from fault


def key_id(public_key: Path) -> str:
    """Return the key's name in bundles.

    It is sha256 of the public key's PEM text, hexadecimal. Raises as `signed_payload`.
    """
    _need_extra()
    return name_of_key(_key(public_key))


def _need_extra() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401, PLC0415
        import securesystemslib.signer  # noqa: F401, PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{fault.name or 'securesystemslib'}: package is missing; signatures need the extra `sign`",
            install_hint("sign"),
        ) from fault


def content_of(path: Path, what: str, hint: str) -> bytes:
    """Read a small file. what: names it in errors. Raises UsageError: missing, not readable, too large."""
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


def _key(path: Path, *, private: bool = False) -> Any:
    """Load a key. Raises UsageError: it is not readable, encrypted without its password, or of another kind."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    what, hint = "public key", f"openssl ec -in key.pem -pubout -out {quoted(path)}"
    if private:
        what, hint = "private key", NEW_KEY
    content = content_of(path, what, hint)
    try:
        if private:
            key: Any = serialization.load_pem_private_key(content, os.environ.get(PASSWORD, "").encode() or None)
        else:
            key = serialization.load_pem_public_key(content)
    except TypeError as fault:  # a password for a plain key, or none for an encrypted one
        encrypted = b"ENCRYPTED" in content
        raise UsageError(
            f"{path}: private key is {'encrypted' if encrypted else 'not encrypted'}; {PASSWORD} must be "
            f"{'its password' if encrypted else 'unset'}",
            f"{'export' if encrypted else 'unset'} {PASSWORD}",
        ) from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        right = ", and its password right" * private
        raise UsageError(f"{path}: {what} is not readable; it must be a PEM file{right}", hint) from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey if private else ec.EllipticCurvePublicKey) or (
        key.curve.name not in CURVES
    ):
        raise UsageError(f"{path}: {what} is of another kind; {RULE}", hint)
    return key


def _shown(value: object) -> str:
    return json.dumps(value)[:100]
