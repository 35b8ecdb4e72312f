"""Files that ``star-server generate`` writes: formats, names, metadata."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from server.errors import SigningFailed, UsageError
from server.images.encode import ImageFormat, Signer, encode_image
from server.images.metadata import describe
from server.messages import Job, Pixels
from server.settings import MetadataLevel

_SUFFIXES: dict[str, ImageFormat] = {
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
}


@dataclass(frozen=True)
class ImageWriter:
    """Writes image files with metadata.

    Args:
        model: name of the model.
        scales: of the model.
        dtype: of its weights.
        quality: of WebP and JPEG, 1 to 100; None for the default.
        metadata: how much the files say about themselves.
        signer: signs files that have metadata.
    """

    model: str
    scales: int
    dtype: str
    quality: int | None
    metadata: MetadataLevel
    signer: Signer | None

    def write(self, path: Path, pixels: Pixels, job: Job, image: int) -> None:
        """Write one image of a job, whole or not at all; the suffix of the path names the format.

        Raises:
            UsageError: the file cannot be written or signed.
        """
        size = f"{pixels.width}x{pixels.height}"
        metadata = describe(
            job,
            image,
            self.metadata,
            model=self.model,
            size=size,
            scales=self.scales,
            dtype=self.dtype,
        )
        half = path.with_name(f".star-{secrets.token_hex(8)}")
        try:
            data = encode_image(pixels, format_of(path), self.quality, metadata, self.signer)
            path.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(data)
            half.replace(path)
        except SigningFailed as error:
            reason = error.__cause__ or error
            raise UsageError(f"{path} cannot be signed: {reason}.") from error
        except OSError as error:
            half.unlink(missing_ok=True)
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def format_of(path: Path) -> ImageFormat:
    """Return the format that a file's suffix names.

    Raises:
        UsageError: it names none.
    """
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path} must end in {', '.join(_SUFFIXES)}, which names the format."
        ) from None


def output_paths(output: Path, n: int) -> list[Path]:
    """Return the files of ``n`` images: ``apple.png``, or ``apple-1.png``, ``apple-2.png``, ...

    Raises:
        UsageError: the directory is missing or not writable, the suffix is no image format, or a directory is in the
            way.
    """
    format_of(output)
    if not output.parent.is_dir():
        raise UsageError(
            f"The directory {output.parent} does not exist; create it or name another output."
        )
    paths = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it.")
    check_writable(output.parent)
    return paths


def check_writable(directory: Path) -> None:
    """Check that files can be created in an existing directory.

    Raises:
        UsageError: they cannot.
    """
    probe = directory / f".star-{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"Nothing can be written to {directory}: {error.strerror}.") from error
