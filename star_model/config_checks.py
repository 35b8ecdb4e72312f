"""What the parts of a model's configuration share: how their values are checked, and how a wrong one is reported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from star_model.errors import ConfigError
from star_model.json_file import describe

CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Of every pydantic dataclass of a configuration: strict types, no unknown keys, finite numbers."""

T = TypeVar("T")


def raises_config_error(section: str) -> Callable[[type[T]], type[T]]:
    """Decorate a pydantic dataclass: its constructor raises :class:`ConfigError`, whose text names the key.

    Args:
        section: key under which the class stands in ``config.json``.
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @functools.wraps(init)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            try:
                init(self, *args, **kwargs)
            except ValidationError as error:
                raise ConfigError(describe(error, cls, section)) from error

        cls.__init__ = checked  # type: ignore[assignment]
        return cls

    return decorate


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError`` with ``message`` unless ``condition`` holds; a validator of pydantic reports it."""
    if not condition:
        raise ValueError(message)
