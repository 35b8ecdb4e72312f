"""Batches of a real server, by OpenAI's client: from a file to files, over restarts, in a directory and in S3."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.live_server import LiveServer, running_server
from tests.server import batch_files
from tests.server.batch_files import URL, jsonl, results
from tests.server.object_store import ACCOUNT, make_bucket, needs_moto, running_object_store
from tests.server.pictures import opened
from tests.server.processes import wait_until
from tests.star_model.tiny import GOLDFISH, write_quick_model

ENDED = ("completed", "failed", "expired", "cancelled")
KEYS = ("sk-first-0123456789", "sk-second-0123456789")
Start = Callable[..., AbstractContextManager[LiveServer]]
line = partial(batch_files.line, prompt=GOLDFISH)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Start:
    """Starts a server over the directory of the test, each with a log of its own."""
    store = ("--batch-store", f"file://{tmp_path}/store")

    def server(log: str, *flags: str, **options: Any) -> AbstractContextManager[LiveServer]:
        common = ("--model", str(model), "--threads", "1", "--log-format", "json")
        return running_server(
            *common, "--batch-takeover-s", "3", *store, *flags, log=tmp_path / log, **options
        )

    return server


@contextmanager
def client_of(server: LiveServer, key: str = "none") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def handed_in(client: openai.OpenAI, data: bytes, **fields: Any) -> Batch:
    file = client.files.create(file=("requests.jsonl", data), purpose="batch")
    batch: Batch = client.batches.create(
        **{"input_file_id": file.id, "endpoint": URL, "completion_window": "24h", **fields}
    )
    return batch


def ended(client: openai.OpenAI, batch_id: str) -> Batch:
    wait_until(lambda: client.batches.retrieve(batch_id).status in ENDED)
    return client.batches.retrieve(batch_id)


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts is not None else 0


def answered(server: LiveServer, outcome: str = "ok") -> list[str]:
    """The ids of the requests of batches that a server has answered."""
    events = [json.loads(text) for text in server.written.splitlines() if text.startswith("{")]
    return [
        event["request_id"]
        for event in events
        if event["event"] == "batch request" and event["outcome"] == outcome
    ]


def test_the_official_client(start: Start) -> None:
    lines = [line("a fox", n=2, seed=7, output_format="webp"), line("too many", n=11)]
    with start("log") as server, client_of(server) as client:
        file = client.files.create(
            file=("my requests.jsonl", jsonl(*lines)),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (file.filename, file.purpose) == ("my requests.jsonl", "batch")
        assert file.expires_at == file.created_at + 7200
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).content == jsonl(*lines)
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint=URL,
            completion_window="24h",
            metadata={"for": "a test"},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert batch.status == "validating"
        batch = ended(client, batch.id)
        assert (batch.status, batch.metadata) == ("completed", {"for": "a test"})
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        (done,) = results(client.files.content(batch.output_file_id).content)
        images = done["response"]["body"]["data"]
        assert [image["seed"] for image in images] == [7, 8]
        direct = client.images.generate(
            prompt=GOLDFISH, n=2, output_format="webp", extra_body={"seed": 7}
        )
        assert direct.data is not None
        assert [image["b64_json"] for image in images] == [image.b64_json for image in direct.data]
        assert opened(images[0]["b64_json"]).format == "WEBP"
        (failed,) = results(client.files.content(batch.error_file_id).content)
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("too many", 400)
        names = {each.id: each.purpose for each in client.files.list(limit=2)}
        assert sorted(names.values()) == ["batch", "batch_output", "batch_output"]
        assert [each.id for each in client.batches.list(limit=1)] == [batch.id]
        output = client.files.retrieve(batch.output_file_id)
        assert output.expires_at == output.created_at + 3600
        assert client.files.delete(output.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(output.id)
        with pytest.raises(openai.BadRequestError, match="has ended"):
            client.batches.cancel(batch.id)
        with pytest.raises(openai.BadRequestError, match="completion_window"):
            handed_in(client, jsonl(*lines), completion_window="soon")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_in_the_middle(start: Start, end: signal.Signals, model: Path) -> None:
    count = 150
    lines = [line(f"image {i}", n=2, seed=2 * i, output_format="webp") for i in range(count)]
    with start("before") as server:
        with client_of(server) as client:
            batch_id = handed_in(client, jsonl(*lines)).id
            wait_until(lambda: completed(client, batch_id) >= 3)
        os.kill(server.process.pid, end)
        server.process.wait(60)
        before = answered(server)
    assert len(before) < count, "it was to end in the middle"
    with start("after") as server, client_of(server) as client:
        counts = client.batches.retrieve(batch_id).request_counts
        assert counts is not None
        assert 3 <= counts.completed < count
        batch = ended(client, batch_id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.completed == count
        assert batch.output_file_id is not None
        found = results(client.files.content(batch.output_file_id).content)
        after = answered(server)
    assert [each["custom_id"] for each in found] == [each["custom_id"] for each in lines]
    assert [[i["seed"] for i in each["response"]["body"]["data"]] for each in found] == [
        [2 * i, 2 * i + 1] for i in range(count)
    ]
    # Of what was painted before, only what a killed server had no time to write may be painted again.
    twice = set(before) & set(after)
    assert len(twice) <= (4 if end == signal.SIGKILL else 0), twice
    assert len(set(before) | set(after)) == count


def test_a_cancelled_batch_keeps_what_is_done(start: Start) -> None:
    lines = [line(f"image {i}", n=4) for i in range(400)]
    with start("log") as server, client_of(server) as client:
        batch_id = handed_in(client, jsonl(*lines)).id
        wait_until(lambda: completed(client, batch_id) >= 2)
        client.batches.cancel(batch_id)
        batch = ended(client, batch_id)
        assert batch.status == "cancelled"
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        done = results(client.files.content(batch.output_file_id).content)
        given_up = results(client.files.content(batch.error_file_id).content)
        assert {each["error"]["code"] for each in given_up} == {"batch_cancelled"}
        names = [each["custom_id"] for each in done + given_up]
        assert sorted(names) == sorted(each["custom_id"] for each in lines)


def test_a_batch_expires_while_no_server_runs(start: Start) -> None:
    lines = [line(f"image {i}", n=10) for i in range(1000)]
    with start("before") as server, client_of(server) as client:
        batch = handed_in(client, jsonl(*lines), completion_window="5s")
    assert batch.expires_at is not None
    time.sleep(max(batch.expires_at - time.time(), 0))
    with start("after") as server, client_of(server) as client:
        batch = ended(client, batch.id)
        assert batch.status == "expired"
        assert batch.error_file_id is not None
        given_up = results(client.files.content(batch.error_file_id).content)
        assert {each["error"]["code"] for each in given_up} == {"batch_expired"}
        assert batch.request_counts is not None
        assert batch.request_counts.failed == len(given_up)
        assert batch.request_counts.completed == 1000 - len(given_up)


def test_each_key_has_its_own(start: Start) -> None:
    with start("log", "--api-keys", ",".join(KEYS)) as server:
        with client_of(server, KEYS[0]) as own:
            batch = ended(own, handed_in(own, jsonl(line("1"))).id)
        with client_of(server, KEYS[1]) as other:
            assert list(other.files.list()) == []
            assert list(other.batches.list()) == []
            asks: list[Callable[[], object]] = [
                lambda: other.batches.retrieve(batch.id),
                lambda: other.batches.cancel(batch.id),
                lambda: other.files.content(batch.output_file_id or ""),
                lambda: other.files.delete(batch.input_file_id),
                lambda: other.batches.create(
                    input_file_id=batch.input_file_id, endpoint=URL, completion_window="24h"
                ),
            ]
            for ask in asks:
                with pytest.raises(openai.NotFoundError):
                    ask()


@needs_moto
def test_in_s3(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    lines = [line(f"image {i}", n=2, seed=i) for i in range(150)]
    with running_object_store(tmp_path / "s3") as endpoint:
        make_bucket(endpoint, "work")
        flags = ("--model", str(model), "--threads", "1", "--log-format", "json")
        store = ("--batch-store", "s3://work/batches", "--s3-endpoint", endpoint)
        with (
            running_server(*flags, *store, log=tmp_path / "before", env=ACCOUNT) as server,
            client_of(server) as client,
        ):
            batch_id = handed_in(client, jsonl(*lines)).id
            wait_until(lambda: completed(client, batch_id) >= 3)
        before = answered(server)
        assert len(before) < 150, "it was to end in the middle"
        with (
            running_server(*flags, *store, log=tmp_path / "after", env=ACCOUNT) as server,
            client_of(server) as client,
        ):
            batch = ended(client, batch_id)
            assert batch.status == "completed"
            assert batch.output_file_id is not None
            found = results(client.files.content(batch.output_file_id).content)
            assert [each["custom_id"] for each in found] == [each["custom_id"] for each in lines]
            image = base64.b64decode(found[0]["response"]["body"]["data"][0]["b64_json"])
            assert image.startswith(b"\x89PNG")
            after = answered(server)
            file = client.files.retrieve(batch.input_file_id)
            assert client.files.content(file.id).content == jsonl(*lines)
            assert client.files.delete(file.id).deleted
            client.files.delete(batch.output_file_id)
            assert list(client.files.list()) == []
        assert not set(before) & set(after), "each is painted once"
