"""The page of a server with several models: one is chosen, and all that the page says is about that one."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import FakeServer, OpenPage
from tests.browser.playground import ask, unfold, wait_until_painted
from tests.server.fakes import VOCABULARY, FakeEngine, pictures

Serve = Callable[..., FakeServer]


def test_a_model_is_chosen(serve: Serve, open_page: OpenPage) -> None:
    kinds = iter([FakeEngine(vocabulary=VOCABULARY, gallery=pictures()), FakeEngine()])
    page = open_page(serve(make_engine=lambda: next(kinds), model=["one", "two"]).url)
    facts, choice = page.locator("#model-facts"), page.locator("#model")
    expect(facts).to_contain_text("one")
    unfold(page)
    assert choice.locator("option").all_inner_texts() == ["one", "two"]
    expect(page.locator("#showcase-list button")).to_have_count(3)

    choice.select_option("two")
    expect(facts).to_contain_text("two")
    expect(page.locator("#known")).to_be_hidden()
    expect(page.locator("#showcase")).to_be_hidden()
    with page.expect_request("**/generate") as sent:
        ask(page, "a woman")  # which the other model would not know
    assert (sent.value.post_data_json or {})["model"] == "two"
    wait_until_painted(page)
    assert "model=two" in page.url
    assert '"model":"two"' in page.inner_text("#code")

    choice.select_option("one")
    expect(facts).to_contain_text("one")
    expect(page.locator("#known")).to_be_visible()
    with page.expect_request("**/generate") as sent:
        ask(page, "a fox")
    assert (sent.value.post_data_json or {})["model"] == "one"
    wait_until_painted(page)

    page.locator("#gallery-list .open").last.click()  # a picture by the other one
    expect(facts).to_contain_text("two")
    expect(choice).to_have_value("two")


def test_a_link_names_the_model(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(model=["one", "two"]).url + "/?model=two&prompt=a+fox")
    expect(page.locator("#model-facts")).to_contain_text("two")
    unfold(page)
    expect(page.locator("#model")).to_have_value("two")
    expect(page.locator("#models")).to_be_visible()


def test_one_model_is_no_choice(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    unfold(page)
    expect(page.locator("#models")).to_be_hidden()
