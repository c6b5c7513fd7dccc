"""The only calls of model-signing, two of them private: its public interface signs lists of files, no other statement.

`signing.Config` and `verifying.Config` are public and build a signer and a verifier for a key. The signer signs any
in-toto statement, and the verifier checks any, but only these private names reach them: `Config._signer`,
`Config._verifier`, the verifier's `_verify_signed_content`, and the class `Signature` around a bundle. So the extra
`sign` bounds the version (`usable`), and a test fails where a new release has moved a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VERSIONS = "1.1."  # as in pyproject.toml: >=1.1,<1.2


def usable(version: str) -> bool:
    """Whether this module works with a version of model-signing."""
    return version.startswith(VERSIONS)


def sign(statement: Mapping[str, Any], key: Path, password: bytes | None) -> dict[str, Any]:
    """Sign a statement with a private key; the bundle as a JSON document.

    The payload is what in-toto's classes make of the statement: all its numbers become floats.

    Args:
        statement: in-toto, version 1.
        key: PEM file on a curve of `signature.CURVES`.
        password: of an encrypted key. model-signing 1.1 declares text and hands it on to cryptography, which takes
            bytes alone.

    Raises UnicodeEncodeError: a name in the statement is no text.
    """
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # noqa: PLC0415 # the extra
    from in_toto_attestation.v1.statement import Statement  # noqa: PLC0415
    from model_signing import signing  # noqa: PLC0415

    subjects = [ResourceDescriptor(name=each["name"], digest=each["digest"]).pb for each in statement["subject"]]
    in_toto = Statement(subjects, statement["predicateType"], statement["predicate"])
    signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)._signer
    bundle: dict[str, Any] = signer.sign(SimpleNamespace(statement=in_toto)).bundle.to_dict()
    return bundle


def verify(bundle: Mapping[str, Any], public_key: Path) -> tuple[str, bytes]:
    """Type and bytes of the payload of a bundle, checked by model-signing to be signed by this key.

    model-signing also accepts a signature over an encoding of its version 0.2; `signature.signed_payload` does not.

    Raises ValueError (an unknown kind of bundle, or one by another key), cryptography's InvalidSignature.
    """
    from model_signing import verifying  # noqa: PLC0415
    from model_signing._signing.sign_sigstore_pb import Signature  # noqa: PLC0415
    from sigstore_models.bundle.v1 import Bundle  # noqa: PLC0415

    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)._verifier
    kind, payload = verifier._verify_signed_content(Signature(Bundle.from_dict(dict(bundle))))
    return str(kind), bytes(payload)
