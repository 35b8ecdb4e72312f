"""The ``x-warnings`` header: short, whatever the warnings quote.

Proxies allow few kilobytes for all headers of an answer, and refuse the whole answer beyond that. Where an answer
has a body with ``warnings``, they are whole there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

NAME = "x-warnings"

_MOST_BYTES = 900
_MOST_WARNINGS = 4
_MOST_BYTES_EACH = 400


def warnings_header(warnings: Sequence[str]) -> dict[str, str]:
    """Return the header as a dict, empty without warnings. Its value is a JSON list in ASCII of at most 900 bytes.

    A longer warning ends in ``...``. The last item counts the warnings that there was no room for.
    """
    if not warnings:
        return {}
    reserved = len(json.dumps(_and_more(len(warnings)))) + len("[]")
    shown: list[str] = []
    left = _MOST_BYTES - reserved
    for warning in warnings[:_MOST_WARNINGS]:
        item = _cut(warning, min(left - len(", "), _MOST_BYTES_EACH))
        if item is None:
            break
        shown.append(item)
        left -= len(item) + len(", ")
    if (rest := len(warnings) - len(shown)) > 0:
        shown.append(json.dumps(_and_more(rest)))
    return {NAME: f"[{', '.join(shown)}]"}


def _and_more(count: int) -> str:
    return f"{count} more."


def _cut(text: str, most: int) -> str | None:
    """Return the beginning of a text as JSON of at most so many bytes; None if that is too few for any of it."""
    whole = json.dumps(text)
    if len(whole) <= most:
        return whole
    room = most - len('"..."')
    if room < len("\\ud83d\\ude00"):
        return None
    kept, length = 0, 0
    for character in text:
        length += len(json.dumps(character)) - len('""')
        if length > room:
            break
        kept += 1
    return json.dumps(text[:kept] + "...")
