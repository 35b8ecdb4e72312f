"""Limits by the minute."""

from __future__ import annotations

import pytest
from throttled import utils

from server.errors import InvalidRequest, RateLimitExceeded
from server.http.rate_limit import Caller, RateLimits, network_of


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The library's clock, under the test's control."""
    clock = Clock()
    monkeypatch.setattr(utils, "now_mono_f", lambda: clock.now)
    return clock


def ask(limits: RateLimits, name: str = "me", images: int = 1, **own: int) -> int:
    """0 if a request is let in, else the seconds that it is told to wait."""
    caller = Caller(name, **own)
    try:
        limits.check(caller, images)
    except RateLimitExceeded as error:
        return error.retry_after or -1
    limits.spend(caller, images)
    return 0


def test_without_limits_everything_is_let_in() -> None:
    limits = RateLimits()
    assert all(ask(limits, images=10) == 0 for _ in range(1000))


def test_a_minutes_worth_may_come_at_once_and_comes_back_evenly(clock: Clock) -> None:
    limits = RateLimits(requests_per_minute=6)
    assert [ask(limits) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    clock.now += 9
    assert ask(limits) == 1
    clock.now += 1.001
    assert [ask(limits) for _ in range(2)] == [0, 10]


def test_the_time_to_wait_is_true_for_several_images(clock: Clock) -> None:
    limits = RateLimits(images_per_minute=60)
    assert [ask(limits, images=10) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    clock.now += 9.5
    assert ask(limits, images=10) == 1
    clock.now += 1
    assert ask(limits, images=10) == 0


def test_callers_do_not_share() -> None:
    limits = RateLimits(requests_per_minute=1)
    assert ask(limits, "a") == 0
    assert ask(limits, "a") > 0
    assert ask(limits, "b") == 0


def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    limits = RateLimits(requests_per_minute=2, images_per_minute=4)
    assert ask(limits, images=4) == 0
    assert ask(limits, images=4) == 60
    assert ask(limits, images=1) == 15  # the second request is still there, the images are not
    clock.now += 15.001
    assert ask(limits, images=1) == 0


def test_more_than_a_minutes_worth_can_never_be_asked_for() -> None:
    with pytest.raises(InvalidRequest, match=r"n must be at most 4.*got 5") as refused:
        RateLimits(images_per_minute=4).check(Caller("me"), 5)
    assert refused.value.param == "n"
    with pytest.raises(InvalidRequest, match=r"n must be at most 4.*in flight; got 5"):
        RateLimits().check(Caller("me", images_in_flight=4), 5)


def test_a_callers_own_limits_take_the_place_of_the_servers(clock: Clock) -> None:
    limits = RateLimits(requests_per_minute=1)
    assert [ask(limits, "own", requests_per_minute=3) for _ in range(4)] == [0, 0, 0, 20]
    assert all(ask(limits, "free", requests_per_minute=0) == 0 for _ in range(100))
    assert [ask(limits, "other") for _ in range(2)] == [0, 60]


def test_what_is_used_up_stays_so_when_a_limit_changes(clock: Clock) -> None:
    limits = RateLimits()
    assert [ask(limits, requests_per_minute=2) for _ in range(3)] == [0, 0, 30]
    assert ask(limits, requests_per_minute=1) > 0
    clock.now += 60.001
    assert ask(limits, requests_per_minute=1) == 0


def test_headers_tell_what_is_left(clock: Clock) -> None:
    limits, caller = RateLimits(requests_per_minute=6), Caller("me", images_per_minute=60)
    limits.spend(caller, 4)
    assert limits.headers(caller) == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "10.000s",
        "x-ratelimit-limit-images": "60",
        "x-ratelimit-remaining-images": "56",
        "x-ratelimit-reset-images": "4.000s",
    }
    assert RateLimits().headers(Caller("me")) == {}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_one_subscriber_is_one_caller(address: str, network: str) -> None:
    assert network_of(address) == network
