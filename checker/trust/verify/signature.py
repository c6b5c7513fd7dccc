"""Sign and check verdicts by a local key.

They are in-toto statements. By a key it works offline (extra `sign`): the key is an elliptic-curve key in a PEM file of
the user; this module makes, keeps and sends none. The envelope, its signature and its check are securesystemslib's
public interface. The bundle around it is the JSON form of Sigstore's v0.3 for a key: the envelope, the key's name, and
no entry of a transparency log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib import import_module
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ....thresholds import read_bytes
from ....thresholds.records import unique_keys
from ...errors import EnvironmentFaultError, UsageError, install_hint
from ...report.attestation import LARGEST_BYTES, MEDIA_TYPE, PREDICATE_TYPE, PREDICATE_TYPES, predicate_of, sha256_set
from ...report.record import Bound
from ...text import Fields, Texts, as_json, quoted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PASSWORD = "ROBUSTCHECK_KEY_PASSWORD"  # noqa: S105 # the environment variable's name: of an encrypted private key
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # names of cryptography
RULE = "it must be on the elliptic curve P-256, P-384 or P-521"
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


class SignatureError(ValueError):
    """A signature does not hold; the message says why."""


def statement(report: Bound, report_digest: str, model: Path | None = None) -> Fields:
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


def payload_of(statement: Fields) -> bytes:
    """Return the bytes of a statement to sign. Raises UsageError: a file name in it is not text."""
    try:
        return json.dumps(statement, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as fault:
        names = [subject["name"] for subject in statement["subject"]]
        name = next((name for name in names if not name.isprintable()), names[0])
        raise UsageError(
            f"{name!r}: file name is not text; in-toto names what a statement is about in UTF-8",
            "rename the file and check it again",
        ) from fault


def differences(signed: bytes, expected: Fields) -> Texts:
    """List the differences from a report's statement.

    The payload was signed; the differences are in words, empty if there are none.
    """
    try:
        payload = json.loads(signed)
    except (ValueError, RecursionError):
        return ("it is not JSON",)
    if not isinstance(payload, dict):
        return ("it is not a statement",)
    if payload.get("predicateType") in PREDICATE_TYPES:  # it may have been signed before HOME was set
        expected = expected | {"predicateType": payload["predicateType"]}
    out = [
        f"its {key} is another one"
        for key in ("_type", "predicateType", "subject")
        if payload.get(key) != expected[key]
    ]  # fmt: skip
    theirs = payload.get("predicate")
    ours = expected["predicate"]
    if not isinstance(theirs, dict):
        return (*out, "it has no predicate")
    out += [f"its {key} is {_shown(theirs.get(key))}" for key in ours if theirs.get(key) != ours[key]]
    if not out and payload != expected:
        out.append("it says more than the report does")
    return tuple(out)


def check_key(key: Path) -> None:
    """Refuse a private key that can't sign. Raises as `sign` does for a key."""
    _need_sign()
    _key(key, private=True)


def sign(statement: Fields, key: Path) -> str:
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
    _need_sign()
    return as_json(sealed(payload_of(statement), _key(key, private=True)))


def signed_payload(bundle: Path, public_key: Path) -> bytes:
    """Return a bundle's payload, signed by this key. The signature is checked.

    Raises:
        SignatureError: the file is not a bundle with a statement, or this key has not signed it.
        UsageError: a file is not readable; the key is not a PEM or on another curve.
        EnvironmentFaultError: the extra `sign` is missing.
    """
    _need_sign()
    key = _key(public_key)
    content = content_of(bundle, "signature", f"robustcheck sign REPORT.json MODEL.onnx --key key.pem -o {bundle}")
    try:
        document = json.loads(content, object_pairs_hook=unique_keys)
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
    _need_sign()
    return name_of_key(_key(public_key))


def content_of(path: Path, label: str, hint: str) -> bytes:
    """Read a small file. label: names it in errors. Raises UsageError: missing, not readable, too large."""
    try:
        return read_bytes(path, LARGEST_BYTES)
    except OSError as fault:
        raise UsageError(
            f"{path}: {label} is not readable ({fault.strerror}); it must be a small text file", hint
        ) from fault


