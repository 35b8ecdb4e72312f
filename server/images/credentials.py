"""Content Credentials: the signed statement of C2PA's standard that an image was generated, and by what."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from server import __version__
from server.errors import SigningFailed
from server.images.metadata import ImageMetadata
from server.settings import FileSettings
from server.settings_file import SettingsFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_CONTEXT: dict[str, Any] = {
    # The image is its own best thumbnail, and needs no second file inside it.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False},
}


class CredentialSigner:
    """Embeds signed Content Credentials in image files. Safe to use from several threads.

    Args:
        certificate: PEM file of the signing certificate, followed by those that issued it.
        key: PEM file of its private key, not encrypted.
        timestamp_url: address of a time-stamping authority, which is asked for each image; None asks none.

    Raises:
        SettingsFileError: the extra ``c2pa`` is not installed, or a file cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, timestamp_url: str | None = None) -> None:
        try:
            import c2pa
        except ImportError as error:
            raise SettingsFileError(
                "c2pa_certificate needs the extra c2pa: pip install 'star-server[c2pa]'."
            ) from error
        self._c2pa = c2pa
        self._certificate = _read(certificate, "c2pa_certificate")
        self._key = _read(key, "c2pa_key")
        self._algorithm = _algorithm(certificate, self._certificate, key, self._key)
        self._timestamp_url = timestamp_url
        self._log = structlog.get_logger("star.images")
        try:
            self._signer().close()
        except c2pa.C2paError as error:
            raise SettingsFileError(
                f"c2pa_certificate {certificate} cannot sign Content Credentials: {error}."
            ) from error

    def sign(self, data: bytes, media_type: str, metadata: ImageMetadata) -> bytes:
        """Return an image file with Content Credentials inside.

        Args:
            data: the file.
            media_type: of the file.
            metadata: of the image.

        Raises:
            SigningFailed: the library refused, or the time-stamping authority did not answer.
        """
        signed = io.BytesIO()
        try:
            with (
                self._signer() as signer,
                self._c2pa.Context(self._c2pa.Settings.from_dict(_CONTEXT)) as context,
                self._c2pa.Builder.from_json(json.dumps(manifest(metadata)), context) as builder,
            ):
                builder.sign(signer, media_type, io.BytesIO(data), signed)
        except self._c2pa.C2paError as error:
            self._log.error("signing failed", reason=str(error))
            raise SigningFailed(
                "The server could not sign the image, and sends none without its Content Credentials; try again later."
            ) from error
        return signed.getvalue()

    def _signer(self) -> Any:
        """Return a signer for one image; it must not be shared by threads."""
        return self._c2pa.Signer.from_info(
            self._c2pa.C2paSignerInfo(
                self._algorithm, self._certificate, self._key, self._timestamp_url
            )
        )


def open_signer(settings: FileSettings) -> CredentialSigner | None:
    """Return the signer that the settings name, if they name one.

    Raises:
        SettingsFileError: as :class:`CredentialSigner`.
    """
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        return None
    return CredentialSigner(
        settings.c2pa_certificate, settings.c2pa_key, settings.c2pa_timestamp_url
    )


def manifest(metadata: ImageMetadata) -> dict[str, Any]:
    """Return the definition of an image's manifest: it was created, by this model. No prompt is in it."""
    created = {
        "action": "c2pa.created",
        "digitalSourceType": metadata.source_type,
        "softwareAgent": {"name": metadata.model},
    }
    return {
        "claim_generator_info": [{"name": "star-server", "version": __version__}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsFileError(
            f"{setting} {path} cannot be read: {(error.strerror or str(error)).lower()}."
        ) from error


def _algorithm(certificate_path: Path, certificate: bytes, key_path: Path, key: bytes) -> str:
    """Return C2PA's name of the algorithm that a key signs with.

    Raises:
        SettingsFileError: a file holds no certificate or key, they do not belong together, the certificate has
            expired, or the kind of key is not allowed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError as error:
        raise SettingsFileError(
            f"c2pa_certificate {certificate_path} holds no certificate in PEM form."
        ) from error
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise SettingsFileError(
            f"c2pa_key {key_path} holds no private key in PEM form, or an encrypted one."
        ) from error
    if leaf.public_key() != private.public_key():
        raise SettingsFileError(
            f"c2pa_key {key_path} is not the key of the first certificate in {certificate_path}."
        )
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise SettingsFileError(
            f"c2pa_certificate {certificate_path} has expired on {leaf.not_valid_after_utc:%Y-%m-%d}."
        )
    if (name := _algorithm_of(private)) is None:
        raise SettingsFileError(
            f"c2pa_key {key_path} must be an EC key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key."
        )
    return name


def _algorithm_of(key: PrivateKeyTypes) -> str | None:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    match key:
        case EllipticCurvePrivateKey():
            return _CURVES.get(key.curve.name)
        case Ed25519PrivateKey():
            return "ed25519"
        case RSAPrivateKey():
            return "ps256"
        case _:
            return None
