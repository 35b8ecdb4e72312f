"""OpenAI requests as real clients send them, put into the form that this server's own rules accept.

Clients send fields out of habit: a quality, a style, zeros and empty strings for what is not set. Such a request is
served, and a warning says what had no effect. What would make the answer wrong stays as it is, for validation to
refuse: more images than allowed, a format that the server does not write, a field of the wrong type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from server.errors import InvalidRequest
from server.validation import nearest, shorten

_INTEGER = re.compile(r"[+-]?\d{1,19}(\.0{0,9})?")
_NUMBER = re.compile(r"[+-]?(\d{1,19}(\.\d{0,19})?|\.\d{1,19})([eE][+-]?\d{1,3})?")
_BOOLEANS = {"true": True, "false": False}
_MOST_PREVIEWS = 3
_NAMED = 5
"""Unknown fields that a warning names; the others are counted."""


@dataclass(frozen=True)
class _Advisory:
    """A field that asks for what this server has only one kind of.

    Args:
        meant: values that ask for that kind.
        why: end of the warning about any other value.
    """

    meant: frozenset[str]
    why: str


_ADVISORY = {
    "quality": _Advisory(
        frozenset({"auto", "standard", "high"}), "had no effect: the model has one quality"
    ),
    "style": _Advisory(frozenset(), "had no effect: describe the style in the prompt"),
    "background": _Advisory(
        frozenset({"auto", "opaque"}), "had no effect: images are always opaque"
    ),
    "moderation": _Advisory(
        frozenset({"auto", "low"}), "had no effect: what is filtered is the operator's choice"
    ),
    "input_fidelity": _Advisory(
        frozenset({"high"}), "had no effect: all that is not painted is kept exactly as it is"
    ),
}
_UNUSED = frozenset({"user", "safety_identifier"})
"""Fields about the caller, which say nothing about the image."""

_IMAGES = frozenset({"image", "images", "image_url", "input_image", "init_image", "mask"})
"""Fields of an image to edit. Without it, an answer would be another image than was asked for."""


@dataclass(frozen=True)
class Adapted:
    """A request that has been adapted.

    Args:
        fields: for validation.
        warnings: sentences about what was changed.
    """

    fields: dict[str, Any]
    warnings: list[str]


def adapt(given: Mapping[str, Any], model: type[BaseModel]) -> Adapted:
    """Adapt a request to the fields of a model.

    Args:
        given: fields as they were sent: JSON values, or the texts of a form.
        model: with OpenAI's fields and this server's.

    Raises:
        InvalidRequest: it holds an image to edit, and the model has no field for one.
    """
    warnings: list[str] = []
    fields = {
        name: value
        for name, value in given.items()
        if value is not None and (value != "" or name == "prompt")
    }
    _drop_unknown(fields, model, warnings)
    for name, value in fields.items():
        fields[name] = _converted(value, model.model_fields[name].annotation)
    if fields.get("n") == 0:  # what some languages write for a number that is not set
        del fields["n"]
    for name in _UNUSED & fields.keys():
        del fields[name]
    for name in _ADVISORY:
        if name in fields:
            _advise(name, fields, warnings)
    for name in {"response_format", "output_format"} & fields.keys():
        fields[name] = _folded(fields[name])
    _adapt_delivery(fields, warnings)
    return Adapted(fields, warnings)


def _drop_unknown(fields: dict[str, Any], model: type[BaseModel], warnings: list[str]) -> None:
    names = [name for name in fields if name not in model.model_fields]
    for name in names:
        if name in _IMAGES:
            raise InvalidRequest(
                f"{name} is a field of edits: send the image to POST /v1/images/edits.", param=name
            )
        del fields[name]
    if names:
        warnings.append(_about_unknown(names, model.model_fields))


def _about_unknown(names: list[str], known: Iterable[str]) -> str:
    named = [shorten(name) for name in names[:_NAMED]]
    hints = [
        f"{name} (did you mean {near}?)" if (near := nearest(name, known)) else name
        for name in named
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    noun = "Unknown fields" if len(names) > 1 else "The unknown field"
    verb = "were" if len(names) > 1 else "was"
    return f"{noun} {', '.join(hints)}{more} {verb} ignored."


def _converted(value: Any, annotation: Any) -> Any:
    """Return a number or a boolean for one that was written in another way; any other value as it is."""
    kinds = _kinds(annotation)
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and int in kinds and value.is_integer():
        return int(value)
    if isinstance(value, int) and kinds == {str}:
        return str(value) if abs(value) < 10**9 else value
    if not isinstance(value, str) or str in kinds:
        return value
    text = value.strip()
    if bool in kinds:
        return _BOOLEANS.get(text.lower(), value)
    if int in kinds and _INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    if float in kinds and _NUMBER.fullmatch(text):
        return float(text)
    return value


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows, without None and without constraints."""
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    if hasattr(annotation, "__metadata__"):
        return _kinds(get_args(annotation)[0])
    return set() if annotation is type(None) else {annotation}


def _advise(name: str, fields: dict[str, Any], warnings: list[str]) -> None:
    rule, value = _ADVISORY[name], fields[name]
    if isinstance(value, str) and value.strip().lower() in rule.meant:
        fields[name] = value.strip().lower()
        return
    del fields[name]
    warnings.append(f"{name} {_shown(value)} {rule.why}.")


def _folded(value: Any) -> Any:
    """Return the name of a format: ``PNG``, ``.png`` and ``image/png`` are ``png``."""
    if not isinstance(value, str):
        return value
    name = value.strip().lower().removeprefix("image/").removeprefix(".")
    return "jpeg" if name in ("jpg", "pjpeg") else name


def _adapt_delivery(fields: dict[str, Any], warnings: list[str]) -> None:
    """Adapt fields that depend on each other."""

    def drop(name: str, why: str) -> None:
        if (value := fields.pop(name)) is not None:
            warnings.append(f"{name} {_shown(value)} had no effect: {why}.")

    streamed = fields.get("stream") is True
    if streamed and fields.get("response_format") == "url":
        drop("response_format", "the events of a stream hold the images")
    previews = fields.get("partial_images")
    if isinstance(previews, int) and not isinstance(previews, bool) and previews > 0:
        if not streamed:
            drop("partial_images", "only streams have previews")
        elif previews > _MOST_PREVIEWS:
            fields["partial_images"] = _MOST_PREVIEWS
            warnings.append(
                f"partial_images {_shown(previews)} was lowered to {_MOST_PREVIEWS}, the most there are."
            )
    compression = fields.get("output_compression")
    if isinstance(compression, int) and fields.get("output_format", "png") == "png":
        if compression == 0:
            del fields["output_compression"]
        elif 0 < compression < 100:
            drop("output_compression", "png is lossless")


def _shown(value: Any) -> str:
    return json.dumps(shorten(value) if isinstance(value, str) else value, ensure_ascii=False)[:80]
