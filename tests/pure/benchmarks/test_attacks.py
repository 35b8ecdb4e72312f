"""The attacks are what they say, and the tools that use them judge rightly. No duration is judged."""

from __future__ import annotations

import io
import math
import os
import random
import threading

import pytest
from PIL import Image

from benchmarks import attacks
from benchmarks.bench_attacks import Times, seen_by
from benchmarks.growth import Sample, growth, judge, least, sample
from benchmarks.soak import draw_request
from server.errors import UnusableImage
from server.images.uploads import Upload, read_image
from server.metrics import Metrics
from tests.server.processes import needs_proc


def test_the_pictures_are_hostile_as_they_should_be() -> None:
    with pytest.raises(UnusableImage, match="scans"):
        read_image(Upload("image", attacks.endless_scans(64, 300)), 1 << 24)
    with Image.open(io.BytesIO(attacks.endless_scans(64, 3))) as image:
        image.load()  # a file that a decoder takes
    assert read_image(Upload("image", attacks.large_picture(256)), 1 << 24).size == (256, 256)


def test_every_attack_has_a_name_and_says_what_it_is() -> None:
    assert len(attacks.ATTACKS) >= 13
    assert all(attack.__doc__ for attack in attacks.ATTACKS.values())


def test_attackers_that_end_are_noticed() -> None:
    with pytest.raises(RuntimeError, match="the attackers ended with 1"):  # noqa: SIM117
        with attacks.attacked(["no such attack"], 1) as process:
            process.wait(60)


def test_a_ratio_is_of_medians_and_infinite_when_nothing_came() -> None:
    assert Times([1.0, 1.0, 9.0], [2.0, 2.0, 30.0]).ratio == 2.0
    assert Times([1.0], [], ["queue_full"]).ratio == math.inf


def test_what_a_server_has_seen_of_an_attack_is_in_its_metrics() -> None:
    metrics = Metrics()
    assert seen_by(metrics.render().decode()) == 0
    metrics.requests.labels("/generate", "ok").inc(3)
    metrics.requests.labels("/metrics", "ok").inc(100)
    metrics.connections_refused.labels("malformed").inc(20)
    metrics.watch("connections", lambda: 5)
    assert seen_by(metrics.render().decode()) == 28


def test_growth_is_the_trend_and_not_one_peak() -> None:
    assert growth([5.0, 5.0, 5.0, 90.0, 5.0, 5.0]) == 0
    assert growth([1.0, 2.0, 3.0, 4.0]) == 3
    assert growth([4.0, 3.0, 2.0, 1.0]) == -3
    assert growth([1.0]) == 0


def curve(
    rss_mb: list[float] | None = None, descriptors: list[float] | None = None
) -> list[Sample]:
    """Samples that stay as they are, but for what is given."""
    flat = [100.0] * 12
    return [
        Sample(r, 80.0, d, 9.0) for r, d in zip(rss_mb or flat, descriptors or flat, strict=True)
    ]


def test_what_stays_and_what_rises_only_at_first_is_flat() -> None:
    assert judge({"server": curve()}) == []
    assert judge({"server": curve(rss_mb=[40.0, 60.0, 80.0, 95.0, *[100.0] * 8])}) == []
    assert judge({"server": curve(rss_mb=[100.0 + i % 3 for i in range(12)])}) == []


def test_a_leak_is_named() -> None:
    (memory,) = judge(
        {"server": curve(), "worker": curve(rss_mb=[100.0 + 5 * i for i in range(12)])}
    )
    assert memory.startswith("worker: rss_mb grew by 35.0")
    (files,) = judge({"server": curve(descriptors=[20.0 + i for i in range(12)])})
    assert files.startswith("server: descriptors grew by 7.0, more than 2.0")


def test_what_is_open_for_a_moment_is_not_in_the_least_of_several_samples() -> None:
    samples = [Sample(100.0, 80.0, 22.0, 9.0), Sample(99.0, 81.0, 26.0, 10.0)]
    assert least(samples) == Sample(99.0, 80.0, 22.0, 9.0)


@needs_proc
def test_a_process_is_sampled() -> None:
    before = sample(os.getpid())
    assert before.rss_mb >= before.pss_mb > 1
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    pipes = [os.pipe() for _ in range(10)]
    try:
        after = sample(os.getpid())
    finally:
        stop.set()
        thread.join()
        for pipe in pipes:
            for end in pipe:
                os.close(end)
    assert after.descriptors == before.descriptors + 20
    assert after.threads == before.threads + 1


def test_honest_requests_are_of_all_kinds() -> None:
    chance = random.Random(1)
    bodies = [draw_request(chance, number, "picture") for number in range(200)]
    assert {body["format"] for body in bodies} == {"png", "webp", "jpeg"}
    for kind in ("stream", "image"):
        share = sum(kind in body for body in bodies) / len(bodies)
        assert 0.05 < share < 0.6, kind
