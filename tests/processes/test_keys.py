"""Keys of a real server: official clients at their limits, and a file that changes while images are painted."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI, RateLimitError

from server.api_keys import hash_of, new_key
from tests.live_server import LiveServer, running_server
from tests.server.processes import wait_until
from tests.star_model.tiny import GOLDFISH, write_quick_model


def write(file: Path, **keys: dict[str, Any]) -> None:
    """Replace the file; JSON, which is a way to write it."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"keys": [{"name": name, **entry} for name, entry in keys.items()]}))
    os.replace(new, file)


def client(server: LiveServer, key: str) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def lines(server: LiveServer, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in server.written.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def test_keys_change_under_a_running_server(tmp_path: Path) -> None:
    shop, nightly, later = new_key(), new_key(), new_key()
    file = tmp_path / "keys"
    old: dict[str, dict[str, Any]] = {
        "shop": {"hash": hash_of(shop), "images_per_minute": 2},
        "nightly": {"hash": hash_of(nightly), "priority": "batch"},
    }
    write(file, **old)
    model = str(write_quick_model(tmp_path / "model"))
    flags = ("--model", model, "--threads", "1", "--log-format", "json")
    with running_server(*flags, "--api-key-file", str(file), log=tmp_path / "log") as server:
        with client(server, shop) as caller:
            raw = caller.images.with_raw_response.generate(prompt=GOLDFISH, n=2)
            assert raw.headers["x-ratelimit-remaining-images"] == "0"
            with pytest.raises(RateLimitError) as limited:
                caller.images.generate(prompt=GOLDFISH)
            assert limited.value.code == "rate_limit_exceeded"
            assert int(limited.value.response.headers["retry-after"]) >= 1

        answers: list[int] = []
        with client(server, nightly) as caller:

            def paint() -> int:
                return len(caller.images.generate(prompt=GOLDFISH, n=2).data or [])

            def work() -> None:
                answers.extend(paint() for _ in range(10))

            busy = threading.Thread(target=work)
            busy.start()
            write(file, **(old | {"later": {"hash": hash_of(later)}}))
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: bool(lines(server, "settings read again")), 30)
            with client(server, later) as newcomer:
                assert newcomer.images.generate(prompt=GOLDFISH).data
            busy.join(120)
        assert answers == [2] * 10, "a request was lost"

        file.write_text("keys: [")
        wait_until(lambda: bool(lines(server, "keys not read, those before stay valid")), 30)
        with client(server, later) as caller:
            assert caller.models.list().data
        read = len(lines(server, "keys read"))
        write(file, later={"hash": hash_of(later), "expires": "2020-01-01"})
        wait_until(lambda: len(lines(server, "keys read")) > read, 30)
        for key, message in ((later, "later expired on 2020-01-01"), (shop, "not one of this")):
            with client(server, key) as caller, pytest.raises(AuthenticationError, match=message):
                caller.models.list()
    named = {line["api_key"] for line in lines(server, "request") if "api_key" in line}
    assert named == {"shop", "nightly", "later"}
    assert not any(key in server.written for key in (shop, nightly, later))
