"""A safety hook behind an HTTP address: one POST for each check, over connections that are kept.

The service is sent JSON: the fields of :class:`~server.safety.check.Check`, ``image`` as a PNG file in base64 or null.
It answers 200 with ``{"allowed": true}`` or ``{"allowed": false, "categories": ["violence"]}``. Any other answer is a
failure.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from server import __version__
from server.images.encode import encode_image
from server.safety.check import Answer, Check, Refusal
from server.settings_file import SettingsFileError

if TYPE_CHECKING:
    import httpx

_LONGEST_ANSWER = 64 << 10
_KEPT_CONNECTIONS = 32


class HookFailed(Exception):
    """The service did not give an answer that can be used."""


class _Reply(BaseModel):
    """The answer of the service; further fields are its own affair."""

    model_config = ConfigDict(strict=True)

    allowed: bool
    categories: list[str] = []


class HttpHook:
    """Asks a service. Call it on one event loop only.

    Args:
        address: where checks are posted; redirects are not followed.
        token: sent as a bearer token; None sends none.

    Raises:
        SettingsFileError: the extra ``safety`` is not installed.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise SettingsFileError(
                "safety_hook with an address needs the extra safety: pip install 'star-server[safety]'."
            ) from error
        self._httpx = httpx
        self._address = address
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "user-agent": f"star-server/{__version__}",
            **({"authorization": f"Bearer {token}"} if token is not None else {}),
        }
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, check: Check) -> Answer:
        """Return the service's answer.

        Raises:
            HookFailed: its status is not 200, or its body is not an answer.
            httpx.HTTPError: it cannot be reached.
        """
        body = await asyncio.to_thread(body_of, check)
        if self._client is None:
            # Time is limited by the caller: a service that sends a byte now and then would never exceed httpx's limits.
            limits = self._httpx.Limits(max_keepalive_connections=_KEPT_CONNECTIONS)
            self._client = self._httpx.AsyncClient(timeout=None, limits=limits)
        request = self._client.stream("POST", self._address, content=body, headers=self._headers)
        async with request as answer:
            if answer.status_code != self._httpx.codes.OK:
                raise HookFailed(f"status {answer.status_code}")
            received = bytearray()
            async for part in answer.aiter_bytes():
                received += part
                if len(received) > _LONGEST_ANSWER:
                    raise HookFailed("the answer is too long")
        reply = _Reply.model_validate_json(bytes(received))
        return None if reply.allowed else Refusal(tuple(reply.categories))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()


def body_of(check: Check) -> bytes:
    """Return a check as the service is sent it."""
    image = None
    if check.image is not None:
        image = base64.b64encode(encode_image(check.image, "png")).decode("ascii")
    return json.dumps({**asdict(replace(check, image=None)), "image": image}).encode()
