"""axe-core finds nothing to complain of, in any state of the page, light or dark, on a desk or on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, FakeServer, OpenPage, let_go
from tests.browser.editing import go, open_picture
from tests.browser.playground import ask, unfold, wait_until_painted
from tests.server.fakes import VOCABULARY, FakeEngine, pictures
from tests.server.pictures import photo


def complaints(page: Page) -> list[str]:
    """What axe-core finds, a line each."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state(
    serve: Callable[..., FakeServer], open_page: OpenPage, viewport: dict[str, int], scheme: str
) -> None:
    engine = FakeEngine(vocabulary=VOCABULARY, gallery=pictures())
    server = serve(make_engine=lambda: engine)
    page = open_page(server.url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#ladder i").first).to_be_attached()
    expect(page.locator("#showcase-list img").first).to_be_visible()
    assert complaints(page) == [], "empty"
    unfold(page)
    page.get_by_text("Advanced").click()
    if not page.locator("#known-list").is_visible():
        page.locator("#known > summary").click()
    page.fill("#prompt", "a woman")
    expect(page.locator("#reading")).to_contain_text("cannot draw")
    assert complaints(page) == [], "read"
    page.press("#prompt", "Enter")
    expect(page.get_by_role("button", name="Paint the nearest anyway")).to_be_visible()
    assert complaints(page) == [], "refused"
    engine.gate.clear()
    ask(page, "a wolf", n="2")
    expect(page.locator("#cancel")).to_be_visible()
    assert complaints(page) == [], "painting"
    let_go(engine)
    wait_until_painted(page, 2)
    assert complaints(page) == [], "painted"
    page.get_by_role("button", name="Delete all").click()
    assert complaints(page) == [], "a question"
    page.keyboard.press("Escape")
    ask(page, "explode")
    expect(page.get_by_role("alert")).to_be_visible()
    assert complaints(page) == [], "trouble"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_of_editing(
    serve: Callable[..., FakeServer], open_page: OpenPage, viewport: dict[str, int], scheme: str
) -> None:
    page = open_page(serve().url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    open_picture(page, photo(300, 200))
    for way in ("Around it", "All of it", "Part of it"):
        go(page, way)
        assert complaints(page) == [], way
    page.get_by_text("Mark a box").click()
    page.get_by_role("button", name="Mark the box").click()
    page.locator("#mask-area").focus()
    page.keyboard.press("Space")
    assert complaints(page) == [], "marked"
    ask(page, "explode")
    expect(page.get_by_role("alert")).to_be_visible()
    assert complaints(page) == [], "trouble"
    ask(page, "a fox")
    wait_until_painted(page)
    assert complaints(page) == [], "painted"


def test_it_finds_what_is_wrong(serve: Callable[..., FakeServer], open_page: OpenPage) -> None:
    page = open_page(serve().url)
    page.evaluate("document.querySelector('label[for=seed]').remove()")
    page.evaluate("document.getElementById('seed').placeholder = ''")
    assert any(line.startswith("label: ") for line in complaints(page))
