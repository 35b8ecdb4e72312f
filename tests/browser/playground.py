"""What a user does on the playground, in the words of the tests."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Download, Page, expect

NASTY = (
    'a "red" apple\'s <b>core</b> & $HOME `id` \\n 100%\non a blue background, très joli 苹果 🍎'
)
"""A prompt with everything that a shell, a script, a page or a link could stumble over."""


def unfold(page: Page) -> None:
    """Open the settings, which a phone folds away."""
    if not page.locator("#n").is_visible():
        page.locator(".settings > summary").click()


def ask(page: Page, prompt: str, **fields: str) -> None:
    """Fill in the form and press Enter in the prompt."""
    for name, value in fields.items():
        field = page.locator(f"#{name}")
        unfold(page)
        if field.evaluate("e => e.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def wait_until_painted(page: Page, n: int = 1) -> None:
    """Wait for the sentence that says how long it took."""
    said = rf"^{n} pictures in" if n > 1 else "^Painted in"
    expect(page.locator("#status")).to_have_text(re.compile(said))


def seeds(page: Page) -> list[int]:
    """The seeds under the pictures on the stage."""
    return [int(text) for text in page.locator("#tiles .seed b").all_inner_texts()]


def saved(page: Page, tile: int = 0) -> bytes:
    """The file that a click on Save gives."""
    with page.expect_download() as downloading:
        page.locator("#tiles a[download]").nth(tile).click()
    download: Download = downloading.value
    return Path(download.path()).read_bytes()


def copied(page: Page, button: str) -> str:
    """What a click on this button puts on the clipboard."""
    page.get_by_role("button", name=button).click()
    expect(page.locator("#status")).to_contain_text(f"{button}: done")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def width_of_content(page: Page) -> int:
    """Pixels that the page wants in width; more than the window has means a horizontal scroll bar."""
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width


def said(page: Page, pattern: str) -> None:
    """Wait for a sentence about what went wrong."""
    expect(page.get_by_role("alert")).to_have_text(re.compile(pattern))
