"""Sign and check verdicts with a local key. They are in-toto statements; it works offline (extra `sign`).

The key is an elliptic-curve key in a PEM file of the user; this module makes, keeps and sends none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError, install_hint
from robustcheck_onnx.checker.report.predicate import KNOWN_TYPES, PREDICATE_TYPE, predicate_of, sha256_set
from robustcheck_onnx.checker.report.signature_file import LARGEST_BYTES
from robustcheck_onnx.checker.text import as_json, once, quoted

from .bundle import SignatureError, opened, sealed
from .bundle import key_id as id_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from robustcheck_onnx.checker.report import Report


STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PASSWORD = "ROBUSTCHECK_KEY_PASSWORD"  # noqa: S105 # the environment variable's name: of an encrypted private key
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # names of cryptography
RULE = "it must be on the elliptic curve P-256, P-384 or P-521"
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def check_key(key: Path) -> None:
    """Refuse a private key that can't sign. Raises as `sign` does for a key."""
    _need_extra()
    _private_key(key)


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
    private = _private_key(key)
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
    key = _public_key(public_key)
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
    return id_of(_public_key(public_key))


def _need_extra() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401, PLC0415
        import securesystemslib.signer  # noqa: F401, PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{fault.name or 'securesystemslib'}: package is missing; signatures need the extra `sign`",
            install_hint("sign"),
        ) from fault


def _password() -> bytes | None:
    return os.environ.get(PASSWORD, "").encode() or None


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


def _private_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    content = content_of(path, "private key", NEW_KEY)
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

    hint = f"openssl ec -in key.pem -pubout -out {quoted(path)}"
    try:
        key = load_pem_public_key(content_of(path, "public key", hint))
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise UsageError(f"{path}: public key is not readable; it must be a PEM file", hint) from fault
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise UsageError(f"{path}: public key is of another kind; {RULE}", hint)
    return key


def _shown(value: object) -> str:
    return json.dumps(value)[:100]
