"""Files of prompts for ``star-server generate --prompts``: reading them, naming their images, recording these."""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from server.commands.image_files import check_writable, format_of
from server.errors import UsageError
from server.validation import complaints, shorten, unknown
from star_model.sampling import Seed

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]

DEFAULT_PATTERN = "images/{line:04}-{prompt}-{seed}.png"
RECORD = "images.jsonl"
"""Name of the record, in the directory that all images of a pattern share."""

_FIELDS = ("line", "image", "seed", "prompt")
_EXAMPLE = {"line": 1, "image": 1, "seed": 1, "prompt": "x"}
_SLUG_CHARACTERS = 40


class PromptLine(BaseModel):
    """A line of a file of prompts: its text, or an object of a file that ends in ``.jsonl``.

    Other keys of an object are ignored: lists of prompts for evaluations have some.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    prompt: Prompt
    negative_prompt: str | None = Field(None, max_length=2000)
    seed: Seed | None = None


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be read.

    Args:
        text: of the line, shortened.
        reason: a sentence.
    """

    text: str
    reason: str


def read_prompts(path: Path) -> dict[int, PromptLine | BadLine]:
    """Read a file of prompts, one a line; empty lines are passed over.

    Args:
        path: of the file; ``-`` is the standard input. If it ends in ``.jsonl``, each line is a JSON object.

    Returns:
        number of the line, from 1, and what it holds.

    Raises:
        UsageError: the file cannot be read, or holds no prompt.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start} cannot be read.") from error
    parse = _parse_object if path.suffix == ".jsonl" else _parse_text
    found = {number: parse(line) for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not found:
        raise UsageError(f"{path} holds no prompt; write one a line.")
    return found


def _parse_text(line: str) -> PromptLine | BadLine:
    return _checked(line, {"prompt": line})


def _parse_object(line: str) -> PromptLine | BadLine:
    try:
        value = json.loads(line)
    except ValueError as error:
        return BadLine(shorten(line), f"this is not JSON ({error}).")
    if not isinstance(value, dict):
        return BadLine(shorten(line), 'this is not an object such as {"prompt": "a red apple"}.')
    return _checked(line, value)


def _checked(line: str, value: Mapping[str, Any]) -> PromptLine | BadLine:
    try:
        return PromptLine.model_validate(value)
    except ValidationError as error:
        found = complaints(error.errors(), PromptLine)
        return BadLine(shorten(line.strip()), " ".join(c.message for c in found))


class Pattern:
    """Names of image files: a path with ``{line}``, ``{image}``, ``{seed}`` and ``{prompt}``, for ``str.format``.

    Args:
        text: such as ``out/{line:04}-{seed}.png``; its suffix names the format.

    Raises:
        UsageError: a field does not exist or has a wrong format, or the suffix is no image format.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        try:
            for _, name, _, conversion in string.Formatter().parse(text):
                if name is not None and (name not in _FIELDS or conversion):
                    raise UsageError(unknown("field of --output", f"{{{name}}}", _shown_fields()))
            example = text.format(**_EXAMPLE)
        except (ValueError, IndexError) as error:
            raise UsageError(
                f"--output {text} is no pattern ({error}); its fields are {', '.join(_shown_fields())}."
            ) from error
        format_of(Path(example))

    @property
    def directory(self) -> Path:
        """The directory that all images share."""
        return Path(self._text.split("{")[0] + "x").parent

    def path(self, *, line: int, image: int, seed: int, prompt: str) -> Path:
        """Return the file of one image.

        Args:
            line: number of the prompt's line, from 1.
            image: number among the images of this prompt, from 1.
            seed: of the image.
            prompt: its letters and digits, joined by hyphens, are the first 40 characters at most.
        """
        slug = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-")
        return Path(self._text.format(line=line, image=image, seed=seed, prompt=slug or "prompt"))


def _shown_fields() -> list[str]:
    return [f"{{{name}}}" for name in _FIELDS]


class Record:
    """A JSON Lines file of the images that were made, and of the prompts that failed.

    Each line is written when its image is, so a command that was interrupted knows what is left to do.

    Args:
        directory: of the record, created if need be; files are named relative to it.

    Raises:
        UsageError: the directory cannot be written to, or its record is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / RECORD
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{directory} cannot be created: {error.strerror}.") from error
        check_writable(directory)
        self._made = {line["file"]: line for line in self._read() if "file" in line}

    def has(self, entry: Mapping[str, Any]) -> bool:
        """Return true if this image is there: the same file, made from the same model, prompt, seed and parameters."""
        made = self._made.get(entry["file"], {})
        return (self._directory / entry["file"]).is_file() and all(
            made.get(name) == value for name, value in entry.items()
        )

    def entry(self, path: Path, **fields: Any) -> dict[str, Any]:
        """Return the line of an image file, without what only its making tells."""
        return {"file": path.relative_to(self._directory).as_posix(), **fields}

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                _end_line(file)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}.") from error

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines; one that was cut off when the power failed is passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def _end_line(file: TextIO) -> None:
    """End a line that was cut off, so that the next one begins a line."""
    name = Path(file.name)
    with name.open("rb") as stream:
        if stream.seek(0, 2) and stream.seek(-1, 2) is not None and stream.read(1) != b"\n":
            file.write("\n")
