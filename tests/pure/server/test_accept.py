"""Content negotiation."""

from __future__ import annotations

import pytest

from server.api.accept import preferred

OFFERS = ["application/json", "image/png", "image/webp"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("image/webp, */*", "image/webp"),
        ("*/*, image/webp;q=0.5", "application/json"),
        ("image/png;q=0.3, image/webp;q=0.9", "image/webp"),
        ("image/*, image/png;q=0", "image/webp"),
        ("application/json;q=0, */*", "image/png"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/png;q=much", None),
        ("image/png;version=1;q=0.5", "image/png"),
        (",,image/png,", "image/png"),
    ],
)
def test_the_best_offer_is_found(accept: str | None, expected: str | None) -> None:
    assert preferred(accept, OFFERS) == expected
