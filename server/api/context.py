"""The parts of the app that endpoints use; FastAPI passes them to each endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.batches.service import BatchService
from server.dispatch.served_models import ServedModels
from server.http.key_watch import ServerKeys
from server.http.rate_limit import RateLimits
from server.images.decode_pool import DecodePool
from server.images.encode import ImageEncoder
from server.images.stores.store import ImageStore
from server.safety.gate import SafetyGate
from server.settings import Settings


@dataclass(frozen=True)
class Context:
    """The parts of one app."""

    settings: Settings
    models: ServedModels
    encoder: ImageEncoder
    decoder: DecodePool
    store: ImageStore
    limits: RateLimits
    keys: ServerKeys
    safety: SafetyGate | None = None
    batches: BatchService | None = None


async def _context(request: Request) -> Context:  # a plain function would be run in a thread
    context: Context = request.app.state.context
    return context


AppContext = Annotated[Context, Depends(_context)]
