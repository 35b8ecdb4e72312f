"""From the setting ``safety_hook`` to the hook."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import cast

from server.safety.check import Hook
from server.safety.http_hook import HttpHook
from server.safety_settings import SafetySettings
from server.settings_file import SettingsFileError


def load_hook(settings: SafetySettings) -> Hook:
    """Import the callable that the settings name, or make the client of the service that they name.

    The current directory counts as part of Python's path, after all else.

    Raises:
        SettingsFileError: there is no such callable, its module fails, or the extra ``safety`` is not installed.
    """
    name = settings.safety_hook or ""
    if name.startswith(("http://", "https://")):
        token = settings.safety_token
        return HttpHook(name, token.get_secret_value() if token is not None else None)
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:  # the module is the operator's, and may raise anything
        raise SettingsFileError(
            f"safety_hook {name}: the module {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise SettingsFileError(f"safety_hook {name}: {module_name} has no {path}.")
        found = getattr(found, part)
    if not callable(found) or isinstance(found, type):
        raise SettingsFileError(
            f"safety_hook {name}: {path} must be a function that takes a Check, or an object that is called like one."
        )
    return cast(Hook, found)
