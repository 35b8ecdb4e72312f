"""The page of ``/docs`` in a real browser, which enforces its policy."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import FakeServer, OpenPage

Serve = Callable[..., FakeServer]


def test_the_documentation_works_under_its_policy(serve: Serve, open_page: OpenPage) -> None:
    page = open_page(f"{serve().url}/docs")
    expect(page.locator("#operations-operation-playground")).to_be_visible()
    page.locator("#operations-operation-playground .opblock-summary-control").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