def need_extra(extra: str, subject: str, *packages: str) -> None:
    """Import the packages of an extra. Raises EnvironmentFaultError: one is missing."""
    try:
        for package in packages:
            import_module(package)
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{fault.name or packages[-1].partition('.')[0]}: package is missing; {subject} need the extra `{extra}`",
            install_hint(extra),
        ) from fault


def _need_sign() -> None:
    need_extra("sign", "signatures", "cryptography.hazmat.primitives.asymmetric.ec", "securesystemslib.signer")


def _key(path: Path, *, private: bool = False) -> Any:
    """Load a key. Raises UsageError: it is not readable, encrypted without its password, or of another kind."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    label = "public key"
    hint = f"openssl ec -in key.pem -pubout -out {quoted(path)}"
    if private:
        label = "private key"
        hint = NEW_KEY
    content = content_of(path, label, hint)
    try:
        if private:
            password = os.environ.get(PASSWORD, "").encode() or None
            key: Any = serialization.load_pem_private_key(content, password)
        else:
            key = serialization.load_pem_public_key(content)
    except TypeError as fault:  # a password for a plain key, or none for an encrypted one
        mismatch = f"not encrypted; {PASSWORD} must be unset"
        next_step = f"unset {PASSWORD}"
        if b"ENCRYPTED" in content:
            mismatch = f"encrypted; {PASSWORD} must be its password"
            next_step = f"export {PASSWORD}"
        raise UsageError(f"{path}: private key is {mismatch}", next_step) from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        right = ", and its password right" * private
        raise UsageError(f"{path}: {label} is not readable; it must be a PEM file{right}", hint) from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey if private else ec.EllipticCurvePublicKey) or (
        key.curve.name not in CURVES
    ):
        raise UsageError(f"{path}: {label} is of another kind; {RULE}", hint)
    return key


def name_of_key(key: EllipticCurvePublicKey) -> str:
    """Return the key's name in bundles, the hexadecimal sha256 of the public key's PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sealed(payload: bytes, key: EllipticCurvePrivateKey) -> Fields:
    """Sign a payload with a key. Returns the bundle as a JSON document."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 # the extra
    from securesystemslib.signer import CryptoSigner, SSlibKey  # noqa: PLC0415

    public_key = key.public_key()
    name = name_of_key(public_key)
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(public_key, keyid=name)))
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
    signature = Signature(name, signed.hex())
    envelope = Envelope(payload, kind, {name: signature})
    try:
        envelope.verify([SSlibKey.from_crypto(key, keyid=name)], threshold=1)
    except (VerificationError, UnverifiedSignatureError) as fault:
        raise SignatureError("has a signature that does not hold for this key") from fault
    return payload


def _bundle_parts(document: Any) -> tuple[str, str, bytes, bytes, set[str]]:
    """Return media type, payload type, payload and signature of a bundle, and each name that it gives the key.

    Raises ValueError, KeyError, TypeError, AttributeError: a field is missing, of another type, or one too many.
    """
    envelope = document["dsseEnvelope"]
    material = document["verificationMaterial"]
    (signature,) = envelope["signatures"]
    hint = material["publicKey"]["hint"]
    fields = (
        (document, {"mediaType", "verificationMaterial", "dsseEnvelope"}),
        (material, {"publicKey", "tlogEntries"}),
        (material["publicKey"], {"hint"}),
        (envelope, {"payload", "payloadType", "signatures"}),
        (signature, {"sig", "keyid"}),
    )
    if any(not isinstance(record, dict) or not record.keys() <= allowed for record, allowed in fields):
        raise ValueError("a field too many")
    if material["tlogEntries"] != [] or not isinstance(hint, str):
        raise ValueError("entries of a log, or no name of a key")
    named = {hint, signature.get("keyid") or hint}
    payload = _decoded(envelope["payload"])
    signed = _decoded(signature["sig"])
    return document["mediaType"], envelope["payloadType"], payload, signed, named


def _decoded(text: str) -> bytes:
    """Decode base64; only its standard spelling is taken. Raises ValueError, TypeError."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("not in its standard spelling")
    return content


def _shown(value: object) -> str:
    return json.dumps(value)[:100]


def has_certificate(document: Any) -> bool:
    """Return whether a bundle is of an identity, and not of a key."""
    material = document.get("verificationMaterial") if isinstance(document, dict) else None
    return isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material)
