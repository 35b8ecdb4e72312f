"""What the playground says when something goes wrong: always a sentence, and what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import httpx
from playwright.sync_api import expect

from tests.browser.conftest import FakeServer, OpenPage, halting_engine, let_go, wait_for
from tests.browser.playground import ask, copied, said, wait_until_painted
from tests.server.fakes import FakeEngine

Serve = Callable[..., FakeServer]


def test_a_bad_value_is_named_and_marked(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, "a fox", guidance_scale="1000")
    said(page, r"^guidance_scale must be .* 0 to 100; got 1000\.$")
    field = page.locator("#guidance_scale")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert page.get_by_role("button", name="Try again").count() == 0, "it would not help"
    ask(page, "a fox", guidance_scale="")
    wait_until_painted(page)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert field.get_attribute("aria-invalid") is None


def test_text_for_a_number_is_the_servers_to_refuse(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.get_by_text("Advanced").click()
    page.fill("#top_k", "many")
    page.get_by_text("Advanced").click()
    ask(page, "a fox")
    said(page, r'^top_k must be an integer .*; got "many"\.$')
    expect(page.locator("#top_k")).to_be_focused()  # the folded part is open again


def test_no_prompt(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.press("#prompt", "Enter")
    said(page, r"^prompt must be .* got an empty string\.$")
    expect(page.locator("#code-card")).to_be_hidden()


def test_a_picture_stays_when_the_next_is_refused(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, "a fox")
    wait_until_painted(page)
    ask(page, "an owl", seed="-1")
    said(page, "^seed must be")
    expect(page.locator("#tiles").get_by_role("img", name="a fox", exact=True)).to_be_visible()


def test_a_full_queue_counts_down(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(slots=1)
    engine.gate.clear()
    server = serve(make_engine=lambda: engine, queue_capacity=1)
    body = {"prompt": "a fox", "n": 1}
    others = [
        threading.Thread(
            target=httpx.post,
            args=(f"{server.url}/generate",),
            kwargs={"json": body, "timeout": 60},
        )
        for _ in range(2)
    ]
    for number, other in enumerate(others, 1):
        other.start()
        wait_for(lambda number=number: server.outstanding() == number)  # type: ignore[misc]
    page = open_page(server.url)
    ask(page, "an owl")
    said(page, "queue")
    button = page.get_by_role("button", name="Try again")
    expect(button).to_have_text(re.compile(r"^Try again in \d+ s$"))
    expect(button).to_have_attribute("aria-disabled", "true")
    button.dispatch_event("click")  # too early: nothing happens
    expect(page.get_by_role("alert")).to_be_visible()
    let_go(engine)
    for other in others:
        other.join()
    expect(button).to_have_text("Try again")
    button.click()
    wait_until_painted(page)
    refused = {"endpoint": "/generate", "outcome": "rejected"}
    assert (
        server.service.models.metrics.registry.get_sample_value("star_requests_total", refused) == 1
    )


def test_a_model_that_loads_is_waited_for(serve: Serve, open_page: OpenPage) -> None:
    loaded = threading.Event()
    server = serve(loaded=loaded, wait=False)
    page = open_page(server.url)
    expect(page.locator("#status")).to_have_text("The model is loading.")
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"^\d+ s$"))
    ask(page, "a fox")
    expect(page.locator("#cancel")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    loaded.set()
    wait_until_painted(page)
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    expect(page.locator("#elapsed")).to_be_empty()


def test_a_model_that_cannot_be_loaded(serve: Serve, open_page: OpenPage) -> None:
    server = serve(load_errors=["config.json is missing"], wait=False)
    page = open_page(server.url)
    said(page, r"config\.json is missing")
    page.get_by_role("button", name="Try again").click()
    said(page, r"config\.json is missing")


def test_an_api_key_is_asked_for(serve: Serve, open_page: OpenPage) -> None:
    key = "a-long-enough-secret-key"
    page = open_page(serve(api_keys=[key]).url)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    said(page, "key")
    ask(page, "a fox", key="a-wrong-but-printable-key")
    expect(field).to_be_focused()
    said(page, "key")
    field.fill(key)
    field.press("Enter")
    wait_until_painted(page)
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    for button in ("Copy as curl", "Copy as Python", "Copy link"):
        text = copied(page, button)
        assert key not in text
        assert ("API_KEY" in text) == (button != "Copy link")
    page.reload()  # the tab keeps it
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    ask(page, "an owl")
    wait_until_painted(page)


def test_a_failure_in_mid_stream(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    ask(page, "explode")
    said(page, r"\.$")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#picture")).to_have_attribute("aria-busy", "false")


def test_a_server_that_goes_away_in_mid_stream(serve: Serve, open_page: OpenPage) -> None:
    server = serve(make_engine=halting_engine)
    page = open_page(server.url)
    ask(page, "a fox")
    expect(page.locator("#status")).to_have_text("Preview 1 of 3.")
    server.stop()
    said(
        page,
        r"^(The connection was lost before the picture was finished|The server is shutting down.*)\.$",
    )
    page.get_by_role("button", name="Try again").click()
    said(page, r"^The server cannot be reached\. Check that it runs and that you are connected\.$")


def test_a_proxys_error_page(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.route("**/generate", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    ask(page, "a fox")
    said(page, r"^Something between this page and the server answered 502 Bad Gateway\.$")
