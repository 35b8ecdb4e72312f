"""The browser that the system has: found by name, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
_REFUSED = "Failed to load resource: the server responded with a status of"
_MAY_REFUSE = ("/generate", "/v1/images/edits", "/v1/models", "/startupz")


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium.

    Open one a module, not one a session: while Playwright's synchronous interface is in use, no other test
    can run an event loop.
    """
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_browser()) as browser,
    ):
        yield browser


@dataclass
class Watch:
    """Notes what a page must never do: write errors to the console, throw, or speak to another host."""

    problems: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def over(self, page: Page) -> None:
        """Watch this page from now on."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"thrown: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        path = urlsplit(message.location["url"]).path
        if message.text.startswith(_REFUSED) and path in _MAY_REFUSE:
            return  # the browser's own note of an answer that the page then puts into a sentence
        if "net::ERR_" in message.text and path in _MAY_REFUSE:
            return  # likewise, of a server that is not there
        self.problems.append(f"console {message.type}: {message.text} ({message.location['url']})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(("blob:", "data:")):
            self.hosts.add(urlsplit(request.url).netloc)
