"""Take the docs' pictures of the playground: ``python -m tests.browser.screenshot``.

Starts the server with the default model, and writes ``docs/images/playground-open.png``, the page as it opens,
``docs/images/playground.png``, one picture painted on the page,
and ``docs/images/playground-edit.png``, a part of it marked to be painted anew. With names, only those.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.chromium import open_browser
from tests.browser.editing import on_board
from tests.browser.playground import ask, wait_until_painted
from tests.live_server import ROOT, running_server

EARLIER = (("a cactus on a red background", "3"), ("a strawberry, 3d, on a white background", "5"))
PROMPT, SEED = "a trophy on a navy background, cartoon style", "20"
EDITED, EDITED_SEED = "a red apple on a blue background", "1"
EDIT = "a green leaf on a blue background"
STROKE = (
    (0.3, 0.24),
    (0.42, 0.17),
    (0.55, 0.22),
    (0.68, 0.16),
    (0.72, 0.24),
    (0.55, 0.29),
    (0.4, 0.27),
)


def paint(page: Page, prompt: str, seed: str) -> None:
    """Paint one picture, with a seed that is fixed here."""
    ask(page, prompt, seed=seed)
    expect(page.locator(f"#tiles img[alt='{prompt}']")).to_have_count(1, timeout=120_000)
    wait_until_painted(page)


def painted(page: Page) -> None:
    """The gallery and the stage are filled."""
    for prompt, seed in (*EARLIER, (PROMPT, SEED)):
        paint(page, prompt, seed)
    page.locator("#paint").focus()
    page.evaluate("document.activeElement.blur()")


def editing(page: Page) -> None:
    """A part of a picture is marked."""
    paint(page, EDITED, EDITED_SEED)
    page.get_by_role("button", name=f"Edit the picture of seed {EDITED_SEED}").click()
    page.mouse.move(*on_board(page, STROKE[0]))
    page.mouse.down()
    for at in STROKE[1:]:
        page.mouse.move(*on_board(page, at), steps=8)
    page.mouse.up()
    page.fill("#prompt", EDIT)
    page.fill("#seed", "")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def opening(page: Page) -> None:
    """The pictures that the page opens on are there."""
    expect(page.locator("#showcase-list img").last).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    page.evaluate("document.getAnimations().forEach((animation) => animation.finish())")


PICTURES: dict[str, tuple[Callable[[Page], None], int]] = {
    "playground-open": (opening, 900),
    "playground": (painted, 1240),
    "playground-edit": (editing, 1100),
}
"""What is done first, and the height of the window in pixels."""


def main() -> None:
    """Parse the command line and take the pictures."""
    parser = argparse.ArgumentParser(description="Take pictures of the playground.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(PICTURES)}; all when left out"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1280)
    arguments = parser.parse_args()
    names = arguments.names or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        parser.error(f"there is no picture {unknown.pop()}; there are {', '.join(PICTURES)}")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(log=Path(folder) / "log") as server,
        open_browser() as browser,
    ):
        for name in names:
            prepare, height = PICTURES[name]
            viewport = ViewportSize(width=arguments.width, height=height)
            page = browser.new_page(viewport=viewport, color_scheme=arguments.scheme)
            page.goto(server.url)
            prepare(page)
            page.wait_for_timeout(500)  # the last picture fades in
            page.screenshot(path=arguments.folder / f"{name}.png")


if __name__ == "__main__":
    main()
