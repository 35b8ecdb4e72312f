"""The records of a zip file of PyTorch: stored as they are, one after the other, and read without unpacking."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from star_model.checkpoints.lazy_tensor import Span
from star_model.errors import CheckpointError

LARGEST_DIRECTORY = 16 * 2**20
"""Of the zip file, in bytes; that of a model of a thousand tensors takes a hundred thousand."""
LOCAL_HEADER = 30
"""Bytes before the name and the extra field, which precede the data of a record."""
CHUNK = 4 * 2**20


class ZipRecords:
    """The records by name, such as ``data.pkl`` and ``data/0``, without the folder that they are all in.

    Only the records that are read are checked: a training's checkpoint has three times as many bytes as its weights.

    Raises:
        CheckpointError: when the file is damaged, or not as PyTorch writes it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._verified: set[str] = set()
        try:
            with _Bounded(file) as stream, zipfile.ZipFile(stream) as archive:
                entries = archive.infolist()
        except _DAMAGED as error:
            raise damaged(file, error) from error
        self._entries = {entry.filename.partition("/")[2]: entry for entry in entries}
        if (
            len(self._entries) < len(entries)
            or len({e.filename.split("/")[0] for e in entries}) > 1
        ):
            raise CheckpointError(f"{file} is not laid out as PyTorch writes it: names repeat")

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def span(self, name: str) -> Span:
        """Where the bytes of a record are.

        Raises:
            CheckpointError: when there is no such record, or it is compressed or not within the file.
        """
        if name not in self._entries:
            raise damaged(self.file, f"there is no record {name}")
        entry = self._entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise CheckpointError(
                f"{self.file} is not laid out as PyTorch writes it: {name} is packed"
            )
        with self.file.open("rb") as stream:
            stream.seek(entry.header_offset)
            header = stream.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER or header[:4] != b"PK\3\4":
            raise damaged(self.file, f"{name} is not where its directory says")
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = entry.header_offset + LOCAL_HEADER + sum(lengths)
        if start + entry.file_size > self.file.stat().st_size:
            raise damaged(self.file, f"{name} reaches beyond its end")
        return Span(self.file, start, entry.file_size)

    def verify(self, name: str) -> None:
        """Compare a record with its checksum, once.

        Raises:
            CheckpointError: when they differ.
        """
        if name in self._verified:
            return
        span, checksum = self.span(name), 0
        for start in range(0, span.size, CHUNK):
            part = span.read(start, min(CHUNK, span.size - start))
            checksum = zlib.crc32(part.numpy().data, checksum)
        if checksum != self._entries[name].CRC:
            raise damaged(self.file, f"the checksum of {name} is wrong")
        self._verified.add(name)


_DAMAGED = (
    *(zipfile.BadZipFile, struct.error, NotImplementedError),
    *(OSError, EOFError, ValueError, OverflowError),
)
"""What ``zipfile`` raises for directories that no program writes."""


class _Bounded(io.FileIO):
    """A file of which no more than a directory's size is read at once: ``zipfile`` reads what the file says."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its directory is larger than any model's")
        return super().read(size if size is not None and size >= 0 else LARGEST_DIRECTORY) or b""


def damaged(file: Path, reason: object = "") -> CheckpointError:
    """The error for a file that is not whole, with a reason or the error that told."""
    text = str(reason).partition("\n")[0] or type(reason).__name__ if reason != "" else ""
    return CheckpointError(
        f"{file} is damaged or incomplete; fetch it again" + (f": {text}" if text else "")
    )
