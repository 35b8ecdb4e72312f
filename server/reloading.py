"""Reading the settings again while the server runs: what can change at once does, and the rest is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from server.metrics import Metrics
from server.settings import Settings
from server.settings_file import SettingsFileError
from server.validation import complaints

LIVE = (
    *("log_level", "log_prompts"),
    *("api_keys", "api_key_file"),
    *("requests_per_minute", "images_per_minute", "queue_capacity"),
    *("default_timeout_s", "max_timeout_s", "drain_timeout_s", "stream_comment_s"),
    *("on_unknown", "model_aliases", "default_response_format", "previews", "preview_buffer"),
)
"""Settings that change without a restart. Requests that have been admitted keep the old ones."""

Prepare = Callable[[Settings], Callable[[], None]]
"""Checks new settings, and reads the files that they name; returns what puts them into force.

It raises :class:`SettingsFileError` with a sentence to refuse them: then none of the new settings is put into force.
"""


@dataclass(frozen=True)
class Changes:
    """What reading the settings again has changed.

    Args:
        changed: settings that have new values, in force from now on.
        waiting: settings that have new values in the file, which a restart would put into force.
    """

    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Reloading:
    """The settings in force, and those that hear of new ones.

    Args:
        settings: as the server was started with.
        metrics: where reloads are counted.
        read_again: returns the settings as they are found now, of the same flags, the environment, and the file; None
            finds the same ones. It raises what the settings do.

    Attributes:
        settings: in force.
        steps: see :data:`Prepare`; all are asked before the first of them acts.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        read_again: Callable[[], Settings] | None = None,
    ) -> None:
        self.settings = settings
        self._read_again = read_again or (lambda: settings)
        self.steps: list[Prepare] = []
        self._metrics = metrics
        self._log = structlog.get_logger("star.server")

    def reload(self) -> Changes:
        """Read the file of the settings, and all files that they name, again.

        Raises:
            SettingsFileError: one is wrong; everything stays as it was. The log and the metric have it too.
        """
        try:
            found = self._read()
            new, changes = self._compare(found)
            acts = [prepare(new) for prepare in self.steps]
        except SettingsFileError as error:
            self._metrics.reloads.labels("refused").inc()
            self._log.error("settings refused, the old ones stay in force", reason=str(error))
            raise
        for act in acts:
            act()
        self.settings = new
        self._metrics.reloads.labels("done").inc()
        self._log.info("settings read again", changed=list(changes.changed))
        if changes.waiting:
            self._log.warning("these settings need a restart", settings=list(changes.waiting))
        return changes

    def _read(self) -> Settings:
        try:
            return self._read_again()
        except ValidationError as error:
            found = complaints(error.errors(), Settings, skip=0)
            raise SettingsFileError(" ".join(c.message for c in found)) from error

    def _compare(self, found: Settings) -> tuple[Settings, Changes]:
        differing = [
            name
            for name in Settings.model_fields
            if getattr(found, name) != getattr(self.settings, name)
        ]
        changed = tuple(name for name in differing if name in LIVE)
        waiting = tuple(name for name in differing if name not in LIVE)
        return with_live(self.settings, found), Changes(changed, waiting)


def with_live(settings: Settings, found: Settings) -> Settings:
    """Return ``settings`` with those values of ``found`` that can change while the server runs."""
    return settings.model_copy(update={name: getattr(found, name) for name in LIVE})
