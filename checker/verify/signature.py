"""Signs a verdict as an in-toto statement with a local key, and checks such a signature, offline (extra `sign`).

The statement is in a DSSE envelope in a Sigstore bundle, as in model-signing's own signatures by a key. The key is an
elliptic-curve key in a PEM file of the user; this module makes, keeps and sends none."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.report.signature_file import LARGEST_BYTES, MEDIA_TYPE, PREDICATE_TYPE
from robustcheck_onnx.checker.text import as_json

from . import model_signing_calls

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from robustcheck_onnx.checker.report import Report


STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PASSWORD = "ROBUSTCHECK_KEY_PASSWORD"  # noqa: S105 # the environment variable's name: of an encrypted private key
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The hash that is signed, by the key's curve (names of cryptography)."""
RULE = "it must be on the elliptic curve P-256, P-384 or P-521"
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


class SignatureError(ValueError):
    """A signature does not hold; the message says why."""


def check_key(key: Path) -> None:
    """Refuse a private key that can't sign. Raises as `sign` does for a key."""
    _need_extra()
    _private_key(key)


def statement(report: Report, report_digest: str) -> dict[str, Any]:
    """The in-toto statement about one report; the same report gives the same statement.

    Its subjects are the model's file and each file of external weights, by name and sha256.

    Args:
        report: with a binding.
        report_digest: sha256:… of the file that holds the report, every byte of it.
    """
    assert report.binding is not None
    evidence = report.evidence
    files = [(PurePath(evidence.model.file).name, evidence.model.file_digest), *evidence.model.external_digests.items()]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": _sha256(digest)} for name, digest in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verdict": report.verdict.verdict,
            "reasons": [reason.id for reason in report.verdict.reasons],
            "report": {"digest": _sha256(report_digest)},
            "result": {"digest": _sha256(report.binding.result_digest)},
            "profile": {"id": report.profile.id, "digest": _sha256(report.profile.digest)},
            "images": {"digest": _sha256(evidence.images.digest), "count": evidence.statistics.n_images},
            "tool": {"name": report.tool, "version": report.tool_version},
            "time": report.time.started if report.time else None,
        },
    }


def differences(signed: bytes, expected: dict[str, Any]) -> tuple[str, ...]:
    """The differences between a signed payload and the statement about a report, in words; empty if there are none."""
    try:
        payload = json.loads(signed)
    except (ValueError, RecursionError):
        return ("it is no JSON",)
    if not isinstance(payload, dict):
        return ("it is no statement",)
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
            file that the statement is about has a name that is no text.
        CannotAssessError: the signed form would not say what the statement says.
        EnvironmentFaultError: the extra `sign` is missing, or of another version.
    """
    _need_extra()
    public = _private_key(key).public_key()
    try:
        bundle = model_signing_calls.sign(statement, key, _password())
    except UnicodeEncodeError as fault:
        raise UsageError(
            f"{fault.object!r}: file name is no text; in-toto names what a statement is about in UTF-8",
            "rename the file and check it again",
        ) from fault
    try:
        signed = _payload(bundle, public)
    except SignatureError as fault:
        raise UsageError(f"{key}: private key changed while it signed; it must stay the same", "sign again") from fault
    if json.loads(signed) != statement:  # its numbers are floats there: a count above 2**53 would be another one
        raise CannotAssessError(
            f"{PREDICATE_TYPE}: statement is changed by its signed form; what is signed must be exact", "pip check"
        )
    return as_json(bundle)


def signed_payload(bundle: Path, public_key: Path) -> bytes:
    """The payload of a bundle, checked to be signed by this key: by the DSSE v1 rule and by model-signing.

    Raises:
        SignatureError: the file is no bundle with a statement, or this key has not signed it.
        UsageError: a file is not readable; the key is no PEM or on another curve.
        EnvironmentFaultError: the extra `sign` is missing, or of another version.
    """
    _need_extra()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 # the extra

    key = _public_key(public_key)
    content = _read(bundle, "signature", f"robustcheck sign REPORT.json MODEL.onnx --key key.pem -o {bundle}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise SignatureError(f"{bundle} is no JSON") from fault
    try:
        payload = _payload(document, key)
        if model_signing_calls.verify(document, public_key) != (PAYLOAD_TYPE, payload):
            raise SignatureError("holds something else for model-signing")
    except SignatureError as fault:
        raise SignatureError(f"{bundle} {fault} ({public_key})") from fault
    except (ValueError, InvalidSignature) as fault:
        raise SignatureError(f"{bundle} is refused by model-signing ({type(fault).__name__})") from fault
    return payload


def key_id(public_key: Path) -> str:
    """sha256 of the public key's PEM text, hexadecimal, as bundles name it. Raises as `signed_payload`."""
    _need_extra()
    return _id(_public_key(public_key))


def _need_extra() -> None:
    hint = "pip install '.[sign]'  # in a clone"
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401, PLC0415
        import model_signing  # noqa: F401, PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{fault.name or 'model-signing'}: package is missing; signatures need the extra `sign`", hint
        ) from fault
    installed = version("model-signing")
    if not model_signing_calls.usable(installed):
        raise EnvironmentFaultError(f"model-signing: version is {installed}; it must be >=1.1,<1.2", hint)


def _payload(document: Any, key: EllipticCurvePublicKey) -> bytes:
    """The payload of a bundle, checked to be signed by this key by the DSSE v1 rule.

    Raises SignatureError, whose message continues a sentence that starts with the bundle's name.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415

    try:
        media, envelope = document["mediaType"], document["dsseEnvelope"]
        kind, payload = envelope["payloadType"], _decoded(envelope["payload"])
        (signature,) = envelope["signatures"]
        signed = _decoded(signature["sig"])
        hint = document["verificationMaterial"]["publicKey"]["hint"]
        named = {hint, signature.get("keyid") or hint}  # model-signing leaves the second one empty
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise SignatureError("is no whole Sigstore bundle with a DSSE envelope and one signature by a key") from fault
    if media != MEDIA_TYPE:
        raise SignatureError(f"is a bundle of another kind, {media}")
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"holds no in-toto statement but {kind}")
    if named != {_id(key)}:
        raise SignatureError("was not signed by this key")
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    try:
        key.verify(signed, encoded, ECDSA(getattr(hashes, CURVES[key.curve.name])()))
    except InvalidSignature as fault:
        raise SignatureError("has a signature that does not hold for this key") from fault
    return payload


def _decoded(text: str) -> bytes:
    """Decode base64; only its standard spelling is taken. Raises ValueError, TypeError."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("not in its standard spelling")
    return content


def _id(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _password() -> bytes | None:
    return os.environ.get(PASSWORD, "").encode() or None


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
    try:
        key = load_pem_private_key(content, _password())
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
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise UsageError(f"{path}: private key is of another kind; {RULE}", NEW_KEY)
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
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise UsageError(f"{path}: public key is of another kind; {RULE}", hint)
    return key


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}


def _shown(value: object) -> str:
    return json.dumps(value)[:100]
