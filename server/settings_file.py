"""Where settings come from beside flags: the environment and a YAML file, whose names are checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from server.validation import unknown

ENV_PREFIX = "STAR_"

RENAMED = {"keepalive_s": "stream_comment_s"}
"""Former name of a setting -> its name now."""


class SettingsFileError(ValueError):
    """A file that the settings name cannot be read, or names a setting that does not exist."""


def new_name(name: str) -> str | None:
    """Return the new name of a setting in a sentence, as it was written; None for one that was not renamed.

    Args:
        name: as a key of a file, a flag without its dashes, or a variable.
    """
    new = RENAMED.get(name.lower().removeprefix(ENV_PREFIX.lower()).replace("-", "_"))
    if new is None:
        return None
    if name.upper().startswith(ENV_PREFIX):
        new = ENV_PREFIX + new.upper()
    return new.replace("_", "-") if "-" in name else new


def _unknown(kind: str, name: str, known: list[str]) -> str:
    new = new_name(name)
    return f"The {kind} {name} is called {new} now." if new else unknown(kind, name, known)


def check_environment(environment: Mapping[str, str], names: list[str]) -> None:
    """Refuse variables with this program's prefix that are not settings.

    Args:
        environment: all variables.
        names: of the settings.

    Raises:
        SettingsFileError: naming the variable and the nearest setting.
    """
    known = [ENV_PREFIX + name.upper() for name in names]
    for name in environment:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise SettingsFileError(_unknown("environment variable", name, known))


def _reason(error: yaml.YAMLError) -> str:
    """Return the position and the reason of a YAML error, as far as the parser tells."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{place}: {problem}" if problem else place


def read_settings_file(path: Path, names: list[str]) -> dict[str, Any]:
    """Read the settings in a YAML file.

    Args:
        path: of the file.
        names: of the settings.

    Raises:
        SettingsFileError: the file cannot be read, is not a mapping, or has an unknown key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsFileError(f"The settings file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise SettingsFileError(
            f"The settings file {path} is not valid YAML{_reason(error)}."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsFileError(
            f"The settings file {path} must hold keys and values, one setting a line."
        )
    allowed = [name for name in names if name != "config"]
    for key in values:
        if key not in allowed:
            raise SettingsFileError(f"{path}: {_unknown('setting', str(key), allowed)}")
    return values
