"""Sign verdicts as an identity, and check such signatures, with Sigstore's client (extra `keyless`).

There is no key. Whoever signs shows the token of an identity provider to a certificate authority, which certifies a key
of one use for that identity; a public log keeps that it was used. Only this module of the tool opens connections to
Sigstore, when a signature by an identity is asked for; a check never does.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ....thresholds.records import unique_keys
from ...errors import EnvironmentFaultError, UsageError
from ...outside.storage.places import OFFLINE, is_offline
from ...text import Fields, as_json, printable
from .signature import PAYLOAD_TYPE, SignatureError, content_of, key_id, need_extra, payload_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.oidc import IdentityToken

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 # the environment variable's name, as cosign and GitLab have it
ISSUER_OID = "1.3.6.1.4.1.57264.1.1"  # of Fulcio's certificates: who vouches for the identity
OTHER_NAME_OID = "1.3.6.1.4.1.57264.1.7"  # of an identity that is neither a mail address nor a URI
LONGEST_REASON = 300
NAMES = "--certificate-identity release@example.org --certificate-oidc-issuer https://accounts.example.org"


class Identity(NamedTuple):
    """The identity that must have signed."""

    name: str
    """as in the certificate: a mail address, or the URI of a workflow"""
    issuer: str
    """URL of the identity provider that vouches for the name"""
    trust_config: Path | None = None
    """what says whom to trust, Sigstore's client trust config; None = its public instance"""


Signer = Path | Identity
"""the file of a public key, or an identity"""


class Signed(NamedTuple):
    """A signed bundle and what it made public."""

    text: str
    identity: Identity
    log_index: str


def identity_of(name: str | None, issuer: str | None, trust_config: Path | None) -> Identity | None:
    """Return the identity that a verification's options name. None if they name none.

    Raises UsageError where only one of name and issuer is given, or one is empty.
    """
    if name is None and issuer is None and trust_config is None:
        return None
    if not name or not issuer:
        raise UsageError(
            "--certificate-identity and --certificate-oidc-issuer belong together, and neither may be empty; a name "
            "means nothing without the one who vouches for it",
            NAMES,
        )
    return Identity(name, issuer, trust_config)


def words_of(signer: Signer) -> str:
    """Write who signed. An identity has someone who confirms it."""
    if isinstance(signer, Path):
        return f"key {key_id(signer)[:16]}…"
    instance = f"the instance of {signer.trust_config}" if signer.trust_config else "Sigstore's public instance"
    return f"{signer.name}, says {signer.issuer}, by {instance}"


def check_token(trust_config: Path | None) -> tuple[IdentityToken, ClientTrustConfig]:
    """Refuse early what can't sign. There is no extra, no connection or no valid token; a measurement would be in vain.

    Raises as `sign_as_identity`.
    """
    _need_keyless()
    if is_offline():
        raise UsageError(
            f"--keyless opens connections to Sigstore; offline ({OFFLINE} or --offline) nothing can be signed so",
            "--key key.pem, or leave out --offline",
        )
    return _token(), _trust(trust_config)


def sign_as_identity(statement: Fields, trust_config: Path | None) -> Signed:
    """Sign an in-toto statement as the token's identity, over connections to Sigstore.

    The bundle is verified by the code of `signed_by_identity` before it is handed out.

    Args:
        statement: from `statement`.
        trust_config: names the instance; None = Sigstore's public one.

    Raises:
        UsageError: offline; no token; a trust config that is not readable.
        EnvironmentFaultError: the extra `keyless` is missing; the token is malformed, expired or refused; the instance
            can't be reached, or its answer does not verify. No message holds the token.
    """
    token, trust = check_token(trust_config)  # again: the token may have expired while the model was measured
    payload = payload_of(statement)
    from sigstore.dsse import Statement  # noqa: PLC0415 # the extra
    from sigstore.sign import SigningContext  # noqa: PLC0415

    try:
        with SigningContext.from_trust_config(trust).signer(token) as signer:
            bundle = signer.sign_dsse(Statement(payload))
        identity = Identity(*_certified(bundle.signing_certificate), trust_config)
    except MemoryError:
        raise
    except Exception as fault:  # noqa: BLE001 # their client hands on the errors of five libraries
        raise EnvironmentFaultError(
            f"keyless signing: Sigstore gave no signature ({_reason(fault, str(token))}); it must be reachable and "
            "accept the token",
            "sign again, with a token that is new; or with --key key.pem",
        ) from None  # their text may repeat the token
    try:
        _verified(bundle, identity, trust)
    except SignatureError as fault:
        raise EnvironmentFaultError(
            f"keyless signing: what Sigstore answered does not verify (it {fault}); nothing was written",
            "sign again; --trust-config must be that of the instance",
        ) from fault
    document = json.loads(bundle.to_json())
    entry = document["verificationMaterial"]["tlogEntries"][0]
    return Signed(as_json(document), identity, str(entry["logIndex"]))


