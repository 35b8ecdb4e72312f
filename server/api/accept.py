"""The ``Accept`` header (RFC 9110, section 12.5.1): which of several media types a client prefers."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_RANGES = 100
"""Ranges that are read; no client sends so many, and each costs time."""


def preferred(accept: str | None, offers: Sequence[str]) -> str | None:
    """Return the offered media type that a client prefers.

    On a tie the type that is named most precisely wins, then the one offered first: so ``image/webp, */*`` is WebP
    and ``*/*`` is the first offer.

    Args:
        accept: the header; None or blank accepts anything.
        offers: media types, the server's own preference first.

    Returns:
        one of the offers, or None when none is acceptable.
    """
    if accept is None or not accept.strip():
        return offers[0]
    parts = accept.split(",", _MOST_RANGES)[:_MOST_RANGES]
    ranges = [_parse(part) for part in parts if part.strip()]
    best: tuple[float, int] = (0.0, -1)
    choice: str | None = None
    for offer in offers:
        matches = [
            (precision, weight)
            for name, weight in ranges
            if (precision := _precision(name, offer)) >= 0
        ]
        if not matches:
            continue
        precision, weight = max(matches)  # the most precise range decides the weight
        if weight > 0 and (weight, precision) > best:
            best, choice = (weight, precision), offer
    return choice


def _parse(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0


def _precision(media_range: str, offer: str) -> int:
    """Return 2 for the type itself, 1 for ``type/*``, 0 for ``*/*``, -1 for no match."""
    if media_range == offer:
        return 2
    if media_range == offer.partition("/")[0] + "/*":
        return 1
    return 0 if media_range in ("*/*", "*") else -1
