"""The one place that asks model-signing for what its public interface does not offer: to sign a statement of ours.

Its `signing.Config` and `verifying.Config` build a signer and a verifier for a key; that is public. A Config then signs
nothing but a list of files, and takes no other statement as verified. The signer signs any in-toto statement, though,
and the verifier checks the signature over any. So these names are used that are not public: `Config._signer`,
`Config._verifier`, the verifier's `_verify_signed_content`, and the class `Signature` around a bundle. The extra `sign`
bounds the version for that reason; `usable` says which, and a test says what a new release has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VERSIONS = "1.1."  # as in pyproject.toml: >=1.1,<1.2


def usable(version: str) -> bool:
    """Whether this version of model-signing has what is used here."""
    return version.startswith(VERSIONS)


def sign(statement: Mapping[str, Any], key: Path, password: bytes | None) -> dict[str, Any]:
    """A bundle, as a JSON document, with a statement and its signature by a private key.

    The payload is what in-toto's own classes make of the statement: its numbers are floats there.

    Args:
        statement: in-toto, version 1.
        key: PEM file on a curve of `signing.CURVES`.
        password: of an encrypted key. model-signing 1.1 declares text and hands it on to cryptography, which takes
            bytes alone.

    Raises UnicodeEncodeError: a name in the statement is no text.
    """
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # noqa: PLC0415 # the extra
    from in_toto_attestation.v1.statement import Statement  # noqa: PLC0415
    from model_signing import signing  # noqa: PLC0415

    subjects = [ResourceDescriptor(name=each["name"], digest=each["digest"]).pb for each in statement["subject"]]
    made = Statement(subjects, statement["predicateType"], statement["predicate"])
    signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)._signer
    bundle: dict[str, Any] = signer.sign(SimpleNamespace(statement=made)).bundle.to_dict()
    return bundle


def verify(bundle: Mapping[str, Any], public_key: Path) -> tuple[str, bytes]:
    """Type and bytes of the payload of a bundle that this key has signed, as model-signing sees it.

    It also takes a signature over another encoding, which its version 0.2 wrote; `signing.signed_payload` does not.

    Raises ValueError (no bundle that it knows, or a hint at another key), cryptography's InvalidSignature.
    """
    from model_signing import verifying  # noqa: PLC0415
    from model_signing._signing.sign_sigstore_pb import Signature  # noqa: PLC0415
    from sigstore_models.bundle.v1 import Bundle  # noqa: PLC0415

    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)._verifier
    kind, payload = verifier._verify_signed_content(Signature(Bundle.from_dict(dict(bundle))))
    return str(kind), bytes(payload)
