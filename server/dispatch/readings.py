"""Prompts that workers read: what a model with a small vocabulary would draw, without drawing it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from server.errors import EngineDead, QueueFull
from server.messages import PromptRead, ReadPrompt
from star_model.reading import Reading

_MOST = 64
"""Prompts that are being read at most."""
_KEPT = 256
"""Readings that are kept, for a prompt that is typed, then painted."""


class Readings:
    """Asks workers how a prompt is read, and remembers the answers.

    Args:
        send: passes a message to a worker that is ready, and returns its index; None if there is none.
    """

    def __init__(self, send: Callable[[ReadPrompt], int | None]) -> None:
        self._send = send
        self._numbers = count()
        self._waiting: dict[int, tuple[int, asyncio.Future[Reading]]] = {}
        self._known: dict[str, Reading] = {}

    async def read(self, prompt: str) -> Reading:
        """Return how the model reads ``prompt``; the worker answers between two steps.

        Raises:
            QueueFull: too many prompts are being read.
            EngineDead: there is no worker, or the one that was asked has ended.
        """
        if (known := self._known.get(prompt)) is not None:
            return known
        if len(self._waiting) >= _MOST:
            raise QueueFull("Too many prompts are being read; try again in 1 s.", retry_after=1)
        number = next(self._numbers)
        worker = self._send(ReadPrompt(number, prompt))
        if worker is None:
            raise EngineDead("The engine is restarting; try again soon.", retry_after=1)
        answer: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._waiting[number] = worker, answer
        try:
            reading = await answer
        finally:
            del self._waiting[number]
        self._keep(prompt, reading)
        return reading

    def settle(self, message: PromptRead) -> None:
        """Take the answer of a worker; one that nobody waits for any more is dropped."""
        if message.number in self._waiting:
            _, answer = self._waiting[message.number]
            if not answer.done():
                answer.set_result(message.reading)

    def lose(self, worker: int) -> None:
        """Fail what a worker was asked that has ended."""
        for asked, answer in list(self._waiting.values()):
            if asked == worker and not answer.done():
                error = "The engine failed while it read this prompt; try again."
                answer.set_exception(EngineDead(error, retry_after=1))

    def _keep(self, prompt: str, reading: Reading) -> None:
        self._known[prompt] = reading
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