def signed_by_identity(bundle: Path, identity: Identity) -> bytes:
    """Return a bundle's payload, signed by this identity. An instance of Sigstore must have certified and logged it.

    Without `trust_config` the keys of Sigstore's public instance are brought up to date over the network first;
    offline, those of the last time, or of the package, count.

    Raises:
        SignatureError: the file is not a bundle with a statement, or this identity has not signed it.
        UsageError: a file is not readable, or no trust config.
        EnvironmentFaultError: the extra `keyless` is missing, or the keys of the public instance can't be had.
    """
    _need_keyless()
    content = content_of(bundle, "signature", f"robustcheck sign REPORT.json MODEL.onnx --keyless -o {bundle}")
    trust = _trust(identity.trust_config)
    try:
        return _verified(_bundle(content), identity, trust)
    except SignatureError as fault:
        raise SignatureError(f"{bundle} {fault}") from fault


def _need_keyless() -> None:
    need_extra("keyless", "signatures by an identity", "sigstore.verify")
    log = logging.getLogger("sigstore")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # else its warnings go to stderr


def _bundle(content: bytes) -> Bundle:
    from sigstore.models import Bundle  # noqa: PLC0415 # the extra

    try:
        document = json.loads(content, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as fault:
        raise SignatureError("is not JSON") from fault
    material = document.get("verificationMaterial") if isinstance(document, dict) else None
    if isinstance(material, dict) and "publicKey" in material:
        raise SignatureError("was signed by a key, not by an identity; --public-key checks it")
    try:
        return Bundle.from_json(content)
    except MemoryError:
        raise
    except Exception as fault:  # a broken certificate raises errors of several libraries
        raise SignatureError("is not a whole Sigstore bundle with a certificate and an entry of a log") from fault


def _verified(bundle: Bundle, identity: Identity, trust: ClientTrustConfig) -> bytes:
    """Return the payload of a valid bundle.

    Certificate, log and identity must hold. Raises SignatureError, whose message continues a sentence.
    """
    from sigstore.verify import Verifier  # noqa: PLC0415 # the extra
    from sigstore.verify.policy import Identity as Policy  # noqa: PLC0415

    policy = Policy(identity=identity.name, issuer=identity.issuer)
    try:
        kind, payload = Verifier(trusted_root=trust.trusted_root).verify_dsse(bundle, policy)
    except MemoryError:
        raise
    except Exception as fault:  # of a hostile bundle their client lets other errors through, too
        wanted = f"{identity.name} ({identity.issuer})"
        raise SignatureError(f"does not hold for {wanted}: {_reason(fault)}") from fault
    if kind != PAYLOAD_TYPE:
        raise SignatureError(f"holds no in-toto statement but {printable(kind)}")
    return payload


def _certified(certificate: Certificate) -> tuple[str, str]:
    """Return the identity and issuer in a certificate.

    The certificate is of a signature; the issuer confirms the identity.
    """
    from cryptography import x509  # noqa: PLC0415 # the extra

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    identities = names.get_values_for_type(x509.RFC822Name)
    identities += names.get_values_for_type(x509.UniformResourceIdentifier)
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id.dotted_string == OTHER_NAME_OID:
            identities.append(name.value.decode())
    issuer = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(ISSUER_OID)).value
    assert isinstance(issuer, x509.UnrecognizedExtension)
    return identities[0], issuer.value.decode()


def _token() -> IdentityToken:
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential  # noqa: PLC0415 # the extra

    raw = os.environ.get(TOKEN, "").strip()
    where = TOKEN
    if not raw:
        where = "the token of this job"
        try:
            raw = detect_credential() or ""
        except IdentityError as fault:
            raise EnvironmentFaultError(
                f"keyless signing: this job gives no token ({_reason(fault)}); it must be allowed to ask for one",
                "permissions: id-token: write  # of GitHub's workflow",
            ) from fault
    if not raw:
        raise UsageError(
            f"--keyless needs the token of an identity provider; {TOKEN} is not set, and no CI system was found that "
            "gives one",
            f"export {TOKEN}=…  # for the audience sigstore; or --key key.pem",
        )
    try:
        return IdentityToken(raw)
    except IdentityError as fault:
        why = _reason(fault.__cause__ or fault, raw)
        raise EnvironmentFaultError(
            f"{where}: identity token is not usable ({why}); it must be a valid one for the audience sigstore",
            "ask the identity provider for a new one",
        ) from None


def _trust(trust_config: Path | None) -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415 # the extra

    if trust_config is not None:
        hint = "the client trust config of your instance, as JSON"
        content = content_of(trust_config, "trust config", hint)
        try:
            trust = ClientTrustConfig.from_json(content.decode())
            _ = trust.trusted_root, trust.signing_config
        except MemoryError:
            raise
        except Exception as fault:
            raise UsageError(
                f"{trust_config}: trust config is not readable ({type(fault).__name__}); it must be Sigstore's "
                "ClientTrustConfig as JSON",
                hint,
            ) from fault
        return trust
    try:
        return ClientTrustConfig.production(offline=is_offline())
    except MemoryError:
        raise
    except Exception as fault:
        raise EnvironmentFaultError(
            f"keyless: the keys of Sigstore's public instance can't be had ({_reason(fault)}); they come over the "
            "network",
            "verify --offline takes those of the last time; --trust-config FILE names others",
        ) from fault


def _reason(fault: BaseException, secret: str = "") -> str:
    """Return another library's error in one line, without secrets."""
    words = str(fault) or str(fault.__cause__ or "") or type(fault).__name__
    line = printable(" ".join(words.split()))
    return (line.replace(secret, "…") if secret else line)[:LONGEST_REASON]
