"""The requests of vLLM-Omni's benchmark, replayed against the app."""

from __future__ import annotations

import pytest

from benchmarks.replay_vllm_omni import Answer, parse, replay, report
from tests.server.service import Service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("steps", ["0", "20"])
async def test_its_requests_are_answered_with_images(service: Service, steps: str) -> None:
    flags = ["--model", "star-fake", "--num-prompts", "4", "--max-concurrency", "2"]
    arguments = parse([*flags, "--num-inference-steps", steps])
    answers, duration = await replay(service.http, arguments)
    found = report(answers, duration)
    assert [answer.error for answer in answers] == [""] * 4
    assert found["completed"] == 4
    assert found["throughput_qps"] == pytest.approx(4 / duration)
    assert found["latency_p99"] == max(answer.seconds for answer in answers)


async def test_what_fails_is_counted_and_named(service: Service) -> None:
    answers, duration = await replay(service.http, parse(["--model", "nobody", "--width", "300"]))
    assert report(answers, duration)["failed"] == len(answers) == 20
    assert "HTTP 4" in answers[0].error


def test_failures_are_no_latencies() -> None:
    found = report([Answer(1.0), Answer(9.0, "HTTP 500"), Answer(3.0)], 2.0)
    assert found["completed"] == 2
    assert found["failed"] == 1
    assert (found["latency_mean"], found["latency_p99"]) == (2.0, 3.0)
