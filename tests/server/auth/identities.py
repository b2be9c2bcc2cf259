"""Real tokens, keys and certificates, made on the spot."""

from __future__ import annotations

import ipaddress
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from longshore_server.auth import tokens
from longshore_server.testing.clock import START

ISSUER, AUDIENCE = "https://idp.example", "orders"
NOW = START // 1_000_000


@cache
def private_key(id: str, kind: str = "EC") -> Any:
    """The private key of this id, the same all over the tests."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "OKP" else ec.generate_private_key(ec.SECP256R1())


def public(id: str, kind: str = "EC", **more: Any) -> dict[str, Any]:
    """Its entry in a JWKS."""
    algorithm: Any = {"EC": jwt.algorithms.ECAlgorithm, "RSA": jwt.algorithms.RSAAlgorithm,
                      "OKP": jwt.algorithms.OKPAlgorithm}[kind]  # fmt: skip
    entry = json.loads(algorithm.to_jwk(private_key(id, kind).public_key()))
    return {**entry, **({"kid": id} if id else {}), **more}


def write_keys(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text(json.dumps({"keys": list(entries)}))
    return str(path)


def signed(key: str = "k1", *, algorithm: str = "ES256", kind: str = "EC", header: Any = None, **claims: Any) -> str:
    """A JSON Web Token; claims that are None are left out."""
    full = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": NOW + 600, **claims}
    kept = {name: value for name, value in full.items() if value is not None}
    return jwt.encode(kept, private_key(key, kind), algorithm, headers={"kid": key, **(header or {})})


def bearer(path: Path, principal: str, *capabilities: str, expires: datetime | None = None) -> str:
    """A token whose entry is added to the file."""
    made = tokens.make(principal, capabilities, expires)
    tokens.append(path, made)
    return made.token


class Pem(NamedTuple):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key, datetime.now(UTC) + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def issue(self, file: str, *names: x509.GeneralName, common: str = "somebody", end: datetime | None = None) -> Pem:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        builder = self._builder(subject, key, end or datetime.now(UTC) + timedelta(hours=1))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        found = Pem(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        found.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        found.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return found

    def server(self, file: str = "server") -> Pem:
        """A certificate for this machine."""
        return self.issue(file, x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def _builder(self, subject: x509.Name, key: Any, end: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(datetime.now(UTC) - timedelta(minutes=1))
            .not_valid_after(end)
        )  # fmt: skip


_PEM: Any = serialization.Encoding.PEM
