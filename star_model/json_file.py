"""Reading the JSON files of a model directory, and reporting what is wrong with them in a sentence."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from star_model.errors import CheckpointError

T = TypeVar("T")

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_REQUIREMENTS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "string_pattern_mismatch": "must not be blank",
}
"""Plainer words than pydantic's for some kinds of error."""


def read_json(file: Path) -> Any:
    """The content of ``file``.

    Raises:
        CheckpointError: when it cannot be read or is not JSON.
    """
    try:
        return from_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error


def validate(model: type[T], data: Any) -> T:
    """Build ``model``, a pydantic model or dataclass, from parsed JSON, in which a list stands for a tuple.

    Raises:
        ValidationError: see :func:`describe`.
    """
    return TypeAdapter(model).validate_json(to_json(data, inf_nan_mode="constants"))


def read_object(file: Path, model: type[T]) -> T:
    """Build ``model``, a pydantic model or dataclass, from the JSON in ``file``.

    Raises:
        CheckpointError: naming the file, and the key in it that is unknown, missing, of the wrong type or out of range.
    """
    try:
        return validate(model, read_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {describe(error, model)}") from error


def describe(error: ValidationError, model: type[Any], section: str = "") -> str:
    """The first problem as a sentence that names the key, such as ``transformer.depth must be at least 1, got 0``.

    Args:
        error: raised by the validation of ``model``.
        model: a pydantic model or dataclass.
        section: key under which ``model`` stands in the file; empty for the file itself.
    """
    problems = error.errors(include_url=False)
    # A misspelt key is also a missing one: the misspelling is what helps.
    problem = next((p for p in problems if p["type"] in _UNKNOWN), problems[0])
    location, kind = problem["loc"], problem["type"]
    if location and isinstance(location[0], int):  # a positional argument
        location = (list(model.__pydantic_fields__)[location[0]], *location[1:])
    key = _key((section, *location) if section else location)
    if kind in _UNKNOWN:
        known = ", ".join(_fields(model, location[:-1]))
        return f"unknown key {key}; known are {known}"
    if kind == "missing":
        return f"missing key {key}"
    if kind == "value_error":  # raised by a check of ours, which names the key itself
        return str(problem["ctx"]["error"])
    requirement = _REQUIREMENTS.get(kind) or re.sub(r"^\w+ should ", "must ", problem["msg"])
    requirement = requirement.replace("greater than or equal to", "at least")
    requirement = requirement.replace("less than or equal to", "at most")
    requirement = requirement.replace(" after validation", "")
    return f"{key or 'the content'} {requirement}, got {reprlib.repr(problem['input'])}"


def _key(location: tuple[int | str, ...]) -> str:
    """``("patch_nums", 1)`` as ``patch_nums[1]``, ``("transformer", "depth")`` as ``transformer.depth``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _fields(model: type[Any], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the part of ``model`` at ``location``."""
    for part in location:
        model = model.__pydantic_fields__[part].annotation
    return sorted(model.__pydantic_fields__)
