"""What the page says of a model that knows few things: its pictures, its chips, and how it reads a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, FakeServer, OpenPage
from tests.browser.playground import ask, seeds, wait_until_painted, width_of_content
from tests.server.fakes import NOTE, SUGGESTIONS, VOCABULARY, FakeEngine, pictures

Serve = Callable[..., FakeServer]

TABLET = {"width": 768, "height": 1024}
MANY = replace(VOCABULARY, names={f"a thing {n}": () for n in range(200)} | VOCABULARY.names)


def knowing_few() -> FakeEngine:
    return FakeEngine(vocabulary=VOCABULARY, gallery=pictures())


def prompt_of(page: Page) -> str:
    value: str = page.input_value("#prompt")
    return value


def test_it_opens_on_pictures_and_paints_one_again(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(make_engine=knowing_few).url)
    shown = page.locator("#showcase-list button")
    expect(shown).to_have_count(3)
    assert page.locator("#showcase-list img").first.evaluate("image => image.naturalWidth") == 8
    with page.expect_request("**/generate") as sent:
        shown.nth(1).click()
    body = sent.value.post_data_json or {}
    assert (body["prompt"], body["seed"]) == ("a fox number 2", 2)
    wait_until_painted(page)
    assert prompt_of(page) == "a fox number 2"
    assert page.input_value("#seed") == "", "the next picture is another one"
    assert seeds(page) == [2]
    assert '"seed":2' in page.inner_text("#code")
    expect(shown).to_have_count(3)  # they stay, below


def test_a_prompt_is_read_while_it_is_typed(serve: Serve, open_page: OpenPage) -> None:
    engine = knowing_few()
    page = open_page(serve(make_engine=lambda: engine).url)
    reading = page.locator("#reading")
    expect(page.locator("#known-list li").first).to_be_visible()
    page.locator("#prompt").press_sequentially("a wolf")
    expect(reading).to_contain_text("It will draw “a fox”.")
    expect(reading).to_contain_text('"wolf" is drawn as "a fox".')
    expect(page.locator("#reading-offer")).to_be_hidden()
    page.fill("#prompt", "a woman")
    expect(reading).to_contain_text("star-fake cannot draw “woman”.")
    assert page.locator("#reading-instead button").all_inner_texts() == list(SUGGESTIONS)
    reading.get_by_role("button", name="an owl").click()
    assert prompt_of(page) == "an owl"
    expect(reading).to_be_hidden()
    assert engine.steps == [], "nothing is painted before it is asked for"
    page.fill("#prompt", "a woman")
    expect(reading).to_be_visible()
    page.fill("#prompt", "")
    expect(reading).to_be_hidden()


def test_what_it_cannot_draw_is_offered_otherwise(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(make_engine=knowing_few).url)
    expect(page.locator("#known-list li").first).to_be_visible()
    ask(page, "a woman")
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text('star-fake cannot draw "woman". Try instead:')
    names = trouble.get_by_role("button").all_inner_texts()
    assert names == [*SUGGESTIONS, "Paint the nearest anyway"]
    trouble.get_by_role("button", name="Paint the nearest anyway").click()
    wait_until_painted(page)
    note = page.get_by_role("note", name="Not quite as you asked")
    expect(note).to_contain_text(NOTE)
    above = note.bounding_box()
    picture = page.locator("#tiles .frame").bounding_box()
    assert above is not None
    assert picture is not None
    assert above["y"] < picture["y"], "the notice stands above the picture"
    ask(page, "a woman")
    trouble.get_by_role("button", name="an owl").click()
    wait_until_painted(page)
    assert prompt_of(page) == "an owl"


def test_what_it_knows_is_found_and_put_into_the_prompt(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve(make_engine=lambda: FakeEngine(vocabulary=MANY)).url)
    chips = page.locator("#known-list button")
    expect(chips).to_have_count(60)
    expect(page.locator("#known-counts")).to_have_text("203 things, 2 styles, 3 backgrounds")
    expect(page.locator("#known-more")).to_contain_text("and 148 more")
    page.fill("#known-search", "vixen")  # by another name
    expect(chips).to_have_text(["a fox"])
    page.press("#known-search", "Enter")
    expect(page.locator("#picture")).not_to_have_attribute("aria-busy", "true")
    chips.click()
    assert prompt_of(page) == "a fox"
    page.fill("#known-search", "3d")
    chips.click()
    assert prompt_of(page) == "a fox, 3d style"
    page.fill("#known-search", "forest")
    chips.click()
    assert prompt_of(page) == "a fox, 3d style, in a forest"
    page.fill("#known-search", "owl")
    chips.click()
    assert prompt_of(page) == "an owl, 3d style, in a forest"
    page.fill("#known-search", "zeppelin")
    expect(chips).to_have_count(0)
    expect(page.locator("#known-more")).to_contain_text("Nothing by that name")


def test_a_model_for_any_prompt_has_none_of_it(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    ask(page, "a woman")
    wait_until_painted(page)
    for hidden in ("#known", "#showcase", "#reading", "#trouble"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator("#size")).to_be_hidden()
    assert not [url for url in asked if url.endswith(("/read", "/vocabulary"))]


def test_the_keyboard_comes_back_to_the_prompt(serve: Serve, open_page: OpenPage) -> None:
    url = serve(make_engine=knowing_few).url
    page = open_page(
        url, viewport=PHONE, has_touch=True
    )  # elsewhere the prompt has the focus at once
    expect(page.locator("#showcase-list li").first).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the prompt")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    page.locator("#showcase-list button").first.focus()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("and/or")
    assert prompt_of(page) == "and/or", "in a field it is a character"


def test_painting_does_not_look_switched_off(serve: Serve, open_page: OpenPage) -> None:
    engine = knowing_few()
    engine.gate.clear()
    page = open_page(serve(make_engine=lambda: engine).url, reduced_motion="reduce")
    ask(page, "a fox")
    button = page.locator("#paint")
    expect(button).to_have_text("Painting")
    assert button.evaluate("e => getComputedStyle(e).opacity") == "1"
    assert button.evaluate("e => getComputedStyle(e).cursor") == "progress"
    engine.gate.set()
    wait_until_painted(page)


@pytest.mark.parametrize("viewport", [PHONE, TABLET, DESKTOP], ids=["phone", "tablet", "desktop"])
def test_each_width_has_its_arrangement(
    serve: Serve, open_page: OpenPage, viewport: dict[str, int]
) -> None:
    page = open_page(serve(make_engine=knowing_few).url, viewport=viewport)
    expect(page.locator("#showcase-list li").first).to_be_visible()
    ask(page, "a fox", seed="4294967295", n="2")
    wait_until_painted(page, 2)
    assert width_of_content(page) == viewport["width"]
    picture, prompt = (page.locator(name).bounding_box() for name in ("#picture", "#prompt"))
    assert picture is not None
    assert prompt is not None
    if viewport is PHONE:
        assert picture["y"] + picture["height"] <= prompt["y"], "the picture stands above the form"
    else:
        assert picture["x"] > prompt["x"] + prompt["width"], "form and picture stand side by side"
    for tile in page.locator(".tile").all():
        rows = {round(b.bounding_box()["y"]) for b in tile.locator(".quiet").all()}  # type: ignore[index]
        assert len(rows) == 1, "the buttons of a picture stand in one row"
    cut = page.evaluate(
        """() => [...document.querySelectorAll("button, summary, h1, h2, label:not(.unseen), select, .seed, .facts")]
            .filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML)"""
    )
    assert cut == []


def test_its_typeface_comes_from_this_server(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(serve().url)
    expect(page.locator("#model-facts")).to_contain_text("star-fake")
    page.evaluate("document.fonts.ready")
    loaded = page.evaluate("[...document.fonts].map((font) => [font.family, font.status])")
    assert [[name.strip('"'), status] for name, status in loaded] == [["Instrument Sans", "loaded"]]
