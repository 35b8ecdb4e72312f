"""Files of the hub library's cache against the checksums that the hub states.

The hub's ETag of a file is its SHA-256 if it is large (Git LFS), and Git's own SHA-1 of it otherwise. The hub library
stores a file under that name and puts a link to it where the file's own name is::

    snapshots/COMMIT/star.pth -> ../../blobs/2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

It checks a file's size when it is fetched, but not its content, and nothing when it takes it from the cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from star_model.errors import CheckpointError

_PIECE = 2**20


def check_sum(
    file: Path, repository: str, name: str, *, offline: bool, say: Callable[[str], None]
) -> None:
    """Compare a file with the checksum that the hub states for it; one that is wrong is removed from the cache.

    A file that is nowhere in the hub library's cache has no such checksum, and passes.

    Args:
        file: in a snapshot of the cache.
        repository: on the hub, from which it came.
        name: path of the file in it.
        offline: do not ask the hub, where the cache does not tell (it has no links on some file systems).
        say: receives a sentence before the file is read.

    Raises:
        CheckpointError: the two differ; the text has both.
    """
    stated = _linked_sum(file)
    if stated is None and not offline:
        stated = _asked_sum(file, repository, name)
    if stated is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", stated):
        return
    say(f"checking {name} of {repository}")
    kind, found = (
        ("SHA-256", _sha256(file)) if len(stated) == 64 else ("Git SHA-1", _git_sha1(file))
    )
    if found != stated:
        size = file.stat().st_size
        raise CheckpointError(
            f"{name} of {repository} is damaged: its {kind} is {found}, and the hub states {stated} "
            f"({size:,} bytes; {_remove(file)})"
        )


def _linked_sum(file: Path) -> str | None:
    """The checksum of which a link in a snapshot is made; None for another file."""
    return file.readlink().name if file.is_symlink() else None


def _asked_sum(file: Path, repository: str, name: str) -> str | None:
    """What the hub states about the file of a snapshot; None if it is of none, or the hub does not answer."""
    commit = file.parents[len(Path(name).parts) - 1]
    if commit.parent.name != "snapshots":
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        return get_hf_file_metadata(hf_hub_url(repository, name, revision=commit.name)).etag
    except Exception:
        # Without a network, which has many ways to fail, the library took the file from its cache.
        return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git_sha1(file: Path) -> str:
    """The name that Git gives to a file's content: the SHA-1 of its kind, its length and the content."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _remove(file: Path) -> str:
    """Remove a file and what it is a link to, so that it is fetched again; returns what was done, in words."""
    try:
        while file.is_symlink():
            target = file.parent / file.readlink()
            file.unlink()
            file = target
        file.unlink(missing_ok=True)
    except OSError as error:
        return f"remove {file}, which could not be done here: {error.strerror}"
    return "it was removed, to be fetched again"
