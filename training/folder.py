"""Pictures of one's own as training data: ``python -m training.prepare --folder DIR --out DATA``.

DIR holds, at any depth, one or more of the forms that such collections have:

    cat.jpg and cat.txt         a picture and its captions, one a line
    metadata.jsonl              {"file_name": "cat.jpg", "text": "a cat"} a line, as Hugging Face's image folders have;
                                also the "images.jsonl" that `star-server generate --prompts` writes
    shard.tar                   a webdataset: cat.jpg and cat.txt, or cat.json with "caption"

A picture is turned as its camera says, put on white where it is transparent, cut to a square around its middle, and
resized. What is broken or missing is named, and the rest is used.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from training.pictures import IMAGE_SIZE, INDEX, PICTURES

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_FILE_KEYS = ("file_name", "file", "image")
_TEXT_KEYS = ("captions", "text", "caption", "prompt")
CAPTIONS = "captions.txt"
"""A caption of each picture, in DATA: prompts to try the model with."""


@dataclass(frozen=True)
class Found:
    """A picture and its captions, or the reason why it cannot be used.

    Args:
        source: its name, for people.
        captions: at least one, unless there is a problem.
        read: returns the encoded picture.
        problem: a phrase; empty if there is none.
    """

    source: str
    captions: tuple[str, ...] = ()
    read: Callable[[], bytes] = bytes
    problem: str = ""


def find(folder: Path) -> Iterator[Found]:
    """Yield all pictures in a folder, or in one ``.jsonl`` or ``.tar`` file, in order of their names.

    Raises:
        FileNotFoundError: there is nothing at that path.
    """
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} does not exist; name a folder with pictures and captions"
        )
    files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else [folder]
    named: set[Path] = set()
    for file in files:
        if file.suffix == ".jsonl":
            for found, picture in _of_lines(file):
                named.add(picture)
                yield found
    for file in files:
        if file.suffix == ".tar":
            yield from _of_archive(file)
        elif file.suffix.lower() in SUFFIXES and file not in named:
            name = str(file.relative_to(folder)) if folder.is_dir() else file.name
            text = file.with_suffix(".txt")
            if text.is_file():
                yield _captioned(name, _read_text(text), file.read_bytes)
            else:
                yield Found(name, problem=f"it has no caption: there is no {text.name} beside it")


def _of_lines(file: Path) -> Iterator[tuple[Found, Path]]:
    """Yield the pictures that a JSON Lines file names, relative to its folder; and their files."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{file.name} line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            yield Found(where, problem="it is not JSON"), file
            continue
        if isinstance(value, dict) and "error" in value and not _first(value, _FILE_KEYS):
            continue  # of a prompt that failed
        name = _first(value, _FILE_KEYS) if isinstance(value, dict) else None
        if not isinstance(name, str):
            yield Found(where, problem=f"it has none of the keys {', '.join(_FILE_KEYS)}"), file
            continue
        picture = file.parent / name
        if not picture.is_file():
            yield Found(name, problem=f"{where} names it, but there is no such file"), picture
        else:
            yield _captioned(name, _first(value, _TEXT_KEYS), picture.read_bytes), picture


def _of_archive(file: Path) -> Iterator[Found]:
    """Yield the samples of a webdataset: members that stand together, named the same up to the first dot."""
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, _, suffix = path.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (name := str(path.with_name(stem))) != key:
                    yield from _of_sample(file, key, parts)
                    key, parts = name, {}
                content = archive.extractfile(member)
                parts[f".{suffix.lower()}"] = content.read() if content is not None else b""
        yield from _of_sample(file, key, parts)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Found(
            file.name, problem=f"the archive is damaged after {key or 'its beginning'} ({error})"
        )


