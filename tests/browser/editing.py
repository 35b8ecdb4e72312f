"""What a user does in the playground's editor, in the words of the tests."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from server.messages import ImageEdit, Job
from tests.server.fakes import FakeEngine, FakeSequence, FakeText
from tests.server.pictures import file_of, photo

SIDE = 512
PHOTO = photo(SIDE)

Fractions = tuple[float, float]
"""A place on the board: of its width from the left, and of its height from the top."""


@dataclass
class EditEngine(FakeEngine):
    """Remembers what it is given to edit."""

    edits: list[ImageEdit] = field(default_factory=list)

    def prepare(
        self, text: FakeText, negative: FakeText | None, job: Job, seed: int
    ) -> FakeSequence:
        if job.edit is not None:
            self.edits.append(job.edit)
        return super().prepare(text, negative, job, seed)


def open_picture(page: Page, image: Image.Image = PHOTO, kind: str = "PNG") -> None:
    """Choose a file, and wait until it can be edited."""
    expect(page.get_by_role("button", name="Edit a file")).to_be_visible()
    choose_file(page, f"photo.{kind.lower()}", file_of(image, kind), f"image/{kind.lower()}")
    expect(page.locator("#editor")).to_be_visible()


def choose_file(page: Page, name: str, data: bytes, media_type: str) -> None:
    """What the button "Edit a file" does once a file has been picked."""
    page.set_input_files("#file", {"name": name, "mimeType": media_type, "buffer": data})


def go(page: Page, way: str) -> None:
    """Choose "Part of it", "Around it" or "All of it"."""
    page.get_by_text(way, exact=True).click()
    expect(page.get_by_role("radio", name=way)).to_be_checked()


def drag(page: Page, start: Fractions, end: Fractions) -> None:
    """Drag the mouse over the board."""
    page.mouse.move(*on_board(page, start))
    page.mouse.down()
    page.mouse.move(*on_board(page, end), steps=4)
    page.mouse.up()


def on_board(page: Page, at: Fractions) -> tuple[float, float]:
    """Where that is in the window, in pixels."""
    page.locator("#board").scroll_into_view_if_needed()
    box = page.locator("#board").bounding_box()
    assert box is not None
    return box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"]


def saved_file(page: Page, name: str) -> bytes:
    """The file that a click on "Save NAME" gives."""
    with page.expect_download() as downloading:
        page.get_by_role("button", name=f"Save {name}").click()
    assert downloading.value.suggested_filename == name
    return Path(downloading.value.path()).read_bytes()


def mask_of(page: Page) -> Image.Image:
    """The mask as it is now."""
    mask = Image.open(io.BytesIO(saved_file(page, "mask.png"))).convert("RGB").convert("L")
    assert set(mask.get_flattened_data()) <= {0, 255}
    return mask


def white_box(mask: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge of what is marked."""
    box = mask.getbbox()
    assert box is not None, "nothing is marked"
    return box


def code_of(page: Page) -> str:
    """The command that is shown."""
    return page.locator("#code").inner_text()
