"""Pydantic's validation errors as sentences that name the field, the allowed values, and what was given."""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic.types import StringConstraints
from pydantic_core import ErrorDetails

from server.escaping import escaped

_SHOWN_CHARACTERS = 60
_EXPLAINED = 5
"""Errors that are explained, of as many as a request may have."""
_LISTED = 12
"""Known names that a sentence lists at most; of more it lists the first ones, and their number."""


@dataclass(frozen=True)
class Complaint:
    """A problem with one field.

    Args:
        field: its name, dotted where nested; None for the input as a whole.
        message: one sentence.
    """

    field: str | None
    message: str


def complaints(
    errors: Sequence[ErrorDetails | Mapping[str, Any]], model: type[BaseModel], *, skip: int = 0
) -> list[Complaint]:
    """Return a sentence for each error that pydantic found; of many errors, for the first ones, and their number.

    Args:
        errors: as ``ValidationError.errors()`` gives them.
        model: the model that was validated; ranges and allowed values are read from it.
        skip: leading parts of each location that are not field names (``("body",)`` has one).
    """
    found = [_complaint(error, model, tuple(error["loc"])[skip:]) for error in errors[:_EXPLAINED]]
    if (more := len(errors) - len(found)) > 0:
        found.append(
            Complaint(None, f"{more:,} more {'values are' if more > 1 else 'value is'} invalid.")
        )
    return found


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to a mistyped one; None if none is similar."""
    folded = {k.casefold().replace("-", "_"): k for k in known}
    asked = name[:_SHOWN_CHARACTERS].casefold().replace("-", "_")
    near = difflib.get_close_matches(asked, folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return a sentence about a name that does not exist, with the nearest known name or else the first ones."""
    shown = shorten(name)
    near = nearest(name, known)
    if near == shown:  # known, but not here: a suggestion would only repeat it
        return f"Unknown {kind} {shown}."
    if near is not None:
        return f"Unknown {kind} {shown}; did you mean {near}?"
    first = known if len(known) <= _LISTED else known[: _LISTED - 4]
    more = f" and {len(known) - len(first)} more" if len(known) > len(first) else ""
    return f"Unknown {kind} {shown}; known are {', '.join(first)}{more}."


def shorten(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return a text cut to a length that fits in a sentence, with control characters and direction marks escaped."""
    cut = text[:limit]
    return escaped(cut) if cut == text else escaped(cut) + "..."


def _complaint(
    error: ErrorDetails | Mapping[str, Any], model: type[BaseModel], loc: Sequence[Any]
) -> Complaint:
    if not loc:
        message = str(error["msg"]).removeprefix("Value error, ")
        return Complaint(None, message if message.endswith((".", "?")) else f"{message}.")
    field = model.model_fields.get(str(loc[0]))
    name = shorten(str(loc[0]))
    if len(loc) > 1 and (inner := _nested(field)) is not None:
        found = _complaint(error, inner, loc[1:])
        return Complaint(f"{name}.{found.field}" if found.field else name, found.message)
    match error["type"]:
        case "extra_forbidden":
            return Complaint(name, _unknown_field(str(loc[0]), model))
        case "missing":
            allowed = _allowed(field) if field else _ANYTHING
            if allowed == _ANYTHING:
                allowed = (field.description if field else None) or ""
            return Complaint(
                name, f"{name} is required{': ' * bool(allowed)}{allowed.rstrip('.')}."
            )
        case "string_unicode":
            return Complaint(
                name, f"{name} must be valid Unicode text; it holds half of a surrogate pair."
            )
        case "value_error" | "assertion_error":
            return Complaint(name, f"{name}: {str(error['msg']).removeprefix('Value error, ')}")
    if field is None:
        return Complaint(name, f"{name}: {error['msg']}.")
    if any(
        get_origin(a) is list and SecretStr in get_args(a) for a in _alternatives(field.annotation)
    ):
        return Complaint(
            name, f"{name} must be a list of strings."
        )  # without the value, which is a secret
    return Complaint(name, f"{name} must be {_allowed(field)}; got {_got(error)}.")


def _unknown_field(name: str, model: type[BaseModel]) -> str:
    """Return a sentence about a field that a model has not, with what its attribute ``instead`` says to do."""
    remedies: Mapping[str, str] = getattr(model, "instead", {})
    if (remedy := remedies.get(name.casefold())) is not None:
        return f"Unknown field {name}: {remedy}."
    return unknown("field", name, list(model.model_fields))


def _nested(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the model that a field holds; None if it holds none."""
    options = _alternatives(field.annotation) if field is not None else ()
    return next((a for a in options if isinstance(a, type) and issubclass(a, BaseModel)), None)


def _allowed(field: FieldInfo) -> str:
    """Return the values that a field allows: ``an integer from 1 to 10``, ``one of "png", "webp", "jpeg"``."""
    options = [a for a in _alternatives(field.annotation) if a not in (None, type(None))]
    if not options:
        return "null or left out"
    literals = [value for a in options if get_origin(a) is Literal for value in get_args(a)]
    if literals:
        return "one of " + ", ".join(json.dumps(value) for value in literals)
    constraints = _constraints(field)
    noun = next((words for kind, words in _NOUNS if kind in options), _ANYTHING)
    if any(option in (str, Path) for option in options):
        return noun + _length(constraints)
    return ("a finite number" if noun == "a number" else noun) + _range(constraints)


_ANYTHING = "a valid value"
_NOUNS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Path, "a path"),
    (list, "a list"),
)


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for part in get_args(annotation) for inner in _alternatives(part)]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    return [annotation]


def _constraints(field: FieldInfo) -> list[Any]:
    """Return the constraints of a field, those inside ``Annotated[...] | None`` included."""
    found = list(field.metadata)
    if get_origin(field.annotation) in (Union, types.UnionType):
        for part in get_args(field.annotation):
            found += getattr(part, "__metadata__", ())
    flat: list[Any] = []
    for item in found:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return flat


def _range(constraints: Iterable[Any]) -> str:
    low = high = ""
    for c in constraints:
        match c:
            case Ge():
                low = f"from {_plain(c.ge)}"
            case Gt():
                low = f"above {_plain(c.gt)}"
            case Le():
                high = f"up to {_plain(c.le)}"
            case Lt():
                high = f"below {_plain(c.lt)}"
    if low.startswith("from ") and high.startswith("up to "):
        return f" {low} to {high.removeprefix('up to ')}"
    both = " and ".join(part for part in (low, high) if part)
    return f" {both}" if both else ""


def _length(constraints: Iterable[Any]) -> str:
    low: int | None = None
    high: int | None = None
    trimmed = False
    for c in constraints:
        match c:
            case MinLen():
                low = c.min_length
            case MaxLen():
                high = c.max_length
            case StringConstraints():
                trimmed = trimmed or bool(c.strip_whitespace)
                low = c.min_length if c.min_length is not None else low
                high = c.max_length if c.max_length is not None else high
    if high is None:
        return "" if not low else f" of at least {low} character{'s' if low > 1 else ''}"
    return f" of {low or 0} to {high:,} characters" + (" (after trimming)" if trimmed else "")


def _plain(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _got(error: ErrorDetails | Mapping[str, Any]) -> str:
    value = error.get("input")
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return shorten(str(value))
        case float():
            return (
                "NaN"
                if math.isnan(value)
                else _plain(value)
                if math.isfinite(value)
                else "an infinite number"
            )
        case str():
            if error["type"] in ("string_too_long", "string_too_short"):
                length = len(value.strip())
                return f"{length:,} characters" if length else "an empty string"
            return json.dumps(shorten(value), ensure_ascii=False)
        case list():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"