def _of_sample(file: Path, key: str, parts: Mapping[str, bytes]) -> Iterator[Found]:
    """Yield the picture of one sample of an archive, if it has one."""
    source = f"{file.name}: {key}"
    suffix = next((suffix for suffix in parts if suffix in SUFFIXES), None)
    if suffix is None:
        if parts:
            yield Found(source, problem=f"it has no picture, only {', '.join(sorted(parts))}")
        return
    encoded = parts[suffix]
    texts: Any = None
    if ".txt" in parts:
        texts = parts[".txt"].decode("utf-8", errors="replace").splitlines()
    elif ".json" in parts:
        try:
            value = json.loads(parts[".json"])
        except ValueError:
            value = None
        texts = _first(value, _TEXT_KEYS) if isinstance(value, dict) else None
    yield _captioned(f"{source}{suffix}", texts, lambda: encoded)


def _first(value: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)


def _read_text(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def _captioned(source: str, texts: Any, read: Callable[[], bytes]) -> Found:
    """Return a picture with its captions: a text, or a list of them."""
    given = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []
    captions = tuple(
        " ".join(text.split()) for text in given if isinstance(text, str) and text.strip()
    )
    return Found(source, captions, read, "" if captions else "its caption is empty or missing")


def square(encoded: bytes, size: int = IMAGE_SIZE) -> Image.Image:
    """Decode a picture, and return its middle as an RGB image of ``size`` x ``size`` pixels.

    Raises:
        OSError, ValueError: it is no picture, or damaged, or of more pixels than Pillow decodes.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            turned = ImageOps.exif_transpose(image)
            if turned.has_transparency_data:
                turned = turned.convert("RGBA")
                paper = Image.new("RGBA", turned.size, "white")
                turned = Image.alpha_composite(paper, turned)
            return ImageOps.fit(turned.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:
        raise ValueError("it is not a picture that Pillow reads") from error
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _write_pictures(folder: Path, out: Path) -> tuple[list[dict[str, Any]], int]:
    """Write the pictures in ``folder`` to ``out``; return what is known of each, and the number of those left out."""
    entries: list[dict[str, Any]] = []
    skipped = 0
    for found in find(folder):
        problem = found.problem
        if not problem:
            try:
                square(found.read()).save(out / f"{len(entries):08d}.png", compress_level=1)
            except (OSError, ValueError) as error:
                problem = f"it cannot be read ({error})"
        if problem:
            skipped += 1
            print(f"left out {found.source}: {problem}")
            continue
        entries.append({"source": found.source, "captions": list(found.captions)})
        if len(entries) % 1000 == 0:
            print(f"{len(entries)} pictures so far", flush=True)
    return entries, skipped


def prepare_folder(folder: Path, out: Path, text_encoder: Path) -> int:
    """Fill ``out`` with the pictures in ``folder``, their captions and the text encoder; print what was left out.

    Args:
        folder: see the top of this module.
        out: data folder.
        text_encoder: folder that is copied to ``out``.

    Returns:
        number of pictures.

    Raises:
        ValueError: ``out`` holds pictures already, or ``folder`` has none that can be used.
        FileNotFoundError: there is no such folder, or no text encoder.
    """
    if (out / PICTURES).exists():
        raise ValueError(f"{out} holds pictures already; give another folder, or delete it")
    if not text_encoder.is_dir():
        raise FileNotFoundError(f"{text_encoder} does not exist; name one with --text-encoder")
    partial = out / f"{PICTURES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    entries, skipped = _write_pictures(folder, partial)
    if not entries:
        raise ValueError(f"{folder} holds no picture with a caption that can be used")
    index = {"size": IMAGE_SIZE, "pictures": entries}
    (partial / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")
    prompts = dict.fromkeys(entry["captions"][0] for entry in entries)
    (out / CAPTIONS).write_text("".join(f"{p}\n" for p in prompts), encoding="utf-8")
    if not (out / "text_encoder").exists():
        shutil.copytree(text_encoder, out / "text_encoder")
    partial.rename(out / PICTURES)
    captions = sum(len(entry["captions"]) for entry in entries)
    print(
        f"{out}: {len(entries)} pictures with {captions} captions"
        + f", {skipped} left out" * bool(skipped)
    )
    return len(entries)
