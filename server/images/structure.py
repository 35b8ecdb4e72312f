"""Inspection of image files before they are decoded: structure and size, in time bounded by the file's length.

A few kilobytes can keep a decoder busy for minutes: a progressive JPEG of thousands of empty scans, a PNG whose texts
are compressed a thousandfold, a WebP that declares a canvas of a gigabyte. Such files are found here without decoding.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_MOST_SCANS = 100
"""Scans of a JPEG; encoders write about ten."""
_MOST_SEGMENTS = 2000
"""Segments of a JPEG, scans included; a profile of 2 MB is 32 of them."""
_MOST_CHUNKS = 1000
"""Chunks of a PNG or WebP that hold no pixels."""
_MOST_DATA_CHUNKS = 65_536
"""Chunks of a PNG that hold pixels; most encoders write one for every 8 KiB."""
_LARGEST_PROFILE = 4 << 20
_LARGEST_EXIF = 1 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_NEXT_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""In a scan, 0xFF00 is a data byte of 0xFF, and the markers 0xD0 to 0xD7 only restart the decoder."""
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE = 0xDA, 0xD8, 0xD9
_KEPT_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"gAMA", b"sRGB"})


class UnsafeStructure(Exception):
    """The file would take far more work to decode than an image of its size does. The text completes "image ..."."""


class Size(NamedTuple):
    """Width and height in pixels, as the file declares them."""

    width: int
    height: int


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int
    """Of the content, in bytes from the start of the file; the end may lie behind the file's."""


def inspect(file: bytes) -> Size | None:
    """Return the size that a file declares; None if it is cut off before that, or of another kind.

    Raises:
        UnsafeStructure: it has too many parts.
    """
    if file.startswith(_PNG):
        return _inspect_png(file)
    if file.startswith(b"\xff\xd8"):
        return _inspect_jpeg(file)
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return _inspect_webp(file)
    return None


def strip_png(file: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without the chunks that its pixels do not need, and its colour profile.

    Texts are dropped unread. A profile is dropped if it is damaged or of more than 4 MiB, EXIF data if it is of more
    than 1 MiB. Any other file is returned as it is.
    """
    if not file.startswith(_PNG):
        return file, None
    parts, profile = [_PNG], None
    for chunk in _png_chunks(file):
        small_exif = chunk.kind == b"eXIf" and chunk.end - chunk.start <= _LARGEST_EXIF
        if chunk.kind in _KEPT_CHUNKS or small_exif:
            parts.append(file[chunk.start - 8 : chunk.end + 4])
        elif chunk.kind == b"iCCP" and profile is None:
            profile = _profile(file[chunk.start : chunk.end])
    return b"".join(parts), profile


def _inspect_jpeg(file: bytes) -> Size | None:
    size, scans, segments, position = None, 0, 0, 2
    while (found := _NEXT_MARKER.search(file, position)) is not None:
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            break
        segments += 1
        scans += marker == _START_OF_SCAN
        if scans > _MOST_SCANS:
            raise UnsafeStructure(f"has more than {_MOST_SCANS} scans")
        if segments > _MOST_SEGMENTS:
            raise UnsafeStructure(f"has more than {_MOST_SEGMENTS:,} segments")
        if marker in (0x01, _START_OF_IMAGE):  # the markers without a length
            continue
        if marker in _START_OF_FRAME and size is None and position + 7 <= len(file):
            height = int.from_bytes(file[position + 3 : position + 5])
            size = Size(int.from_bytes(file[position + 5 : position + 7]), height)
        position += int.from_bytes(file[position : position + 2])
    return size


def _inspect_png(file: bytes) -> Size | None:
    size, data_chunks, others = None, 0, 0
    for chunk in _png_chunks(file):
        if chunk.kind == b"IDAT":
            data_chunks += 1
        else:
            others += 1
        if others > _MOST_CHUNKS:
            raise UnsafeStructure(f"has more than {_MOST_CHUNKS:,} chunks beside its pixels")
        if data_chunks > _MOST_DATA_CHUNKS:
            raise UnsafeStructure(f"has more than {_MOST_DATA_CHUNKS:,} chunks of pixels")
        if chunk.kind == b"IHDR" and size is None and chunk.start + 8 <= len(file):
            width = int.from_bytes(file[chunk.start : chunk.start + 4])
            size = Size(width, int.from_bytes(file[chunk.start + 4 : chunk.start + 8]))
    return size


def _inspect_webp(file: bytes) -> Size | None:
    """Return the largest of the sizes that a WebP declares: of its canvas and of its bitstream."""
    sizes = []
    for number, chunk in enumerate(_webp_chunks(file)):
        if number >= _MOST_CHUNKS:
            raise UnsafeStructure(f"has more than {_MOST_CHUNKS:,} chunks")
        if (size := _webp_size(chunk.kind, file[chunk.start : chunk.start + 10])) is not None:
            sizes.append(size)
    return max(sizes, key=lambda size: size.width * size.height, default=None)


def _webp_size(kind: bytes, head: bytes) -> Size | None:
    if kind == b"VP8X" and len(head) == 10:
        return Size(
            int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
        )
    if kind == b"VP8 " and len(head) == 10:
        return Size(
            int.from_bytes(head[6:8], "little") & 0x3FFF,
            int.from_bytes(head[8:10], "little") & 0x3FFF,
        )
    if kind == b"VP8L" and len(head) >= 5:
        bits = int.from_bytes(head[1:5], "little")
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return None


def _png_chunks(file: bytes) -> Iterator[_Chunk]:
    position = len(_PNG)
    while position + 8 <= len(file):
        length = int.from_bytes(file[position : position + 4])
        chunk = _Chunk(file[position + 4 : position + 8], position + 8, position + 8 + length)
        yield chunk
        position = chunk.end + 4  # a checksum follows
        if chunk.kind == b"IEND":
            return


def _webp_chunks(file: bytes) -> Iterator[_Chunk]:
    position = 12
    while position + 8 <= len(file):
        length = int.from_bytes(file[position + 4 : position + 8], "little")
        chunk = _Chunk(file[position : position + 4], position + 8, position + 8 + length)
        yield chunk
        position = chunk.end + length % 2


def _profile(content: bytes) -> bytes | None:
    """Return the profile of an ``iCCP`` chunk: a name, a zero, a zero for zlib, compressed data."""
    _, _, compressed = content.partition(b"\0")
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(compressed[1:], _LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if stream.eof else None
