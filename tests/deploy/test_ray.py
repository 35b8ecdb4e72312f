"""The service on a real Ray cluster, two replicas on CPUs behind Ray's proxy: spread, streams, and a death."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.processes import alive, needs_proc, wait_until, workers_of
from tests.star_model.tiny import write_tiny_model

pytest.importorskip("ray.serve", reason="Ray is not installed: make install EXTRAS=train,ray")

from server.ray.app import _settings as settings_of
from tests.deploy.ray_cluster import REPLICAS, Cluster, running_cluster

pytestmark = needs_proc

BODY = {"prompt": "a red apple", "seed": 1}
STREAM = BODY | {"stream": True, "partial_images": 2}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    model = write_tiny_model(folder / "model")
    with running_cluster(model, folder / "log") as running:
        yield running
    assert not running.processes()


def post(cluster: Cluster, body: dict[str, Any], timeout: float = 120) -> httpx.Response:
    return httpx.post(f"{cluster.url}/generate", json=body, timeout=timeout)


def events(text: str) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    return [
        json.loads(line.removeprefix("data: "))
        for line in text.splitlines()
        if line.startswith("data: ")
    ]


def test_requests_spread_and_each_replica_is_seen(cluster: Cluster) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(cluster, BODY), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert (
        len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    )  # the seed's promise
    painted = cluster.samples("star_images_total")
    assert len(painted) == REPLICAS
    assert sum(painted.values()) == 24
    assert all(painted.values()), painted
    assert cluster.samples("star_engine_up") == dict.fromkeys(painted, 1.0)


def test_errors_and_headers_are_those_of_the_app(cluster: Cluster) -> None:
    refused = httpx.post(
        f"{cluster.url}/generate", json={"prompt": ""}, headers={"x-request-id": "mine"}
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    assert refused.headers.get_list("x-request-id") == ["mine"]
    assert httpx.get(f"{cluster.url}/nothing").json()["error"]["code"] == "not_found"


def test_previews_arrive_one_by_one(cluster: Cluster) -> None:
    with httpx.stream(
        "POST", f"{cluster.url}/generate", json=STREAM | {"n": 10}, timeout=120
    ) as answer:
        chunks = list(answer.iter_text())
    kinds = [event["type"].rpartition(".")[2] for event in events("".join(chunks))]
    assert kinds.count("completed") == 10
    assert kinds[0] == "partial_image"
    assert len(chunks) > 1


def test_a_client_that_leaves_is_heard_of(cluster: Cluster) -> None:
    before = sum(cluster.samples("star_cancellations_total").values())
    with httpx.stream(
        "POST", f"{cluster.url}/generate", json=STREAM | {"n": 10}, timeout=120
    ) as answer:
        next(answer.iter_text())
    wait_until(lambda: sum(cluster.samples("star_cancellations_total").values()) == before + 1)


def test_a_replica_that_dies_is_replaced_and_takes_only_its_own_requests(cluster: Cluster) -> None:
    victim, other = cluster.replicas()
    (worker,) = workers_of(victim)
    known = set(cluster.samples("star_engine_up"))
    # Its worker stands still, so it holds what it is given; everything else goes on.
    os.kill(worker, signal.SIGSTOP)
    bodies = [BODY, STREAM] * 6
    with ThreadPoolExecutor(len(bodies)) as pool:
        asked = [pool.submit(post, cluster, body) for body in bodies]

        def held() -> float:
            names = ("star_requests_waiting", "star_requests_running")
            return sum(sum(cluster.samples(name).values()) for name in names)

        wait_until(lambda: 0 < held() == sum(not request.done() for request in asked))
        lost = [request for request in asked if not request.done()]
        os.kill(victim, signal.SIGKILL)
        os.kill(worker, signal.SIGCONT)
        answers = {request: request.result() for request in asked}
    assert 0 < len(lost) < len(asked)
    for request, body in zip(asked, bodies, strict=True):
        answer = answers[request]
        if request not in lost:
            assert answer.status_code == 200
            assert "error" not in answer.text
        elif "stream" in body:  # it had begun, and ends with the error
            assert events(answer.text)[-1]["error"]["code"] == "engine_dead"
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
            assert answer.headers["retry-after"]

    assert post(cluster, BODY).status_code == 200  # by the one that is left
    wait_until(lambda: len(cluster.samples("star_engine_up")) == REPLICAS, 240)
    assert len(known & set(cluster.samples("star_engine_up"))) == REPLICAS - 1
    assert other in cluster.replicas()
    assert victim not in cluster.replicas()
    wait_until(lambda: not alive(worker))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, 0),
        ({"stored_images": 5}, 5),
        ({"image_store": "s3://images"}, 1000),
        ({"image_store": "file:///shared/images", "stored_images": 5}, 5),
    ],
)
def test_urls_are_refused_unless_the_replicas_share_a_store(
    given: dict[str, Any], kept: int
) -> None:
    assert settings_of(given).stored_images == kept
