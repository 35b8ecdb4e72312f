"""Files of requests, and what comes back, for tests of batches."""

from __future__ import annotations

import json
from typing import Any, Final

URL: Final = "/v1/images/generations"


def line(custom_id: str, url: str = URL, **body: Any) -> dict[str, Any]:
    """A request of a batch."""
    body = {"prompt": "a red apple", **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines: dict[str, Any] | str) -> bytes:
    """A file of these lines; texts are lines as they are."""
    texts = (each if isinstance(each, str) else json.dumps(each) for each in lines)
    return "".join(f"{text}\n" for text in texts).encode()


def results(data: bytes) -> list[dict[str, Any]]:
    """The results in a file, in its order."""
    return [json.loads(each) for each in data.splitlines()]
