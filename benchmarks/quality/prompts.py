"""The prompts of a benchmark, from the files that it is published as."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class PromptsError(ValueError):
    """A file that has no prompts, or not in a known form."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what is drawn.
        metadata: what else the file says about it, for the evaluator of GenEval.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(file: Path) -> list[Prompt]:
    """Read the prompts of a file, by the end of its name.

    - ``.json``: MJHQ's ``meta_data.json`` (an object of objects with a ``prompt``), or COCO's
      ``captions_val2014.json`` (``annotations`` with ``image_id`` and ``caption``; each image's first counts)
    - ``.jsonl``: GenEval's ``evaluation_metadata.jsonl`` (an object with a ``prompt`` a line)
    - ``.csv``: Switti's lists (a column ``captions``)
    - anything else: a prompt a line

    Raises:
        PromptsError: naming the file and what is wrong with it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise PromptsError(f"{file} cannot be read: {error.strerror}") from error
    try:
        match file.suffix:
            case ".json":
                prompts = _from_json(json.loads(text))
            case ".jsonl":
                objects = [json.loads(line) for line in text.splitlines() if line.strip()]
                prompts = [Prompt(o["prompt"], o) for o in objects]
            case ".csv":
                prompts = [Prompt(row["captions"]) for row in csv.DictReader(text.splitlines())]
            case _:
                prompts = [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
        blank = not all(prompt.text.strip() for prompt in prompts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptsError(f"{file} is not in the form of a list of prompts: {error!r}") from error
    if blank or not prompts:
        raise PromptsError(f"{file} has no prompts, or an empty one")
    return prompts


def _from_json(data: Any) -> list[Prompt]:
    if "annotations" not in data:
        return [Prompt(entry["prompt"]) for entry in data.values()]
    captions: dict[Any, str] = {}
    for annotation in data["annotations"]:
        captions.setdefault(annotation["image_id"], annotation["caption"].strip())
    return [Prompt(caption) for caption in captions.values()]
