"""A small Sigstore instance on this machine: identity provider, certificate authority (Fulcio) and log (Rekor).

Written by the specifications (RFC 6962 for certificate timestamps and the Merkle tree, RFC 8785 for what the log
signs, the checkpoint's note), without sigstore's code: sigstore's client is what is tested against it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
ISSUER = "https://issuer.example.org"
VALID = {"start": "2020-01-01T00:00:00Z"}


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def signed(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(hashes.SHA256()))


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


class Instance:
    """Keys of all parts, and an HTTP server on the loopback interface that answers for the authority and the log."""

    def __init__(self) -> None:
        self.provider, self.authority, self.ct, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
        self.root = self._root()
        self.requests: list[str] = []
        """what was asked for, in order"""
        self.refuses: dict[str, int] = {}
        """HTTP status that the server answers with, by a part of the path"""
        self.certified_for = timedelta(minutes=10)
        self.lies = False
        """whether the log's promises are about another time than it says"""
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                instance.requests.append(self.path)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = next((code for part, code in instance.refuses.items() if part in self.path), 0)
                if status:
                    answer: Any = {"code": status, "message": "refused"}
                elif "signingCert" in self.path:
                    status, answer = instance.certify(body, self.headers["Authorization"].removeprefix("Bearer "))
                else:
                    status, answer = 201, instance.enter(body)
                self.answer(status, answer)

            def do_GET(self) -> None:
                """The address at which a job of GitHub's asks for its token."""
                instance.requests.append(self.path)
                self.answer(200, {"value": instance.token()})

            def answer(self, status: int, document: dict[str, Any]) -> None:
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # as the base class names it
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # ------------------------------------------------------------------------------------- identity provider

    def token(self, subject: str = "release@example.org", issuer: str = ISSUER, *, age: int = 0, **more: Any) -> str:
        """A token that is valid for ten minutes, made `age` seconds ago."""
        now = int(time.time()) - age
        claims = {"iss": issuer, "sub": subject, "aud": "sigstore", "iat": now, "exp": now + 600, **more}
        return str(jwt.encode(claims, self.provider, algorithm="ES256"))

    # ------------------------------------------------------------------------------------------- authority

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        key, usage = self.authority.public_key(), dict.fromkeys(USAGES, False) | {"key_cert_sign": True}
        return (
            x509.CertificateBuilder(name, name, key, x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=30))
            .not_valid_after(datetime.now(UTC) + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def certify(self, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        """Fulcio's answer to a request for a certificate."""
        try:
            claims = jwt.decode(token, self.provider.public_key(), algorithms=["ES256"], audience="sigstore")
        except jwt.InvalidTokenError:
            return 401, {"code": 16, "message": "the token does not hold"}
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        assert request.is_signature_valid
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = self.certificate(key, claims["sub"], claims["iss"])
        chain = [each.public_bytes(serialization.Encoding.PEM).decode() for each in (certificate, self.root)]
        return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def certificate(
        self, key: ec.EllipticCurvePublicKey, subject: str, issuer: str, *, sct: bool = True
    ) -> x509.Certificate:
        """A signing certificate with its timestamp of certificate transparency (RFC 6962, section 3.2)."""
        name: x509.GeneralName = x509.UniformResourceIdentifier(subject)
        if "://" not in subject:
            name = x509.RFC822Name(subject)
        usage = dict.fromkeys(USAGES, False) | {"digital_signature": True}
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + self.certified_for)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V1, issuer.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V2, der(0x0C, issuer.encode())), critical=False)
        )
        before = builder.sign(self.authority, hashes.SHA256())
        if not sct:
            return before
        stamp, tbs = int(now.timestamp() * 1000), before.tbs_certificate_bytes
        issuer_key = hashlib.sha256(spki(self.authority.public_key())).digest()
        entry = issuer_key + len(tbs).to_bytes(3, "big") + tbs
        by_log = signed(self.ct, struct.pack("!BBQH", 0, 0, stamp, 1) + entry + b"\0\0")
        log_id = hashlib.sha256(spki(self.ct.public_key())).digest()
        timestamp = b"\0" + log_id + struct.pack("!QHBBH", stamp, 0, 4, 3, len(by_log)) + by_log
        listed = struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp
        return builder.add_extension(x509.UnrecognizedExtension(SCT_LIST, der(0x04, listed)), critical=False).sign(
            self.authority, hashes.SHA256()
        )

    # ------------------------------------------------------------------------------------------------- log

    def enter(self, body: dict[str, Any]) -> dict[str, Any]:
        """Rekor's answer to a new entry of kind dsse 0.0.1: the second leaf of a tree of two."""
        assert (body["kind"], body["apiVersion"]) == ("dsse", "0.0.1")
        proposed = body["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        (signature,), (verifier,) = envelope["signatures"], proposed["verifiers"]
        digest = hashlib.sha256(proposed["envelope"].encode()).hexdigest()
        return self.entry(dsse(digest, base64.b64decode(envelope["payload"]), signature["sig"], verifier))

    def entry(self, content: bytes, integrated: int | None = None) -> dict[str, Any]:
        """What the log says of an entry: its promise, and its proof in the tree with a signed checkpoint."""
        first, own = hashlib.sha256(b"\0earlier").digest(), hashlib.sha256(b"\0" + content).digest()
        root = hashlib.sha256(b"\1" + first + own).digest()
        log_id = hashlib.sha256(spki(self.log.public_key())).digest()
        note = f"log of a test\n2\n{b64(root)}\n"
        checkpoint = f"{note}\n\u2014 log {b64(log_id[:4] + signed(self.log, note.encode()))}\n"
        promised = {"body": b64(content), "integratedTime": integrated or int(time.time()), "logID": log_id.hex()}
        promised["logIndex"] = 1
        proof = {
            "logIndex": 1,
            "rootHash": root.hex(),
            "treeSize": 2,
            "hashes": [first.hex()],
            "checkpoint": checkpoint,
        }
        stamp = b64(signed(self.log, canonical(promised | {"integratedTime": 1} if self.lies else promised)))
        return {"00": promised | {"verification": {"signedEntryTimestamp": stamp, "inclusionProof": proof}}}

    # ---------------------------------------------------------------------------------------------- bundles

    def bundle(
        self,
        payload: bytes,
        subject: str = "release@example.org",
        issuer: str = ISSUER,
        *,
        kind: str = "application/vnd.in-toto+json",
        integrated: int | None = None,
        sct: bool = True,
    ) -> dict[str, Any]:
        """A bundle made here, without any client: right, unless `integrated` or `sct` say otherwise."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(key.public_key(), subject, issuer, sct=sct)
        encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        signature = {"sig": b64(signed(key, encoded))}
        envelope = {"payload": b64(payload), "payloadType": kind, "signatures": [signature]}
        pem = b64(certificate.public_bytes(serialization.Encoding.PEM))
        entry = self.entry(dsse("0" * 64, payload, signature["sig"], pem), integrated)["00"]
        proof = entry["verification"]["inclusionProof"]
        logged = {
            "logIndex": "1",
            "logId": {"keyId": b64(bytes.fromhex(entry["logID"]))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": b64(bytes.fromhex(proof["rootHash"])),
                "treeSize": "2",
                "hashes": [b64(bytes.fromhex(each)) for each in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": entry["body"],
        }
        raw = b64(certificate.public_bytes(serialization.Encoding.DER))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"certificate": {"rawBytes": raw}, "tlogEntries": [logged]},
            "dsseEnvelope": envelope,
        }

    # ------------------------------------------------------------------------------------------ trust config

    def trust_config(self) -> dict[str, Any]:
        """What a client trusts, and where it asks, as Sigstore's ClientTrustConfig writes it."""

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            content = spki(key.public_key())
            public = {"rawBytes": b64(content), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": VALID}
            name = {"keyId": b64(hashlib.sha256(content).digest())}
            return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": name}

        certificates = [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]
        service = [{"url": self.url, "majorApiVersion": 1, "validFor": VALID, "operator": "test"}]
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "test", "commonName": "test"},
                        "uri": self.url,
                        "certChain": {"certificates": certificates},
                        "validFor": VALID,
                    }
                ],
                "ctlogs": [log(self.ct)],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service,
                "oidcUrls": service,
                "rekorTlogUrls": service,
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }


USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def canonical(document: Any) -> bytes:
    """RFC 8785 of a document of ASCII texts and whole numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def dsse(envelope_digest: str, payload: bytes, signature: str, verifier: str) -> bytes:
    """The body of an entry of kind dsse 0.0.1."""
    hashed = {"envelopeHash": envelope_digest, "payloadHash": hashlib.sha256(payload).hexdigest()}
    spec: dict[str, Any] = {name: {"algorithm": "sha256", "value": value} for name, value in hashed.items()}
    spec["signatures"] = [{"signature": signature, "verifier": verifier}]
    return canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
