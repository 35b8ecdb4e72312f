"""Certificates for signing, made for a test: one that issues, and one that it issued."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="the extra c2pa is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Certificates:
    """Files in PEM form.

    Attributes:
        chain: the signing certificate, then the one that issued it.
        key: of the signing certificate.
        root: the certificate that issued it.
    """

    chain: Path
    key: Path
    root: Path


def make_key(kind: str) -> Any:
    """A private key: of a curve's name, ``ed25519`` or ``rsa``."""
    match kind:
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case _:
            curves = {
                curve.name: curve
                for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1())
            }
            return ec.generate_private_key(curves[kind])


def make_certificates(
    folder: Path,
    kind: str = "secp256r1",
    *,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    expired: bool = False,
) -> Certificates:
    """Write a root, a certificate that it issued for signing, and the key."""
    folder.mkdir(parents=True, exist_ok=True)
    issuer, key = make_key("secp256r1"), make_key(kind)
    name = _name("Root of a test")
    root = _builder(name, name, issuer, issuer, is_root=True).sign(issuer, hashes.SHA256())
    end = datetime.now(UTC) - timedelta(days=1) if expired else None
    leaf = (
        _builder(_name("Signer of a test"), name, key, issuer, end=end)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .sign(issuer, hashes.SHA256())
    )
    made = Certificates(folder / "chain.pem", folder / "key.pem", folder / "root.pem")
    roots, leaves = (each.public_bytes(serialization.Encoding.PEM) for each in (root, leaf))
    made.root.write_bytes(roots)
    made.chain.write_bytes(leaves + roots)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


def _name(common: str) -> x509.Name:
    names = {NameOID.COMMON_NAME: common, NameOID.ORGANIZATION_NAME: "Tests of star-server"}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names.items()])


def _builder(
    subject: x509.Name,
    issuer_name: x509.Name,
    key: Any,
    issuer: Any,
    *,
    is_root: bool = False,
    end: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    usages = {
        "digital_signature": not is_root,
        "key_cert_sign": is_root,
        "crl_sign": is_root,
        **dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ),
        **dict.fromkeys(("encipher_only", "decipher_only"), False),
    }
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(end or now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .add_extension(x509.KeyUsage(**usages), critical=True)
    )
