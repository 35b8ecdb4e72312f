"""Who the tenants are, by day and by night, and what each may be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.tenants.callers import BAD_KEY, IMAGES, LEFT, QUEUE_FULL, RATE_LIMIT

FLOOD, STEADY, OCCASIONAL = "flood", "steady", "occasional"
TENANTS: Final = (FLOOD, STEADY, OCCASIONAL)
"""One that sends more than its share, one that always has a few images waiting, one that asks now and then."""

FORMER, LATE, NIGHTLY = "former", "late", "nightly"
"""A tenant whose key expires at night, one whose key is added then, and the owner of the batches."""

FORMER_IMAGES_PER_MINUTE = 6
SLOTS = 4
QUEUE_BY_DAY, QUEUE_BY_NIGHT = 28, 32

_BOTH: dict[str, dict[str, Any]] = {
    STEADY: {"images_in_flight": 16},
    OCCASIONAL: {"requests_per_minute": 100_000},
    NIGHTLY: {"priority": "batch"},
}
DAY: Final[Mapping[str, Mapping[str, Any]]] = {
    **_BOTH,
    FLOOD: {},
    FORMER: {"images_per_minute": FORMER_IMAGES_PER_MINUTE},
}
"""Fields of each key; the flood meets the end of the queue."""

NIGHT: Final[Mapping[str, Mapping[str, Any]]] = {
    **_BOTH,
    FLOOD: {"images_in_flight": 3 * SLOTS},
    FORMER: {**DAY[FORMER], "expires": "2020-01-01"},
    LATE: {},
}
"""The flood has a limit of its own, one key has expired, another is added."""

_ALWAYS = {STEADY: {IMAGES}, OCCASIONAL: {IMAGES}}
BY_DAY: Final[Mapping[str, set[str]]] = {
    **_ALWAYS,
    FLOOD: {IMAGES, LEFT, QUEUE_FULL},
    FORMER: {IMAGES, RATE_LIMIT},
    LATE: {BAD_KEY},
}
"""Outcomes that the requests of each tenant may have."""

BY_NIGHT: Final[Mapping[str, set[str]]] = {
    **_ALWAYS,
    FLOOD: {IMAGES, LEFT, RATE_LIMIT},
    FORMER: {BAD_KEY},
    LATE: {IMAGES},
}
