"""The gate that requests and images pass when a safety hook is set."""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import structlog

from server.errors import ModerationBlocked, SafetyCheckFailed
from server.metrics import Metrics
from server.safety.check import Check, Hook, Refusal
from server.safety.hook_thread import HookThread
from server.safety.loading import load_hook
from server.safety_settings import SafetySettings
from server.tracing.exemplar import CURRENT

Verdict = Literal["passed", "refused", "timeout", "error"]

_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_MOST_CATEGORIES = 16


class SafetyGate:
    """Asks the hook, in limits of time, and raises what the caller is to get.

    Args:
        hook: of the operator.
        settings: of the hook.
        observe: called with stage, verdict and seconds of each check.
    """

    def __init__(
        self, hook: Hook, settings: SafetySettings, observe: Callable[[str, Verdict, float], None]
    ) -> None:
        self._thread = HookThread(hook, settings.safety_concurrency)
        self._settings = settings
        self._observe = observe
        self._log = structlog.get_logger("star.safety")

    @property
    def sees_inputs(self) -> bool:
        """Whether requests are checked before anything is painted."""
        return "input" in self._settings.safety_stages

    @property
    def sees_uploads(self) -> bool:
        """Whether the check of a request is shown the picture to edit."""
        return self._settings.safety_uploads

    @property
    def sees_outputs(self) -> bool:
        """Whether images are checked before anyone sees them."""
        return "output" in self._settings.safety_stages

    def start(self) -> None:
        """Start the thread that the hook runs in."""
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._thread.close()

    async def require(self, check: Check) -> None:
        """Return if the hook lets something pass, or fails and the settings let that pass.

        Raises:
            ModerationBlocked: the hook refuses.
            SafetyCheckFailed: it failed or took too long, and the settings refuse what was not checked.
        """
        started = time.perf_counter()
        details: dict[str, Any] = {}
        verdict: Verdict = "passed"
        refusal: Refusal | None = None
        limit = asyncio.timeout(self._settings.safety_timeout_s)
        try:
            async with limit:
                refusal = _answer(await self._thread.call(check))
        except Exception as error:
            if limit.expired():
                verdict = "timeout"
            else:
                verdict, details = "error", {"error": _place(error)}
        if refusal is not None:
            verdict, details = "refused", {"categories": list(refusal.categories)}
        self._conclude(check, verdict, time.perf_counter() - started, details)
        if refusal is not None:
            raise ModerationBlocked(check.stage, refusal.categories)
        if verdict != "passed" and self._settings.safety_on_failure == "closed":
            raise SafetyCheckFailed(
                "The safety check of this request failed, and the server sends nothing unchecked; try again later."
            )

    def _conclude(
        self, check: Check, verdict: Verdict, seconds: float, details: dict[str, Any]
    ) -> None:
        """Count a verdict and log it, without any text of the request."""
        self._observe(check.stage, verdict, seconds)
        log = self._log.warning if verdict in ("timeout", "error") else self._log.info
        if check.stage == "output":
            details = {"image_index": check.image_index, "partial": check.partial, **details}
        log(
            "safety check",
            request_id=check.request_id,
            stage=check.stage,
            verdict=verdict,
            duration_s=round(seconds, 4),
            **details,
        )


def open_gate(settings: SafetySettings, metrics: Metrics) -> SafetyGate | None:
    """Return the gate of the hook that the settings name; None if they name none.

    Raises:
        SettingsFileError: the hook cannot be loaded.
    """
    if settings.safety_hook is None:
        return None

    def observe(stage: str, verdict: Verdict, seconds: float) -> None:
        metrics.safety_checks.labels(stage, verdict).inc()
        metrics.safety_check_duration.labels(stage).observe(seconds, CURRENT.get())

    return SafetyGate(load_hook(settings), settings, observe)


def _answer(given: object) -> Refusal | None:
    """Check the answer of a hook: a category is a short word, not text that it was shown."""
    if given is None:
        return None
    if not isinstance(given, Refusal):
        raise TypeError("a safety hook returns None or a Refusal")
    categories: object = given.categories
    if isinstance(categories, str):
        raise TypeError("the categories of a Refusal are a tuple of strings")
    words = [word for word in given.categories if _CATEGORY.fullmatch(word)]
    return Refusal(tuple(words[:_MOST_CATEGORIES]))


def _place(error: Exception) -> str:
    """Return the kind of an error and its place, but not its message: that may quote the prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
