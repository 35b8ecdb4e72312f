"""Small files that would keep a decoder busy, or take its memory."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from tests.server.pictures import file_of


def endless_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG followed by empty refinement scans: each is 27 bytes and a walk over all pixels."""
    plain = file_of(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    codes = b"\xff\xc4" + struct.pack(">H", 20) + b"\x10\x01" + bytes(15) + b"\x00"
    lengths = len(codes) - 2
    assert lengths == int.from_bytes(codes[2:4])
    scan = b"\xff\xda" + struct.pack(">H", 8) + b"\x01\x01\x00" + bytes([1, 63, 0x21])
    return plain[:-2] + (codes + scan) * scans + b"\xff\xd9"


def many_segments(count: int) -> bytes:
    """A JPEG with many comments."""
    plain = file_of(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + b"\xff\xfe\x00\x03x" * count + plain[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with further chunks after its header."""
    plain = file_of(image or Image.new("RGB", (8, 8)))
    return plain[:33] + b"".join(chunks) + plain[33:]


def bomb(megabytes: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    return zlib.compress(bytes(megabytes << 20), 9)


def huge_webp(width: int, height: int) -> bytes:
    """A WebP whose canvas is far larger than the picture on it."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (1, 2, 3, 100)).save(
        file, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
    )
    data = bytearray(file.getvalue())
    assert data[12:16] == b"VP8X"
    data[24:27] = (width - 1).to_bytes(3, "little")
    data[27:30] = (height - 1).to_bytes(3, "little")
    return bytes(data)
