"""A small instance of Sigstore on this machine: identity provider, certificate authority (Fulcio), log (Rekor).

Written by their documents and RFC 6962, not with Sigstore's code, which is the client that the tests ask it with.
"""

import base64
import contextlib
import hashlib
import json
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support import Fields, serving

SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER_NAMED = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER = "https://issuer.example.org"
OPTIONAL = (x509.AuthorityKeyIdentifier, x509.ExtendedKeyUsage, x509.UnrecognizedExtension)
VALID = {"start": "2020-01-01T00:00:00Z"}


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def id_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def signed(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(hashes.SHA256()))


def canonical(document: Any) -> bytes:
    """RFC 8785 of a document of ASCII texts and whole numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _usage(bit: int) -> x509.KeyUsage:
    return x509.KeyUsage(*(place == bit for place in range(9)))


def _builder(
    issuer: x509.Name, subject: x509.Name, key: Any, valid: timedelta, *extensions: x509.ExtensionType
) -> x509.CertificateBuilder:
    start, number = datetime.now(UTC).replace(microsecond=0), x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, subject, key, number, start, start + valid)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=not isinstance(extension, OPTIONAL))
    return builder


class Instance:
    """Keys of all parts; `running` answers for the authority and the log, on the loopback interface."""

    url = "http://127.0.0.1:9"  # nobody answers there
    log_status = 201
    """HTTP status that the log answers with"""
    late_s = 0
    """how long after the true time it says that it has logged"""

    def __init__(self) -> None:
        self.provider, self.authority, self.ct, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
        self.root = self._root()
        self.requests: list[str] = []
        """what was asked for, in order"""

    def token(self, subject: str = "release@example.org", *, age: int = 0, aud: str = "sigstore") -> str:
        """The identity provider's: it is valid for ten minutes, and was made `age` seconds ago."""
        now = int(time.time()) - age
        claims = {"iss": ISSUER, "sub": subject, "aud": aud, "iat": now, "exp": now + 600}
        return str(jwt.encode(claims, self.provider, algorithm="ES256"))

    # ------------------------------------------------------------------------------------------- authority

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        ca = (x509.BasicConstraints(ca=True, path_length=0), _usage(5))  # signs certificates
        return self._sealed(_builder(name, name, self.authority.public_key(), timedelta(days=30), *ca))

    def _sealed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.authority, hashes.SHA256())

    def certify(self, body: Fields, token: str) -> tuple[int, Fields]:
        """Fulcio's answer to a request for a certificate."""
        try:
            claims = jwt.decode(token, self.provider.public_key(), algorithms=["ES256"], audience="sigstore")
        except jwt.InvalidTokenError:
            return 401, {"code": 16, "message": "the token does not hold"}
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        assert request.is_signature_valid
        certificate = self.certificate(request.public_key(), claims["sub"])
        chain = [each.public_bytes(serialization.Encoding.PEM).decode() for each in (certificate, self.root)]
        return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def certificate(self, key: Any, subject: str) -> x509.Certificate:
        """A signing certificate with its timestamp of certificate transparency (RFC 6962, section 3.2)."""
        kind = x509.UniformResourceIdentifier if "://" in subject else x509.RFC822Name
        builder = _builder(
            self.root.subject, x509.Name([]), key, timedelta(minutes=10),
            _usage(0),  # signs
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()),
            x509.SubjectAlternativeName([kind(subject)]),
            x509.UnrecognizedExtension(ISSUER_NAMED, ISSUER.encode()),
        )  # fmt: skip
        stamp, tbs = int(time.time() * 1000), self._sealed(builder).tbs_certificate_bytes
        entry = id_of(self.authority) + len(tbs).to_bytes(3, "big") + tbs
        by_log = signed(self.ct, struct.pack("!BBQH", 0, 0, stamp, 1) + entry + b"\0\0")
        timestamp = b"\0" + id_of(self.ct) + struct.pack("!QHBBH", stamp, 0, 4, 3, len(by_log)) + by_log
        listed = struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp
        octets = bytes([0x04, len(listed)]) + listed  # as DER has them: fewer than 128, the length is one byte
        return self._sealed(builder.add_extension(x509.UnrecognizedExtension(SCT_LIST, octets), critical=False))

    # ------------------------------------------------------------------------------------------------- log

    def enter(self, proposed: Fields) -> Fields:
        """Rekor's answer to a new entry of kind dsse 0.0.1: its promise, and its proof, in a tree of two leaves."""
        envelope = json.loads(proposed["envelope"])
        (signature,), (verifier,) = envelope["signatures"], proposed["verifiers"]
        hashed = {"envelopeHash": proposed["envelope"].encode(), "payloadHash": base64.b64decode(envelope["payload"])}
        spec: Fields = {
            name: {"algorithm": "sha256", "value": hashlib.sha256(each).hexdigest()} for name, each in hashed.items()
        }
        spec["signatures"] = [{"signature": signature["sig"], "verifier": verifier}]
        content = canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})

        first, own = hashlib.sha256(b"\0earlier").digest(), hashlib.sha256(b"\0" + content).digest()
        root, log_id = hashlib.sha256(b"\1" + first + own).digest(), id_of(self.log)
        note = f"log of a test\n2\n{b64(root)}\n"
        checkpoint = f"{note}\n\u2014 log {b64(log_id[:4] + signed(self.log, note.encode()))}\n"
        proof = {"logIndex": 1, "rootHash": root.hex(), "treeSize": 2, "hashes": [first.hex()]}
        promised = {"body": b64(content), "integratedTime": int(time.time()) + self.late_s, "logID": log_id.hex()}
        promised["logIndex"] = 1
        stamp = b64(signed(self.log, canonical(promised)))
        verification = {"signedEntryTimestamp": stamp, "inclusionProof": proof | {"checkpoint": checkpoint}}
        return {"00": promised | {"verification": verification}}

    # ------------------------------------------------------------------------------------------ trust config

    def trust_config(self) -> Fields:
        """What a client trusts, and where it asks, as Sigstore's ClientTrustConfig writes it."""

        def log(key: ec.EllipticCurvePrivateKey) -> Fields:
            public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": VALID}
            name = {"keyId": b64(id_of(key))}
            return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": name}

        certificates = [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]
        authority = {"uri": self.url, "certChain": {"certificates": certificates}, "validFor": VALID}
        authority["subject"] = {"organization": "test", "commonName": "test"}
        service = [{"url": self.url, "majorApiVersion": 1, "validFor": VALID, "operator": "test"}]
        kind = "application/vnd.dev.sigstore."
        root = {
            "mediaType": f"{kind}trustedroot+json;version=0.1", "tlogs": [log(self.log)],
            "certificateAuthorities": [authority], "ctlogs": [log(self.ct)],
        }  # fmt: skip
        signing = {
            "mediaType": f"{kind}signingconfig.v0.2+json", "caUrls": service, "rekorTlogUrls": service,
            "rekorTlogConfig": {"selector": "ANY"},
        }  # fmt: skip
        return {"mediaType": f"{kind}clienttrustconfig.v0.1+json", "trustedRoot": root, "signingConfig": signing}


@contextlib.contextmanager
def running() -> Iterator[Instance]:
    instance = Instance()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "signingCert" in self.path:
                self.answer(*instance.certify(body, self.headers["Authorization"].removeprefix("Bearer ")))
            else:
                self.answer(instance.log_status, instance.enter(body["spec"]["proposedContent"]))

        def do_GET(self) -> None:
            """The address at which a job of GitHub's asks for its token."""
            self.answer(200, {"value": instance.token()})

        def answer(self, status: int, document: Fields) -> None:
            instance.requests.append(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

    with serving(Handler) as instance.url:
        yield instance
